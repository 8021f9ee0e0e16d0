"""The message headers this package reads and writes, each named once, and readers that take any value for one.

Headers come from strangers: a reader returns what the header says if it is of the right type, else a default; none of
them raises, but for ``moment``. This module loads neither Kombu nor Pydantic, so that transports may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from mindtrace_jobs._times import parsed
from mindtrace_jobs.errors import DecodeError
from mindtrace_jobs.logs import job_fields

Headers = Mapping[str, Any]

# --- of this package

#: Set on jobs whose status the result backend keeps from submission on.
TRACKED: Final = "x-job-tracked"
#: ISO 8601 time at which the job was queued, by its producer's clock.
QUEUED_AT: Final = "x-job-queued-at"
#: How often work on this job began and its worker then vanished.
LOSSES: Final = "x-attempts"
#: Why, when and where a job was dead-lettered: an object.
DEAD_LETTER: Final = "x-dead-letter"

# --- of RabbitMQ and of this package's transports

#: How often the broker delivered the message before (RabbitMQ's quorum queues count so, and our transports).
DELIVERY_COUNT: Final = "x-delivery-count"
#: Set on what was delivered before.
REDELIVERED: Final = "redelivered"
#: RabbitMQ's account of how often, and why, it dead-lettered the message.
DEATHS: Final = "x-death"
#: How Kombu packed the body.
COMPRESSION: Final = "compression"

#: Headers that belong to one delivery and not to the job: a copy for another delivery leaves them out.
OF_DELIVERY: Final = frozenset({REDELIVERED, DELIVERY_COUNT, DEATHS, DEAD_LETTER, LOSSES})


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


#: Fields of Celery's task messages (protocol 1 and 2) that others do not have to read with care, and what they hold
#: unless they are None. See https://docs.celeryq.dev/en/stable/internals/protocol.html.
_CELERY_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("lang", "meth", "shadow", "group", "root_id", "parent_id", "origin"), _is_text),
    **dict.fromkeys(("argsrepr", "kwargsrepr"), _is_text),
    **dict.fromkeys(("retries", "group_index", "replaced_task_nesting"), _is_count),
    "ignore_result": lambda value: isinstance(value, bool),
    **dict.fromkeys(("headers", "stamps"), lambda value: isinstance(value, dict)),
    "stamped_headers": lambda value: isinstance(value, list | tuple) and all(map(_is_text, value)),
}


def wrong_fields(headers: Headers) -> list[str]:
    """Which fields of a task message of Celery's are not of the type that the protocol says."""
    return [
        name
        for name, is_right in _CELERY_FIELDS.items()
        if (value := headers.get(name)) is not None and not is_right(value)
    ]


def count(headers: Headers, name: str) -> int:
    """A header that counts something; 0 if it is absent, negative or no integer."""
    value = headers.get(name)
    return value if type(value) is int and value > 0 else 0


def text(headers: Headers, name: str) -> str | None:
    """A header that is text which can be written; None if it is absent or something else."""
    value = headers.get(name)
    if not isinstance(value, str):
        return None
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no server and no log takes
        return None
    return value


def moment(headers: Headers, name: str) -> datetime | None:
    """The aware time in a header such as ``eta`` or ``expires``; None if absent. Celery's naive times are UTC.

    Raises:
        DecodeError: the header is no time.
    """
    value = headers.get(name)
    if not value:
        return None
    found = parsed(value)
    if found is None:
        raise DecodeError(f"header {name!r} is not an ISO 8601 time")
    return found


def moment_or_none(headers: Headers, name: str) -> datetime | None:
    """The aware time in a header; None if it is absent or no time."""
    return parsed(headers.get(name))


def log_fields(headers: Headers, queue: str, losses: int) -> dict[str, Any]:
    """``extra`` for a log record about a message, as far as its headers tell.

    Args:
        headers: The message's.
        queue: Where it was received from.
        losses: How often work on it began and its worker vanished.
    """
    return job_fields(headers.get("id"), headers.get("task"), queue, losses + count(headers, "retries") + 1)
