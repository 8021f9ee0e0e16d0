"""Delays on RabbitMQ: queues whose messages move on to another queue when they are so many milliseconds old."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from amqp.exceptions import NotFound

#: Milliseconds for which an unused delay queue outlives its last message.
_REST = 60_000
#: Longest delay in milliseconds that a queue is asked to keep, 30 days: RabbitMQ counts them in 32 bits. Who receives a job
#: before its ETA postpones it for what is left.
_LONGEST = 30 * 86_400_000
#: Seconds after which a process says again that there may be delay queues of a magnitude; far less than the mark is kept.
_MARK_EVERY = 3600.0


class DelayQueues:
    """The delay queues of one broker, ``<queue>.delay.<milliseconds>``.

    Times are rounded up to three digits, so at most 1 % late and never early: a queue for every millisecond would be too
    many, and a time for every message would hold up those behind it.

    AMQP cannot list queues. So there is an empty queue beside them for each magnitude that was used within a month,
    ``<queue>.delay.e<power of ten>``: whoever removes delayed messages looks for these eight, and then through the 900
    names of each that is there.
    """

    def __init__(self) -> None:
        #: When a mark was last declared by this process.
        self._marked: dict[str, float] = {}

    def declare(self, channel: Any, queue: str, delay: float) -> str:
        """Make the queue for a delay of so many seconds; returns its name."""
        milliseconds, power = _three_digits(delay * 1000)
        self._mark(channel, f"{queue}.delay.e{power}")
        name = f"{queue}.delay.{milliseconds}"
        channel.queue_declare(
            name,
            durable=True,
            auto_delete=False,
            arguments={
                "x-message-ttl": milliseconds,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": queue,
                "x-expires": milliseconds + _REST,
            },
        )
        return name

    def delete(self, connection: Any, queue: str) -> int:
        """Remove all delay queues of a queue; returns how many messages they held."""
        count = 0
        with connection.channel() as channel:
            for power in _powers():
                if _exists(connection, f"{queue}.delay.e{power}"):
                    for digits in range(1 if power == 0 else 100, 1000):
                        # Of a queue that is not there it returns 0 (RabbitMQ; not AMQP 0-9-1).
                        count += channel.queue_delete(f"{queue}.delay.{digits * 10**power}") or 0
        return count

    def _mark(self, channel: Any, name: str) -> None:
        now = time.monotonic()
        if self._marked.get(name, -_MARK_EVERY) + _MARK_EVERY <= now:
            # Declaring it again keeps it for another month.
            channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-expires": _LONGEST + _REST})
            self._marked[name] = now


def _exists(connection: Any, name: str) -> bool:
    # On a channel of its own, which the answer "no such queue" closes.
    try:
        with connection.channel() as channel:
            channel.queue_declare(name, passive=True)
    except NotFound:
        return False
    return True


def _powers() -> Iterator[int]:
    """The powers of ten that delays may have."""
    yield from range(len(str(_LONGEST)) - 2)


def _three_digits(milliseconds: float) -> tuple[int, int]:
    """The next number of milliseconds with at most three digits that count, and the power of ten behind them."""
    whole = min(max(1, -int(-milliseconds // 1)), _LONGEST)
    power = max(0, len(str(whole)) - 3)
    unit: int = 10**power
    rounded = -(-whole // unit) * unit
    return rounded, max(0, len(str(rounded)) - 3)
