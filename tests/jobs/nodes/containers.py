"""pytest-celery's containers as processes of this machine: they differ in where they are reached."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pytest_celery import RabbitMQContainer, RedisContainer

from tests.jobs.nodes.handle import ProcessHandle, host_of, new_id
from tests.jobs.servers import RabbitMQServer, RedisServer, Server


class _OnThisMachine:
    """Workers and tests alike reach it by one URL, where containers have one inside and another one outside."""

    def __init__(self, server: Server, url: str) -> None:
        super().__init__(ProcessHandle(server))  # type: ignore[call-arg]
        self._address = server.address
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    @property
    def host_url(self) -> str:
        return self._url

    @property
    def hostname(self) -> str:
        return self._address[0]

    @property
    def port(self) -> int:
        return self._address[1]

    @property
    def vhost(self) -> str:
        return urlsplit(self._url).path[1:]


class ProcessRedis(_OnThisMachine, RedisContainer):  # type: ignore[misc]
    """A Redis server."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server, server.url())


class ProcessRabbitMQ(_OnThisMachine, RabbitMQContainer):  # type: ignore[misc]
    """A virtual host of a RabbitMQ node. Killing and restarting concern the whole node."""

    def __init__(self, server: RabbitMQServer, vhost: str) -> None:
        super().__init__(server, server.url(vhost))


class WorkerServer(Server):
    """A Celery worker, in a folder with the files that a container would have in its volume.

    Args:
        command: Program and arguments, with Celery's ``%h`` for the name of the host. Programs beside this Python are
            found first.
        environment: What a container would get.
        content: Relative path and bytes of each file.

    Attributes:
        id: As a container's.
    """

    name = "Worker"
    ready_text = " ready."

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], content: Mapping[str, bytes]) -> None:
        super().__init__()
        self.id = new_id()
        self._arguments = [argument.replace("%h", host_of(self.id)) for argument in command]
        self._given = dict(environment)
        for name, data in content.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def _command(self) -> list[str]:
        return self._arguments

    def _environment(self) -> dict[str, str]:
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {**os.environ, **self._given, "PATH": programs, "PYTHONPATH": str(self.folder)}
