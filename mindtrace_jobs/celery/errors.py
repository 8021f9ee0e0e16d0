"""Failures of job tasks, made so that a Celery result backend returns them as they were raised.

Celery's JSON result keeps an exception's class and ``args``, and calls the class with them when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery.exceptions import Ignore, MaxRetriesExceededError

from mindtrace_jobs.errors import InvalidPayloadError, JobsError


class InvalidInputError(InvalidPayloadError):
    """What the producer sent does not fit the schema's input type; ``errors`` lists each field.

    Each offence is ``{"field", "message", "type"}``, without the value.
    """

    def __init__(self, message: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message, errors)
        self.args = (message, self.errors)

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidOutputError(InvalidInputError):
    """The function returned something that does not fit the schema's output type; ``errors`` as for input."""


class WorkerLostError(JobsError):
    """The process that ran the job vanished too often: killed, or out of memory."""


class JobExpiredError(JobsError):
    """The job was taken after the time up to which it was to run."""


class RetriesExceededError(MaxRetriesExceededError):  # type: ignore[misc]
    """The job called ``retry()`` without an error to report, and has no retries left.

    Celery's own message, which it replaces, holds the job's data.
    """

    def __init__(self, *_: Any, **arguments: Any) -> None:
        super().__init__("no retries left", **arguments)


class CancelledIgnore(Ignore):  # type: ignore[misc]
    """Tells the worker that a job was cancelled: skipped, or stopped because it was asked to."""
