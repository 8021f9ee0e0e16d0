"""How work on a job begins and ends: recorded, acknowledged, retried or dead-lettered."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from mindtrace_jobs.clients import Client
from mindtrace_jobs.deadletter import Reason
from mindtrace_jobs.errors import BrokerError, EncodeError, RejectJob, RetryJob, summary
from mindtrace_jobs.intake import Intake, Taken
from mindtrace_jobs.jobs import ExecutionStatus, JobOutput
from mindtrace_jobs.results import ResultStore
from mindtrace_jobs.retry import RetryPolicy
from mindtrace_jobs.transports.protocol import Record

log = logging.getLogger("mindtrace_jobs.settle")

#: Seconds between the tries to record an output.
_RECORD_PAUSES = (0.1, 0.5, 2.0)


class Settlement:
    """Begins and ends the work on taken jobs.

    Args:
        client, results, intake: Where the job came from, is recorded, and is dead-lettered.
    """

    def __init__(self, client: Client, results: ResultStore, intake: Intake) -> None:
        self._client = client
        self._results = results
        self._intake = intake

    def begin(self, taken: Taken, *, marked: bool = True) -> bool:
        """Work starts now: the job is running, and the broker knows in case this process vanishes.

        Args:
            taken: The job.
            marked: Whether the broker has to know; not of a job that is acknowledged at once.

        Returns:
            Whether it is to run. One that was cancelled is acknowledged and skipped.
        """
        job, delivery = taken.job, taken.delivery
        job._assign(status=ExecutionStatus.RUNNING, started_at=datetime.now(UTC))
        if taken.tracked and self._results.on_broker:
            if delivery.begin(self._results.record_of(job, attempts=taken.starts)):
                return True
            self._intake.skip(taken)
            return False
        self._record(taken)
        if marked:
            delivery.mark_started()
        return True

    def complete(self, taken: Taken) -> None:
        """The work is done: record the output, then acknowledge.

        Raises:
            LeaseLostError: somebody else has the job by now, and records what comes of it.
            BrokerError: the output could not be recorded, so the job is not acknowledged: its result would be lost.
        """
        taken.delivery.confirm()
        job = taken.job
        job._assign(status=ExecutionStatus.COMPLETED, completed_at=datetime.now(UTC))
        record: Record | None = None
        if taken.tracked:
            try:
                if self._results.on_broker:
                    record = self._results.record_of(job, attempts=taken.starts)
                else:
                    self._record_output(taken)
            except EncodeError as error:
                job.error = summary(error)
                self._bury(taken, Reason.INVALID_OUTPUT, error)
                return
        taken.delivery.acknowledge(record)
        if log.isEnabledFor(logging.INFO):
            log.info("job %s completed", job.id, extra={"action": "complete_job", **taken.log_fields})

    def _record_output(self, taken: Taken) -> None:
        for pause in (*_RECORD_PAUSES, None):
            try:
                self._results.save(taken.job, attempts=taken.starts)
            except BrokerError:
                if pause is None:
                    raise
                time.sleep(pause)
            else:
                return

    def fail(self, taken: Taken, error: BaseException, policy: RetryPolicy) -> None:
        """The work failed: run it again later if the policy allows, else dead-letter it. A dead letter stays one.

        Raises:
            LeaseLostError: somebody else has the job by now, and decides.
        """
        taken.delivery.confirm()
        job, retries = taken.job, taken.retries
        job.error = f"{type(error).__name__}: {summary(error)}"
        if isinstance(error, RejectJob):
            self._bury(taken, Reason.REJECTED, error)
        elif isinstance(error, InvalidOutputError):
            self._bury(taken, Reason.INVALID_OUTPUT, error)
        elif taken.delivery.dead or retries >= policy.max_retries:
            self._bury(taken, Reason.RETRIES_EXHAUSTED, error)
        else:
            pause = error.delay if isinstance(error, RetryJob) else None
            self._retry(taken, policy.delay(retries) if pause is None else max(0.0, pause))

    def _retry(self, taken: Taken, pause: float) -> None:
        job = taken.job
        eta = (datetime.now(UTC) + timedelta(seconds=pause)).isoformat()
        message = taken.delivery.message
        headers = {**message.headers, "retries": taken.retries + 1, "eta": eta}
        # Before publishing, as whoever takes the copy may be quick to record more.
        job.status = ExecutionStatus.QUEUED
        self._record(taken)
        # The copy is there before the original goes.
        self._client.publish(replace(message, headers=headers), queue=taken.delivery.queue, delay=pause)
        taken.delivery.acknowledge()
        log.info(
            "job %s failed (%s), retry %d in %.1f s",
            job.id,
            job.error,
            taken.retries + 1,
            pause,
            extra={"action": "retry_job", **taken.log_fields},
        )

    def _bury(self, taken: Taken, reason: Reason, error: BaseException) -> None:
        taken.job.status, taken.job.completed_at = ExecutionStatus.FAILED, datetime.now(UTC)
        self._record(taken, error)
        self._intake.bury(taken.delivery, reason, error, recorded=True)

    def _record(self, taken: Taken, error: BaseException | None = None) -> None:
        if taken.tracked:
            self._intake.record(
                lambda: self._results.save(taken.job, attempts=taken.starts, error=error), taken.log_fields
            )


class InvalidOutputError(Exception):
    """The handler returned something that is not the schema's output type."""


def set_output(taken: Taken, output: Any) -> None:
    """Put what a handler returned into the job; None leaves what the handler put there itself.

    Raises:
        InvalidOutputError: it is not of the schema's output type.
    """
    if output is None:
        return
    payload = taken.job.payload
    try:
        payload.output = output
    except ValidationError as error:
        expected = type(payload).output_type()
        what = "JobOutput" if expected is JobOutput else expected.__name__
        raise InvalidOutputError(f"the handler returned {type(output).__name__}, not {what}") from error
