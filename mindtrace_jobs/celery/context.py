"""JobContext: what a running job can ask and tell."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, TypedDict

from mindtrace_jobs.errors import JobCancelledError
from mindtrace_jobs.jobs import Job
from mindtrace_jobs.logs import job_fields
from mindtrace_jobs.message import ATTEMPTS
from mindtrace_jobs.results import Progress
from mindtrace_jobs.results.record import PROGRESS

if TYPE_CHECKING:
    from mindtrace_jobs.celery.task import JobTask

CANCELLED = "REVOKED"
_log = logging.getLogger("mindtrace_jobs.job")


def stop_mark(job_id: str) -> str:
    """Under which id the result backend keeps that a job is to stop: in its own record a report would hide it."""
    return f"{job_id}.cancel"


class DeliveryOfJob(TypedDict):
    """What a running task's request tells of the delivery: retries after failures, lost workers, the queue."""

    retries: int
    losses: int
    queue: str


def delivery_of(request: Any) -> DeliveryOfJob:
    """The delivery that a Celery request came from."""
    info = request.delivery_info or {}
    return DeliveryOfJob(
        retries=request.retries or 0, losses=request.get(ATTEMPTS) or 0, queue=info.get("routing_key") or ""
    )


class _JobLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the job to every record, beside what the call itself adds."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class JobContext:
    """Given to a job function that has a parameter annotated with this class.

    In a direct call, as in a unit test, and where the app keeps no results, nothing is recorded: ``JobContext(job)`` keeps
    the last progress in ``last_progress`` and is never cancelled.

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
        task: JobTask[Any, Any] | None = None,
        *,
        retries: int = 0,
        losses: int = 0,
        queue: str = "",
        request: Any = None,
    ) -> None:
        self.job = job
        self.retries = retries
        self.attempt = retries + losses + 1
        self.queue = queue
        self.last_progress: Progress | None = None
        self._task = task
        self._request = request
        self.losses = losses
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
        if self._task is None or (now - self._written < self.interval and current != total):
            return
        self.raise_if_cancelled()
        self._written = now
        # `attempts` for whoever has to tell how often the job was started, should this worker vanish.
        meta = {**self.last_progress.model_dump(), "attempts": self.losses + 1}
        self._task.record(self.job.id, meta, PROGRESS, self._request)

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled the job; looked up at most once an ``interval``."""
        now = time.monotonic()
        if self._task is not None and not self._cancelled and now - self._looked >= self.interval:
            self._looked = now
            self._cancelled = self._task.recorded_state(stop_mark(self.job.id)) == CANCELLED
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """End the job here if it is cancelled.

        Raises:
            JobCancelledError: it is.
        """
        if self.cancelled:
            raise JobCancelledError(f"job {self.job.id} was cancelled", self.job.id)

    def raise_if_asked(self) -> None:
        """As ``raise_if_cancelled``, for who asks on the job's behalf: a result backend that fails is not its failure."""
        try:
            self.raise_if_cancelled()
        except JobCancelledError:
            raise
        except Exception as error:
            _log.warning("job %s: not known whether it is cancelled: %s", self.job.id, error, extra=self.log.extra)
