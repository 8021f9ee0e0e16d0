"""JobHandle: a submitted job seen from where it was submitted."""

from __future__ import annotations

import time
from typing import Any, Generic

from mindtrace_jobs._arguments import check_seconds
from mindtrace_jobs.errors import JobCancelledError, JobFailedError, ResultTimeoutError, UnknownTypeError
from mindtrace_jobs.jobs import ExecutionStatus, OutputT
from mindtrace_jobs.results.record import JobRecord
from mindtrace_jobs.results.store import ResultStore

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.25


class JobHandle(Generic[OutputT]):
    """Status and typed result of a submitted job. May be made anew anywhere from the job's id."""

    def __init__(self, job_id: str, results: ResultStore) -> None:
        self.id = job_id
        self._results = results

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def record(self) -> JobRecord[OutputT]:
        """All that is recorded of the job.

        Raises:
            JobNotFoundError: nothing is, or not any more.
        """
        return self._results.get(self.id)

    def status(self) -> ExecutionStatus:
        """Where the job stands; raises as ``record`` does."""
        return self.record().status

    def wait(self, timeout: float | None = None) -> JobRecord[OutputT]:
        """Wait until the job is completed, failed or cancelled.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            ResultTimeoutError: it is none of these yet.
            JobNotFoundError: nothing is recorded of it.
        """
        check_seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            record = self.record()
            if record.status.final:
                return record
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise ResultTimeoutError(f"job {self.id} is still {record.status} after {timeout:g} s")
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def result(self, timeout: float | None = None) -> OutputT | None:
        """The typed output; None if the handler returned none. Waits as ``wait`` does.

        Raises:
            JobFailedError: the job failed; the message says why.
            JobCancelledError: it was cancelled.
            UnknownTypeError: the output's type is not defined in this process.
            ResultTimeoutError, JobNotFoundError: as ``wait``.
        """
        output: OutputT | None = output_of(self.wait(timeout))
        return output

    def cancel(self) -> bool:
        """Keep a job that still waits from being run.

        Returns:
            Whether it was still waiting. A job received in the same instant may run all the same.

        Raises:
            JobNotFoundError: nothing is recorded of it: only submitted jobs can be cancelled.
        """
        record = self._results.written(self.id)
        if record.status is not ExecutionStatus.QUEUED:
            return False
        self._results.cancel(self.id, record)
        return True


def output_of(record: JobRecord[Any]) -> Any:
    """The output in a final record, or the failure raised."""
    if record.status is ExecutionStatus.CANCELLED:
        raise JobCancelledError(f"job {record.id} was cancelled", record.id, record.error or "", "")
    if record.status is ExecutionStatus.FAILED:
        what = record.error or "no reason was recorded"
        raise JobFailedError(f"job {record.id} failed: {what}", record.id, record.error or "", record.error_type or "")
    if record.unreadable is not None:
        raise UnknownTypeError(f"job {record.id} is completed, but its output cannot be read here: {record.unreadable}")
    return record.output
