"""Which names queues, exchanges and routing keys may have: what every broker can keep, so that one can replace another."""

from __future__ import annotations

import re

from mindtrace_jobs.clients.types import origin_queue
from mindtrace_jobs.errors import ConfigurationError

#: Longest name, in bytes, that AMQP 0-9-1 has room for.
_LONGEST = 255
#: A queue leaves room for the names of its dead-letter and delay queues, or what failed there could not be kept.
_LONGEST_QUEUE = 230
#: RabbitMQ drops line breaks from a name it declares, Redis separates the parts of its keys with control characters.
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def check_queue(name: object) -> None:
    """Raise ConfigurationError unless every broker can have a queue of this name."""
    base = origin_queue(name) if isinstance(name, str) else name
    _check(base, name, "queue", _LONGEST_QUEUE)


def check_exchange(name: object) -> None:
    """Raise ConfigurationError unless every broker can have an exchange of this name."""
    _check(name, name, "exchange", _LONGEST)


def check_routing_key(key: object) -> None:
    """Raise ConfigurationError unless every broker can route by this key. It may be empty."""
    if key != "":
        _check(key, key, "routing key", _LONGEST)


def _check(part: object, name: object, what: str, longest: int) -> None:
    if not isinstance(part, str) or _UNFIT.search(part) or not 0 < len(part.encode()) <= longest:
        raise ConfigurationError(
            f"{name!r:.80} cannot be the name of a {what}: it must be text of 1 to {longest} bytes without control "
            "characters"
        )
