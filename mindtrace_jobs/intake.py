"""From a delivery to a job that may run: the checks every taker makes, in one place.

A delivery that is no job, names an unknown type, has expired or killed too many workers is dead-lettered; one that was
cancelled is acknowledged and skipped; one that is not yet due goes back to wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mindtrace_jobs.clients import Client, Delivery
from mindtrace_jobs.deadletter import DeadLetters, Reason, reason_for
from mindtrace_jobs.errors import DecodeError, JobsError, summary
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobSchema
from mindtrace_jobs.logs import job_fields
from mindtrace_jobs.message import ATTEMPTS, TRACKED, Message, decode, due
from mindtrace_jobs.results import ResultStore
from mindtrace_jobs.retry import RetryPolicy

log = logging.getLogger("mindtrace_jobs.intake")


@dataclass(slots=True)
class Taken:
    """A job in hand: acknowledge ``delivery`` when its work is done."""

    job: Job[Any]
    delivery: Delivery
    #: Whether its status is kept in the result backend.
    tracked: bool
    #: How often work on it began before.
    attempts: int

    @property
    def starts(self) -> int:
        """How often work on it began, this time included: after failures and after lost workers."""
        return self.attempts + self.retries + 1

    @property
    def log_fields(self) -> dict[str, Any]:
        """``extra`` of log records about it."""
        return job_fields(self.job.id, self.job.payload.name, self.delivery.queue, self.starts)

    @property
    def retries(self) -> int:
        """How often it was retried after a failure."""
        value = self.delivery.message.headers.get("retries")
        return value if isinstance(value, int) else 0


class Intake:
    """Admits deliveries.

    Args:
        client, results, dead_letters: Where jobs come from, are recorded, and end that cannot run.
        track: Record the status of every job, not only of submitted ones.
    """

    def __init__(self, client: Client, results: ResultStore, dead_letters: DeadLetters, *, track: bool = False) -> None:
        self._client = client
        self._results = results
        self._dead_letters = dead_letters
        self._track = track

    def admit(
        self, delivery: Delivery, schema: type[JobSchema[Any, Any]] | None = None, policy: RetryPolicy | None = None
    ) -> Taken | None:
        """The job in a delivery, or None when it must not run now; the delivery is settled then.

        Where the broker keeps the records, whether the job was cancelled shows as it begins: see ``Settlement.begin``.

        Args:
            delivery: What was taken.
            schema: Read the payload as this schema.
            policy: Dead-letter a job whose worker vanished too often. None: do not look at that.

        Raises:
            DecodeError: it is no job of a known type. It was moved to the dead-letter queue, or, when it came from one,
                put back.
        """
        headers = delivery.message.headers
        try:
            job = decode(delivery.message.body, headers, delivery.message.content_type, schema)
            expires, eta = due(headers, "expires"), due(headers, "eta")
        except DecodeError as error:
            self.refuse(delivery, error)
            raise
        now = datetime.now(UTC)
        if eta is not None and (wait := (eta - now).total_seconds()) > 0 and not delivery.dead:
            # Only foreign producers leave the waiting to the taker.
            self._postpone(delivery, delivery.message, wait)
            return None
        tracked = self._results.configured and (self._track or bool(headers.get(TRACKED)))
        taken = Taken(job, delivery, tracked, delivery.attempts)
        if tracked and not self._results.on_broker and self._cancelled(taken):
            self.skip(taken)
            return None
        if expires is not None and expires < now and not delivery.dead:
            self.bury(delivery, Reason.EXPIRED, f"expired at {expires.isoformat()}")
            return None
        if policy is not None and not delivery.dead:
            known = self._attempts(delivery, job.id, tracked)
            if known is None:
                return None
            taken.attempts = known
            if known >= policy.max_worker_losses:
                self.bury(
                    delivery,
                    Reason.WORKER_LOST,
                    f"its worker vanished {known} times while running it (killed, out of memory, lost its lease)",
                )
                return None
        return taken

    def skip(self, taken: Taken) -> None:
        """Remove a job that was cancelled while it waited."""
        taken.delivery.acknowledge()
        log.info("job %s was cancelled: skipped", taken.job.id, extra={"action": "skip_job", **taken.log_fields})

    def refuse(self, delivery: Delivery, error: DecodeError) -> None:
        """Keep what cannot be read where it can be looked at."""
        if delivery.dead:
            delivery.requeue()
        else:
            self.bury(delivery, reason_for(error), error)

    def bury(self, delivery: Delivery, reason: Reason, error: BaseException | str, *, recorded: bool = False) -> None:
        """Dead-letter a delivery and record the job as failed if its status is kept and not yet ``recorded``."""
        headers = delivery.message.headers
        self._dead_letters.bury(delivery, reason, error)
        job_id = headers.get("id")
        if recorded:
            return
        if isinstance(job_id, str) and self._results.configured and (self._track or headers.get(TRACKED)):
            failure = error if isinstance(error, BaseException) else JobsError(error)
            self.record(
                lambda: self._results.fail(job_id, headers.get("task"), failure, f"{reason}: {summary(error)}"),
                delivery.log_fields,
            )

    def record(self, write: Callable[[], object], about: Mapping[str, Any]) -> None:
        """Write to the result backend; its failure is logged, with the fields ``about`` the job, and stops none."""
        try:
            write()
        except JobsError as error:
            log.error("a job's status could not be recorded: %s", error, extra={"action": "record_status", **about})  # noqa: TRY400

    def _cancelled(self, taken: Taken) -> bool:
        job_id = taken.job.id
        try:
            record = self._results.find(job_id)
        except JobsError as error:
            log.warning(
                "cannot tell whether job %s is cancelled: %s",
                job_id,
                error,
                extra={"action": "check_cancel", **taken.log_fields},
            )
            return False
        return record is not None and record.status is ExecutionStatus.CANCELLED

    def _attempts(self, delivery: Delivery, job_id: str, tracked: bool) -> int | None:
        """How often work on this job began and was never finished; None when that had to be written down first."""
        if delivery.counted or not delivery.redelivered:
            return delivery.attempts
        # A classic RabbitMQ queue only says that the job was delivered before. The record of its last start tells more.
        if tracked and (record := self._results.find(job_id)) is not None:
            retries = delivery.message.headers.get("retries")
            starts = record.attempts - (retries if isinstance(retries, int) else 0)
            return max(starts, 0) if record.status is ExecutionStatus.RUNNING else delivery.attempts
        # Without one, count on the message itself: its place in the queue is the price.
        headers = {**delivery.message.headers, ATTEMPTS: delivery.attempts + 1}
        self._postpone(delivery, replace(delivery.message, headers=headers), 0.0)
        return None

    def _postpone(self, delivery: Delivery, message: Message, delay: float) -> None:
        self._client.publish(message, queue=delivery.queue, delay=delay)
        delivery.postponed = True
        delivery.acknowledge()
