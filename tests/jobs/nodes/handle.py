"""A server process that looks like one of docker-py's containers, as far as pytest-celery looks at one."""

from __future__ import annotations

import os
import secrets
import shlex
import signal as signals
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.jobs.servers import Server


def new_id() -> str:
    """What Docker would give a container as its id."""
    return secrets.token_hex(32)


def host_of(container_id: str) -> str:
    """The name of the host that the programs in a container see."""
    return container_id[:12]


class ExecResult(NamedTuple):
    """What a command in a container gives."""

    exit_code: int
    output: bytes


class ProcessHandle:
    """The interface of ``docker.models.containers.Container`` over a server that is a process.

    Args:
        server: What runs in it; started by the caller.
        container_id: 64 hexadecimal digits; a new one by default.

    Attributes:
        id: As given.
        name: Kind of server and host name.
    """

    def __init__(self, server: Server, container_id: str | None = None) -> None:
        self._server = server
        self.id = container_id or new_id()
        self.name = f"{server.name.lower()}-{host_of(self.id)}"

    @property
    def status(self) -> str:
        """``running`` or ``exited``, as it is now."""
        return "running" if self._server.running else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        """What ``docker inspect`` would show. No networks and no ports: there is none to wait for."""
        return {
            "Id": self.id,
            "Config": {
                "Hostname": host_of(self.id),
                "Env": [f"{name}={value}" for name, value in self._server._environment().items()],
            },
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
        }

    def reload(self) -> None:
        """Does nothing: everything is looked up when it is asked for."""

    def logs(self) -> bytes:
        """All that it has written, over all its starts."""
        return self._server.log.read_bytes() if self._server.log.exists() else b""

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal, by name or number. SIGKILL, the default, ends the children too, and is waited for."""
        number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal or signals.SIGKILL)
        if number is signals.SIGKILL:
            self._server.kill()
        else:
            os.kill(self._server.pid, number)

    def restart(self, timeout: float = 10) -> None:
        """Stop it in order if it runs, start it, and wait until it is ready. How long is the server's to say.

        Raises:
            ServerError: It did not stop, or ended before it was ready; with the tail of its log.
        """
        self._server.restart()

    def exec_run(self, cmd: str | Sequence[str]) -> ExecResult:
        """Run a command in the server's folder and environment, for a minute at most."""
        done = subprocess.run(
            shlex.split(cmd) if isinstance(cmd, str) else cmd,
            cwd=self._server.folder,
            env=self._server._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        return ExecResult(done.returncode, done.stdout)
