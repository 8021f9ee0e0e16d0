"""Log records say which job they are about: its id, name, queue and attempt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

#: What a record about a job carries. ``attempt`` is 1 on the first run and grows with every retry and lost worker.
FIELDS = ("job_id", "job_name", "queue", "attempt")

_running: ContextVar[Mapping[str, Any] | None] = ContextVar("mindtrace_jobs.running", default=None)


#: Longest text of a stranger's in a log record, in characters.
_LONGEST = 1000


def shown(value: object) -> str | None:
    """A stranger's text for a log record: on one line, without control characters, bounded. None stays None."""
    if value is None:
        return None
    text = value if isinstance(value, str) else repr(value)
    text = text if text.isprintable() else "".join(map(_printable, text[:_LONGEST]))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()


def job_fields(job_id: object, job_name: object, queue: str, attempt: int) -> dict[str, Any]:
    """``extra`` for a record about a job."""
    return dict(zip(FIELDS, (shown(job_id), shown(job_name), queue, attempt), strict=True))


def begin(fields: Mapping[str, Any]) -> Token[Mapping[str, Any] | None]:
    """From here to ``end``, what is logged in this context is about the job of these fields."""
    return _running.set(fields)


def end(token: Token[Mapping[str, Any] | None]) -> None:
    """Undo a ``begin``."""
    _running.reset(token)


@contextmanager
def running(fields: Mapping[str, Any]) -> Iterator[None]:
    """What is logged in the block is about the job of these fields."""
    token = begin(fields)
    try:
        yield
    finally:
        end(token)


class JobLogFilter(logging.Filter):
    """Puts ``job_id``, ``job_name``, ``queue`` and ``attempt`` on every record that is made while a job runs.

    It belongs on handlers, since the filters of a logger do not see what the loggers below it log. A field that a record
    has already stays as it is.

    Args:
        default: What the fields of all other records say, so that a format may name them. None leaves those records as
            they are, for formats that write whatever a record has.
    """

    def __init__(self, default: str | None = None) -> None:
        super().__init__()
        self.default = default

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        fields = _running.get()
        if fields is None:
            if self.default is None:
                return True
            fields = dict.fromkeys(FIELDS, self.default)
        for name, value in fields.items():
            record.__dict__.setdefault(name, value)
        return True
