"""A throw-away RabbitMQ node, with its own Erlang port mapper, cookie and folders beside any other node."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from tests.jobs.servers.base import HOST, Server, free_port
from tests.jobs.servers.errors import ServerError, find_program
from tests.jobs.servers.process import ServerProcess

#: Environment variable: use this RabbitMQ server instead of starting one.
RABBITMQ_URL_VARIABLE = "MINDTRACE_TEST_RABBITMQ_URL"

_PACKAGE = "rabbitmq-server"
# Both the node and the command-line tools would listen on every interface.
_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
_CONFIG = """\
log.console = true
log.console.level = info
default_user = {user}
default_pass = {password}
loopback_users = none
# A developer's nearly full disk must not block publishers.
disk_free_limit.absolute = 1MB
"""


def check_rabbitmq() -> None:
    """Make sure that a RabbitMQ node can be started.

    Raises:
        MissingProgramError: RabbitMQ or Erlang is not installed.
    """
    _script("rabbitmq-server")
    find_program("epmd", "erlang-base", RABBITMQ_URL_VARIABLE)


def _script(program: str) -> Path:
    found = find_program(program, _PACKAGE, RABBITMQ_URL_VARIABLE)
    # Debian's program on PATH is a wrapper that changes to the user rabbitmq: not possible for everybody, and that
    # user cannot read our folders. The script behind it runs as whoever calls it.
    behind = found.parent.parent / "lib" / "rabbitmq" / "bin" / program
    return behind if behind.exists() else found


class RabbitMQServer(Server):
    """One RabbitMQ node on free ports, with the user :attr:`user` that may do all in each virtual host made here.

    A start takes 5 to 20 s: share a node and give each test a virtual host of its own.

    Args:
        plugins: Names of plug-ins to enable, as ``["rabbitmq_management"]``.
        config: Further lines for ``rabbitmq.conf``.

    Raises:
        MissingProgramError: RabbitMQ or Erlang is not installed.
    """

    name = "RabbitMQ"
    ready_text = "Server startup complete"
    start_timeout = 90.0

    def __init__(self, *, plugins: Iterable[str] = (), config: str = "") -> None:
        check_rabbitmq()
        super().__init__()
        self.user = "tester"
        self.password = secrets.token_hex(8)
        self.node = f"t{self.port}@localhost"
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._epmd: ServerProcess | None = None
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self.folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        conf = _CONFIG.format(user=self.user, password=self.password) + config
        (self.folder / "rabbitmq.conf").write_text(conf)

    def url(self, vhost: str = "/", *, user: str | None = None, password: str | None = None) -> str:
        """``amqp://`` URL of a virtual host, for :attr:`user` unless another one is named."""
        name, secret = (self.user, self.password) if user is None else (user, password or "")
        return f"amqp://{quote(name, safe='')}:{quote(secret, safe='')}@{HOST}:{self.port}/{quote(vhost, safe='')}"

    def launch(self) -> None:
        """As the base class, with the port mapper first."""
        if self._epmd is None or not self._epmd.running:
            program = find_program("epmd", "erlang-base", RABBITMQ_URL_VARIABLE)
            self._epmd = ServerProcess(
                "epmd (Erlang's port mapper)",
                [str(program), "-port", str(self._epmd_port), "-address", HOST],
                folder=self.folder,
                log=self.folder / "epmd.log",
                env=self._environment(),
            )
            # A node that finds no port mapper starts one itself, as a daemon that would outlive the tests.
            self._epmd.wait_for_port((HOST, self._epmd_port), timeout=self.start_timeout)
        super().launch()

    def rabbitmqctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run ``rabbitmqctl`` against this node (0.5 s and more) and return what it printed.

        Raises:
            ServerError: It failed, or took longer than ``timeout`` seconds; with its output.
        """
        command = [str(_script("rabbitmqctl")), "--quiet", "-n", self.node, *arguments]
        try:
            done = subprocess.run(
                command,
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"rabbitmqctl {arguments[0]} took longer than {timeout:g} s") from error
        if done.returncode:
            raise ServerError(f"rabbitmqctl {arguments[0]} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout

    def add_vhosts(self, names: Iterable[str]) -> None:
        """Create virtual hosts in which :attr:`user` may do all; one command whatever their number.

        Raises:
            ServerError: As :meth:`rabbitmqctl`.
        """
        vhosts = list(names)
        everything = {"user": self.user, "configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "vhosts": [{"name": name} for name in vhosts],
            "permissions": [{"vhost": name, **everything} for name in vhosts],
        }
        path = self.folder / f"definitions-{secrets.token_hex(4)}.json"
        path.write_text(json.dumps(definitions))
        self.rabbitmqctl("import_definitions", str(path))
        path.unlink()

    def add_vhost(self, name: str | None = None) -> str:
        """Create one virtual host (named at random if no name is given) and return its name.

        Raises:
            ServerError: As :meth:`rabbitmqctl`.
        """
        vhost = name or f"test-{secrets.token_hex(4)}"
        self.add_vhosts([vhost])
        return vhost

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it; its connections are closed by the server.

        Raises:
            ServerError: As :meth:`rabbitmqctl`; there is none of that name.
        """
        self.rabbitmqctl("delete_vhost", name)

    def add_user(self, name: str, password: str, *, vhost: str | None = None) -> None:
        """Create a user; with ``vhost``, one that may do all there, else one that may do nothing.

        Raises:
            ServerError: As :meth:`rabbitmqctl`.
        """
        self.rabbitmqctl("add_user", name, password)
        if vhost is not None:
            self.rabbitmqctl("set_permissions", "-p", vhost, name, ".*", ".*", ".*")

    def stop_app(self) -> None:
        """Stop the broker inside the node: listeners and connections close, durable data stays. Faster than stop."""
        self.rabbitmqctl("stop_app")

    def start_app(self) -> None:
        """Undo :meth:`stop_app`; returns when clients can connect."""
        self.rabbitmqctl("start_app")

    def close_connections(self, reason: str = "closed by a test") -> None:
        """Have the server close all its client connections (CONNECTION_FORCED)."""
        self.rabbitmqctl("close_all_connections", reason)

    def kill(self) -> None:
        """``kill -9`` of the node and its port mapper."""
        super().kill()
        if self._epmd is not None:
            self._epmd.kill()

    def _command(self) -> list[str]:
        return [str(_script("rabbitmq-server"))]

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        ours = {
            "HOME": str(folder),  # where Erlang looks for the cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            # Absent on purpose: the machine's own must not be read.
            "RABBITMQ_CONF_ENV_FILE": str(folder / "absent.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "absent.config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK_ONLY,
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
            # The script then becomes the node instead of waiting for it: our signals reach the node itself.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "LANG": "C.UTF-8",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return {**inherited, **ours}
