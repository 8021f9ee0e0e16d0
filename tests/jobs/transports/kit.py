"""What tests of the transports share: connections, and what is done with their channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from kombu import Connection, Consumer, Producer, Queue

from mindtrace_jobs.transports import our_url, register_aliases
from mindtrace_jobs.transports.contract import QUEUE_TYPE_ARGUMENT
from tests.jobs.servers import wait_until

#: Opens a connection, with these transport options.
Connect = Callable[..., Any]
#: Seconds after which a test that hangs fails; never a measure of speed.
PATIENCE = 30.0
#: How a queue looks through ``counts`` that holds nothing.
EMPTY = (0, 0, 0)


class Transport(NamedTuple):
    """A transport under test, and where it finds an empty broker."""

    name: str
    url: str


@contextmanager
def connections_to(url: str) -> Iterator[Connect]:
    """Opens connections, and closes them in the end."""
    register_aliases()
    opened: list[Any] = []

    def connect(**options: Any) -> Any:
        opened.append(Connection(our_url(url), transport_options=options))
        return opened[-1]

    yield connect
    for one in opened:
        one.release()


def publish(channel: Any, body: Any, queue: str = "q", **options: Any) -> None:
    """Publish to a queue, or with ``exchange`` and ``routing_key`` elsewhere."""
    target = {"exchange": "", "routing_key": queue} | options
    Producer(channel, auto_declare=False).publish(body, serializer="json", **target)


def get(channel: Any, queue: str = "q", no_ack: bool = False) -> Any:
    """The next message, which must be there."""
    message = channel.basic_get(queue, no_ack=no_ack)
    assert message is not None, f"nothing in {queue}"
    return message


def bodies(channel: Any, queue: str = "q") -> list[Any]:
    """Take everything that is ready, for good."""
    taken = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        taken.append(message.payload)
    return taken


def peeked(channel: Any, limit: int = 1000, queue: str = "q") -> list[Any]:
    """The bodies of what is ready, left where it is."""
    return [channel.Message(raw, channel=channel).payload for raw in channel.peek(queue, limit)]


def counts(channel: Any, queue: str = "q") -> tuple[int, int, int]:
    """How many messages are ready, unacknowledged and delayed."""
    stats = channel.queue_stats(queue)
    return stats["ready"], stats["unacknowledged"], stats["delayed"]


def declare(channel: Any, queue_type: str, queue: str = "q") -> None:
    """Make a durable queue of a type; "" makes it plain."""
    arguments = {QUEUE_TYPE_ARGUMENT: queue_type} if queue_type else None
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)


def consume(channel: Any, *queues: str, prefetch: int = 0, no_ack: bool = False) -> list[Any]:
    """Register a consumer for each queue ("q"); returns the list that their messages are added to."""
    received: list[Any] = []
    channel.basic_qos(0, prefetch, False)
    for queue in queues or ("q",):
        consumer = Consumer(
            channel, [Queue(queue)], auto_declare=False, no_ack=no_ack, tag_prefix=queue, on_message=received.append
        )
        consumer.consume()
    return received


def drain(connection: Any, received: list[Any], count: int) -> list[Any]:
    """Drain a connection until so many messages were received."""
    while len(received) < count:
        connection.drain_events(timeout=PATIENCE)
    return received


def drain_all(connection: Any) -> None:
    """Deliver what is ready."""
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0)


def wait_for(channel: Any, expected: tuple[int, int, int], queue: str = "q") -> None:
    """Wait until ``counts`` are these."""
    wait_until(lambda: counts(channel, queue) == expected, f"{queue} holds {expected}")


def requeue(message: Any, *, front: bool) -> None:
    """Requeue a held message: as the next one, as our clients do, or as the last one, as Kombu does."""
    if front:
        message.channel.requeue(message.delivery_tag)
    else:
        message.requeue()
