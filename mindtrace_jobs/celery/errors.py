"""How a job tells Celery what became of it: exceptions that Celery's tracer and requests understand."""

from __future__ import annotations

import pickle
from typing import Any

from celery.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry

from mindtrace_jobs.errors import HandlerError, failure_of
from mindtrace_jobs.execution.outcome import Outcome

#: Attribute of an exception whose job is recorded and dead-lettered already: the message only has to go.
_SETTLED = "_mindtrace_settled"


class RetriesExceededError(MaxRetriesExceededError):  # type: ignore[misc]
    """The job called ``retry()`` without an error to report, and has no retries left.

    Celery's own message, which it replaces, holds the job's data.
    """

    def __init__(self, *_: Any, **arguments: Any) -> None:
        super().__init__("no retries left", **arguments)


class JobCancelled(Ignore):  # type: ignore[misc]
    """A job that was cancelled: skipped, or stopped because it was asked to."""


class JobRetried(Retry):  # type: ignore[misc]
    """A job whose copy is published: it runs again in ``when`` seconds."""


class JobReturned(Reject):  # type: ignore[misc]
    """A job that goes back to its queue as it came.

    Attributes:
        stop: Whether the worker is to stop, since the handler raised KeyboardInterrupt.
    """

    def __init__(self, reason: str, *, stop: bool = False) -> None:
        super().__init__(reason, requeue=True)
        self.stop = stop

    def __reduce__(self) -> Any:
        return _returned, (str(self.reason), self.stop)


class JobUnsettled(JobReturned):
    """A job whose end is decided and could not be carried out: the worker's main process tries again.

    Attributes:
        end: How it ends.
        written: Whether that is in its record, or on its way to it.
    """

    def __init__(self, reason: str, end: Outcome, *, written: bool) -> None:
        super().__init__(reason)
        self.end = end
        self.written = written

    def __reduce__(self) -> Any:
        return _unsettled, (str(self.reason), self.end, self.written)


def _unsettled(reason: str, end: Outcome, written: bool) -> JobUnsettled:
    return JobUnsettled(reason, end, written=written)


def _returned(reason: str, stop: bool) -> JobReturned:
    return JobReturned(reason, stop=stop)


def mark_settled(error: Exception) -> Exception:
    """The exception, marked so that ``settled`` is true of it."""
    setattr(error, _SETTLED, True)
    return error


def settled(error: BaseException) -> bool:
    """Whether the job that raised this is recorded and dead-lettered."""
    return bool(getattr(error, _SETTLED, False))


def sendable(error: BaseException) -> Exception:
    """What a handler raised, or what stands for it, marked as settled.

    The exception itself if it survives its way to another process with the mark, can be printed, and does not end the
    runner; else a HandlerError with its class's name and its text.
    """
    if isinstance(error, Exception) and not isinstance(error, MemoryError | Reject) and _survives(error):
        return error
    failure = failure_of(error)
    standing = HandlerError(failure.error, failure.error_type)
    standing.__cause__ = error
    return mark_settled(standing)


def _survives(error: Exception) -> bool:
    try:
        mark_settled(error)
        text = f"{error!r}{error}"
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
        return type(copy) is type(error) and settled(copy) and f"{copy!r}{copy}" == text
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a user's methods do
        return False
