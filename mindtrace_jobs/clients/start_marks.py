"""Marks on RabbitMQ that work on a message began once more: each is an empty queue, known by its name alone.

A queue needs no message, so it can be declared while publishing is blocked by a memory or disk alarm; it survives a
restart, and is removed by the broker if nobody does so. See https://www.rabbitmq.com/docs/ttl#queue-ttl.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from amqp.exceptions import NotFound

from mindtrace_jobs.clients.session import Session

T = TypeVar("T")

#: Milliseconds after which a mark that nobody looks at is removed by the broker: one day.
_EXPIRES = 86_400_000


class Runner(Protocol):
    """The part of a client that lends a session."""

    def run(self, work: Callable[[Session], T]) -> T:
        """Call a function with a session."""


class QueueMarks:
    """Start marks of one RabbitMQ client.

    Args:
        client: Where they are kept.
    """

    def __init__(self, client: Runner) -> None:
        self._client = client

    def count(self, key: str) -> int:
        """The number of marks for a message."""

        def work(session: Session) -> int:
            number = 0
            while _exists(session, _name(key, number + 1)):
                number += 1
            return number

        return self._client.run(work)

    def add(self, key: str, number: int) -> int:
        """Make the ``number``-th mark; returns the number."""

        def work(session: Session) -> int:
            session.channel.queue_declare(
                _name(key, number), durable=True, auto_delete=False, arguments={"x-expires": _EXPIRES}
            )
            return number

        return self._client.run(work)

    def remove(self, key: str, count: int) -> int:
        """Remove the first ``count`` marks; returns how many."""

        def work(session: Session) -> int:
            for number in range(count, 0, -1):
                session.channel.queue_delete(_name(key, number))
            return count

        return self._client.run(work)


def _name(key: str, number: int) -> str:
    return f"mindtrace.starts.{key}.{number}"


def _exists(session: Session, queue: str) -> bool:
    # The answer "not found" closes the channel it comes over.
    with suppress(NotFound), session.connection.channel() as channel:
        channel.queue_declare(queue, passive=True)
        return True
    return False
