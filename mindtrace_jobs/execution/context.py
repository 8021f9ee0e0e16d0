"""JobContext: what a running job can ask and tell."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from typing import Any, Protocol

from mindtrace_jobs.errors import JobCancelledError
from mindtrace_jobs.jobs import Job
from mindtrace_jobs.logs import job_fields
from mindtrace_jobs.results import Progress

_log = logging.getLogger("mindtrace_jobs.job")


class Reporter(Protocol):
    """A context's way to the result backend."""

    def report(self, progress: Progress) -> None:
        """Record how far the job is."""

    def cancelled(self) -> bool:
        """Whether somebody has cancelled the job."""


class _JobLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the job to every record, beside what the call itself adds."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class JobContext:
    """Given to a job function that has a parameter annotated with this class.

    In a direct call, as in a unit test, and where no results are kept, nothing is recorded: ``JobContext(job)`` keeps the
    last progress in ``last_progress`` and is never cancelled.

    Attributes:
        job: The job that runs.
        attempt: 1 on the first run; grows with every retry and every lost worker.
        retries: How often it was retried after a failure.
        losses: How often work on it began and its worker vanished.
        queue: Where it came from; "" in a direct call.
        log: Adds job id, name, queue and attempt to each record.
        last_progress: What was reported last.
        interval: Seconds between two writes or looks at the result backend. Default 1.
    """

    interval = 1.0

    def __init__(
        self,
        job: Job[Any],
        reporter: Reporter | None = None,
        *,
        retries: int = 0,
        losses: int = 0,
        queue: str = "",
    ) -> None:
        self.job = job
        self.retries = retries
        self.losses = losses
        self.attempt = retries + losses + 1
        self.queue = queue
        self.last_progress: Progress | None = None
        self._reporter = reporter
        # A handler may make another job of the one it was given.
        self._id = job.id
        self._written = self._looked = float("-inf")
        self._cancelled = False
        self.log = _JobLog(_log, job_fields(job.id, job.payload.name, queue, self.attempt))

    def progress(self, current: float, total: float | None = None, message: str = "") -> None:
        """Say how far the job is. Written at most once an ``interval``, and always when ``current`` reaches ``total``.

        Raises:
            JobCancelledError: somebody has cancelled the job. Let it pass to end the job.
        """
        self.last_progress = Progress(current=current, total=total, message=message)
        now = time.monotonic()
        if self._reporter is None or (now - self._written < self.interval and current != total):
            return
        self.raise_if_cancelled()
        self._written = now
        self._reporter.report(self.last_progress)

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled the job; looked up at most once an ``interval``."""
        now = time.monotonic()
        if self._reporter is not None and not self._cancelled and now - self._looked >= self.interval:
            self._looked = now
            self._cancelled = self._reporter.cancelled()
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """End the job here if it is cancelled.

        Raises:
            JobCancelledError: it is.
        """
        if self.cancelled:
            raise JobCancelledError(f"job {self._id} was cancelled", self._id)
