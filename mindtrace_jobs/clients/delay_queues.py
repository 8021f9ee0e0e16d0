"""Delays on RabbitMQ: a delayed message waits in up to three queues, one after the other, and then moves to its own.

A delay is rounded up to three digits, so it is at most 1 % late and never early. Each digit is a wait of its own: 35.2
seconds are spent in ``<queue>.delay.2.30000``, ``<queue>.delay.1.5000`` and ``<queue>.delay.0.200``, named after the waits
that are still to come and the milliseconds of this one. So a few dozen queues do for any number of delays. (Messages of
different delays cannot share a queue: the first would hold up the others.) Between the queues are topic exchanges,
``<queue>.delay.<waits to come>``, that read the waits in the routing key, ``30000.5000.200``.

The queues are quorum queues that forget a message when the next queue has confirmed it, so neither a target that is full or
gone nor the death of the broker loses a job. Classic queues do not wait for that word. A message that is refused is offered
again every three minutes. See https://www.rabbitmq.com/docs/quorum-queues#dead-lettering.

Each priority but 0 has queues of its own, ``<queue>.delay.p<priority>.<waits to come>.<milliseconds>``: from RabbitMQ 4 on a
quorum queue orders by priority, and looks only at its first message to see whether time is up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from amqp.exceptions import NotFound

from mindtrace_jobs.jobs import MAX_PRIORITY

#: Longest delay in milliseconds that queues are asked to keep, 30 days. Who receives a job before its ETA postpones it for
#: what is left.
_LONGEST: Final = 30 * 86_400_000
#: Milliseconds for which a queue outlives the last use of its name: the longest delay, and half as much again for messages
#: that the target does not take. RabbitMQ counts them in 32 bits.
_EXPIRES: Final = 45 * 86_400_000
#: Longest name in bytes that the names of delay queues begin with; a longer one is replaced by its hash.
_LONGEST_BASE: Final = 200
#: Digits to which delays are rounded up, and so the most waits of one message.
_DIGITS: Final = 3
#: Keeps a message until the next queue has it. The strategy asks for the overflow; there is no limit to reach.
_SAFE: Final = {
    "x-queue-type": "quorum",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-expires": _EXPIRES,
}


def declare(channel: Any, queue: str, delay: float, priority: int) -> tuple[str, str]:
    """Make the queues for a delay of so many seconds; returns the exchange and the routing key to publish with."""
    prefix = _prefix(queue, priority)
    _declare_exchange(channel, _mark(queue))
    waits = _waits(delay * 1000)
    for to_come, wait in enumerate(reversed(waits)):
        name = f"{prefix}.{to_come}.{wait}"
        channel.queue_declare(
            name,
            durable=True,
            auto_delete=False,
            nowait=True,
            arguments={**(_next(prefix, to_come) if to_come else _last(queue)), **_SAFE, "x-message-ttl": wait},
        )
        _declare_exchange(channel, f"{prefix}.{to_come}")
        # The last answer is waited for: what the broker has against any of these comes in its place.
        channel.queue_bind(name, f"{prefix}.{to_come}", _pattern(to_come, wait), nowait=to_come < len(waits) - 1)
    return f"{prefix}.{len(waits) - 1}", ".".join(map(str, waits))


def delete(connection: Any, queue: str, *, exchanges: bool = False) -> int:
    """Remove all delay queues of a queue, and if so said their exchanges.

    Returns:
        How many messages they held. RabbitMQ does not count those that the target had refused.
    """
    if not _exists(connection, _mark(queue)):
        return 0
    count = 0
    with connection.channel() as channel:
        for prefix in (_prefix(queue, priority) for priority in range(MAX_PRIORITY + 1)):
            # AMQP cannot list queues. Whatever is delayed passes through the last exchange.
            if not _exists(connection, f"{prefix}.0"):
                continue
            for to_come in range(_DIGITS):
                for wait in _all_waits():
                    # Of a queue that is not there it returns 0 (RabbitMQ; not AMQP 0-9-1).
                    count += channel.queue_delete(f"{prefix}.{to_come}.{wait}") or 0
                if exchanges:
                    channel.exchange_delete(f"{prefix}.{to_come}")
    return count


def _prefix(queue: str, priority: int) -> str:
    name = queue.encode()
    # RabbitMQ cuts its error texts at 252 bytes, in the middle of a character if need be, and py-amqp then cannot read them.
    base = queue if len(name) <= _LONGEST_BASE else hashlib.sha256(name).hexdigest()
    return f"{base}.delay.p{min(priority, MAX_PRIORITY)}" if priority else f"{base}.delay"


def _mark(queue: str) -> str:
    """An exchange that is there if any message of a queue was ever delayed, of whatever priority."""
    return f"{_prefix(queue, 0)}.0"


def _declare_exchange(channel: Any, name: str) -> None:
    channel.exchange_declare(name, "topic", durable=True, auto_delete=False, nowait=True)


def _next(prefix: str, to_come: int) -> dict[str, Any]:
    # With no routing key here a message keeps its own.
    return {"x-dead-letter-exchange": f"{prefix}.{to_come - 1}"}


def _last(queue: str) -> dict[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}


def _pattern(to_come: int, wait: int) -> str:
    """Matches the routing keys in which so many waits come after this one."""
    return f"#.{wait}" + ".*" * to_come


def _waits(milliseconds: float) -> list[int]:
    """A time as the digits to wait for one after the other: 35,111 ms as 30,000 and 5,000 and 200."""
    whole = min(max(1, -int(-milliseconds // 1)), _LONGEST)
    unit = 10 ** max(0, len(str(whole)) - _DIGITS)
    rounded = str(-(-whole // unit) * unit)
    return [int(digit) * 10**power for power, digit in enumerate(reversed(rounded)) if digit != "0"][::-1]


def _all_waits() -> Iterator[int]:
    """All waits that a delay may have."""
    for power in range(len(str(_LONGEST))):
        yield from range(10**power, 10 ** (power + 1), 10**power)


def _exists(connection: Any, exchange: str) -> bool:
    # On a channel of its own, which the answer "no such exchange" closes.
    try:
        with connection.channel() as channel:
            channel.exchange_declare(exchange, "topic", passive=True)
    except NotFound:
        return False
    return True
