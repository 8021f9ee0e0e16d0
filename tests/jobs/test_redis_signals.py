"""One connection for commands, whoever sends them and whenever."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.jobs.redis_channels import connection, server
from tests.jobs.servers import wait_until


@pytest.fixture
def wire(redis_url: str) -> Iterator[Any]:
    with connection(redis_url) as source:
        yield source.default_channel.connections.commands


def blocked(client: redis.Redis) -> bool:
    return any(other["cmd"] == "blpop" for other in client.client_list())


def test_a_signal_handler_may_speak_in_the_midst_of_a_command(wire: Any, redis_url: str) -> None:
    """As Celery's does at a cold shutdown: it cancels consumers, wherever the main thread is."""
    said: list[Any] = []

    def handle(*_: Any) -> None:
        said.append(wire.call("ECHO", "handler"))

    def interrupt() -> None:
        with server(redis_url) as client:
            wait_until(lambda: blocked(client), "the command")
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: said, "the handler's reply", timeout=10)
            client.rpush("list", "reply")

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert wire.call("BLPOP", "list", "20") == [b"list", b"reply"]
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert said == [b"handler"]
    assert wire.call("ECHO", "after") == b"after"
