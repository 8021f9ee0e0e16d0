"""What the tests of the memory transport share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from kombu import Connection, Producer

from mindtrace_jobs.transports.memory import Transport

Connect = Callable[[], Any]
#: Seconds after which a test that hangs fails; never a measure of speed.
PATIENCE = 30.0


@contextmanager
def own_broker() -> Iterator[Connect]:
    """Opens connections to a broker that no other test uses, and closes them in the end."""
    broker_id = str(uuid4())
    opened: list[Any] = []

    def new() -> Any:
        opened.append(Connection("memory://", transport=Transport, transport_options={"broker_id": broker_id}))
        return opened[-1]

    yield new
    for connection in opened:
        connection.release()


def publish(channel: Any, body: str, queue: str = "q", **options: Any) -> None:
    target = {"exchange": "", "routing_key": queue} | options
    Producer(channel, auto_declare=False).publish(body, serializer="json", **target)


def get(channel: Any, queue: str = "q", no_ack: bool = False) -> Any:
    message = channel.basic_get(queue, no_ack=no_ack)
    assert message is not None, f"nothing in {queue}"
    return message


def bodies(channel: Any, queue: str = "q") -> list[Any]:
    """Take and acknowledge everything that is ready."""
    taken = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        taken.append(message.payload)
    return taken


def counts(channel: Any, queue: str = "q") -> tuple[int, int, int]:
    stats = channel.queue_stats(queue)
    return stats["ready"], stats["unacknowledged"], stats["delayed"]


def declare(channel: Any, queue_type: str, queue: str = "q") -> None:
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-job-queue": queue_type})


def drain_all(connection: Any) -> None:
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the clock alone brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.005)
