"""A throw-away Redis server."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from tests.jobs.servers.base import HOST, Server
from tests.jobs.servers.errors import find_program

#: Environment variable: use this Redis server instead of starting one.
REDIS_URL_VARIABLE = "MINDTRACE_TEST_REDIS_URL"
#: Databases of a server that is started here; each test gets the next one.
DATABASES = 512


def check_redis() -> None:
    """Make sure that a Redis server can be started.

    Raises:
        MissingProgramError: ``redis-server`` is not installed.
    """
    find_program("redis-server", "redis-server", REDIS_URL_VARIABLE)


class RedisServer(Server):
    """``redis-server`` on a free port.

    Args:
        appendonly: Keep data over :meth:`kill` and :meth:`restart` (append-only file, synced at every write).
        password: ``requirepass``; None: no password.
        arguments: Further arguments, as ``["--maxmemory", "8mb"]``.

    Raises:
        MissingProgramError: ``redis-server`` is not installed.
    """

    name = "Redis"
    ready_text = "Ready to accept connections"

    def __init__(self, *, appendonly: bool = False, password: str | None = None, arguments: Sequence[str] = ()) -> None:
        self._program = find_program("redis-server", "redis-server", REDIS_URL_VARIABLE)
        super().__init__()
        self.password = password
        self._options = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if appendonly else "no",
            # With "everysec" a write may stay in the server's memory while a sync runs: SIGKILL would lose it.
            "appendfsync": "always",
            "daemonize": "no",
            "databases": str(DATABASES),
            "logfile": "",
        }
        if password is not None:
            self._options["requirepass"] = password
        self._arguments = list(arguments)

    def url(self, database: int = 0) -> str:
        """``redis://`` URL of a database, with the password if there is one."""
        credentials = "" if self.password is None else f":{quote(self.password, safe='')}@"
        return f"redis://{credentials}{HOST}:{self.port}/{database}"

    def _command(self) -> list[str]:
        options = [part for key, value in self._options.items() for part in (f"--{key}", value)]
        return [str(self._program), *options, *self._arguments]
