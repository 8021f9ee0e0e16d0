"""A delivery's way through the states of a job, carried out for every runner.

``received -> started -> decoded -> succeeded | failed -> settled``: what happens is decided in ``outcome``; here it is
recorded and done. The order is the same everywhere: first the record is written, then the message is moved, so whoever
sees a dead letter finds its record. Work counts as begun before the message is decoded, so a message that kills its
reader is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from traceback import format_exception
from typing import Any

from mindtrace_jobs.clients import Client, Delivery
from mindtrace_jobs.errors import LONGEST_DELAY, DecodeError, EncodeError, Failure, InvalidOutputError, JobsError
from mindtrace_jobs.execution.dead_letters import DeadLetters
from mindtrace_jobs.execution.outcome import (
    Acknowledged,
    DeadLettered,
    Losses,
    Outcome,
    Postponed,
    Reason,
    Retried,
    Returned,
    failed,
    lost_worker,
    received,
    refused,
    status_after,
    without_retry,
)
from mindtrace_jobs.execution.publishing import Publication
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobSchema
from mindtrace_jobs.logs import job_fields, shown
from mindtrace_jobs.results import JobRecord, JobState, ResultStore, worker_name
from mindtrace_jobs.results.record import RETRY
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import Message, decode
from mindtrace_jobs.wire.signing import Signing

log = logging.getLogger("mindtrace_jobs.execution")


@dataclass(slots=True)
class ReceivedJob:
    """A delivery whose job may run.

    Attributes:
        delivery: Settle it through the lifecycle.
        id, name: The job's; of the message's headers, or of the decoded job where these do not say.
        tracked: Whether its status is kept, from its start on.
        recorded: Whether its end is recorded, though its start may not be.
        losses, retries: How often its worker vanished, and how often it was retried after a failure, before.
        queued_at: When it was queued, as far as the message says, of a job that is recorded.
        started_at: When work on it began this time; None before.
        last_started_at: When it began before, of a job whose workers vanished.
        suspected: How many of the losses are suspected only, see ``outcome.Losses``.
        exact: Whether its very first start has to be known: it may not lose a single worker.
        worker: Who ran it, if that is not who settles it.
        job: The job, once it is decoded.
        end, error: How the delivery ends, once that is decided, and what was raised. It may not be carried out yet.
        written: Whether that end is in the job's record, or on its way to it.
    """

    delivery: Delivery
    id: str | None
    name: str | None
    tracked: bool
    recorded: bool
    losses: int
    retries: int
    queued_at: datetime | None
    started_at: datetime | None = None
    last_started_at: datetime | None = None
    suspected: int = 0
    exact: bool = False
    worker: str | None = None
    job: Job[Any] | None = None
    end: Outcome | None = None
    error: BaseException | None = None
    written: bool = False

    @property
    def starts(self) -> int:
        """How often work on it began: after failures and after lost workers, and now if it did."""
        return self.losses + self.retries + (self.started_at is not None)

    @property
    def log_fields(self) -> dict[str, Any]:
        """``extra`` of log records about it."""
        return job_fields(self.id, self.name, self.delivery.queue, self.losses + self.retries + 1)


class Lifecycle:
    """Receives, starts and settles deliveries.

    Args:
        client, results: Where jobs come from, and are recorded.
        dead_letters: Where jobs end that cannot run; None: they are dropped.
        track: Record the status of every job, not only of submitted ones.
        worker: The name of this worker; default this process.
        announces: Whether Celery's publish signals are sent for retries. Where no task runs, instrumentation would begin
            a new trace at each, and the copy keeps the trace of the original instead.
        reported: Whether the caller reports failures as errors, so that a dead-lettered job is a warning here: services
            that collect errors from logs would have two for one failure.
        signing: Verifies messages, where only signed ones are accepted.
    """

    def __init__(
        self,
        client: Client,
        results: ResultStore,
        dead_letters: DeadLetters | None,
        *,
        track: bool = False,
        worker: str | None = None,
        announces: bool = False,
        reported: bool = False,
        signing: Signing | None = None,
    ) -> None:
        self._announces = announces
        self._level = logging.WARNING if reported else logging.ERROR
        self._signing = signing
        self.client = client
        self.results = results
        self._dead_letters = dead_letters
        self._track = track
        self._worker = worker

    # --- received

    def receive(self, delivery: Delivery, max_worker_losses: int | None = None) -> ReceivedJob | None:
        """The job of a delivery, not decoded yet; None if it must not run now: the delivery is settled then.

        Args:
            delivery: The delivery.
            max_worker_losses: Dead-letter a job whose worker vanished so often. None: do not look at that.

        Raises:
            DecodeError: the headers say times that are none. The message was dead-lettered, or, received from a
                dead-letter queue, requeued.
        """
        job = self.described(delivery)
        return job if self.may_run(job, max_worker_losses) else None

    def may_run(self, job: ReceivedJob, max_worker_losses: int | None = None) -> bool:
        """Whether a job may run now, by its times and by how often it has lost its worker; if not, it is settled.

        Arguments and errors as ``receive``.
        """
        delivery = job.delivery
        try:
            end = received(delivery.message.headers, datetime.now(UTC), dead=delivery.dead)
        except DecodeError as error:
            self.refuse(job, error)
            raise
        if end is None and max_worker_losses is not None and not delivery.dead:
            end = self._count_losses(job, max_worker_losses)
        if end is not None:
            self.settle(job, end)
        return end is None

    def described(
        self,
        delivery: Delivery,
        headers: Mapping[str, Any] | None = None,
        *,
        tracked: bool | None = None,
        recorded: bool | None = None,
    ) -> ReceivedJob:
        """What the headers of a delivery say of its job.

        Args:
            delivery: The delivery.
            headers: Its headers, if they are not the message's own.
            tracked, recorded: Whether its start, and its end, is recorded; default by its headers.
        """
        headers = delivery.message.headers if headers is None else headers
        job_id = wire.text(headers, "id") or None
        if tracked is None:
            tracked = job_id is not None and self._tracks(headers)
        if recorded is None:
            recorded = tracked
        return ReceivedJob(
            delivery,
            job_id,
            wire.text(headers, "task"),
            tracked,
            recorded,
            delivery.losses,
            wire.count(headers, "retries"),
            wire.moment_or_none(headers, wire.QUEUED_AT) if recorded else None,
        )

    def _tracks(self, headers: Mapping[str, Any]) -> bool:
        return self.results.configured and (self._track or bool(headers.get(wire.TRACKED)))

    def lost_too_often(self, job: ReceivedJob, limit: int) -> bool:
        """Whether a job has lost so many workers that it is not run again; it is settled then.

        Afterwards the job says how many it has lost.
        """
        end = self._count_losses(job, limit)
        if end is not None:
            self.settle(job, end)
        return end is not None

    def _count_losses(self, job: ReceivedJob, limit: int) -> Outcome | None:
        job.exact = limit == 1
        if not job.losses and (job.delivery.counted or not job.delivery.redelivered):
            return None
        losses = self.losses_of(job)
        job.losses, job.suspected = losses.total, losses.suspected
        end = lost_worker(losses, limit)
        if end is not None:
            self._last_start(job)
        elif not job.delivery.counted and job.delivery.delivery_count >= limit > losses.total:
            # A quorum queue counts deliveries, begun or not, and past a limit of its own drops what it delivered. A copy
            # starts from 0.
            return Postponed(0.0)
        return end

    def _last_start(self, job: ReceivedJob) -> None:
        """Know when a lost job was started last, and by whom, as far as its record tells."""
        record = self._find(job, "count_losses")
        if record is not None and record.started_at is not None:
            job.worker, job.last_started_at = record.worker, record.started_at

    def losses_of(self, job: ReceivedJob) -> Losses:
        """How often work on a job began before and its worker vanished."""
        delivery = job.delivery
        if delivery.counted or not delivery.redelivered:
            return Losses(delivery.losses)
        recorded = self._recorded_losses(job)
        if recorded is not None:
            return Losses(max(recorded, delivery.losses))
        return Losses(delivery.losses + delivery.started_before(), suspected=0 if job.exact else 1)

    def _recorded_losses(self, job: ReceivedJob) -> int | None:
        """The same by the job's record, which is written when it starts; None if there is none that tells."""
        record = self._find(job, "count_losses")
        if record is None:
            return None
        return max(0, record.starts - job.retries) if record.status is ExecutionStatus.RUNNING else record.losses

    def _find(self, job: ReceivedJob, action: str) -> JobRecord[Any] | None:
        """The job's record; None if there is none, or none that can be read now."""
        if not job.recorded or job.id is None:
            return None
        if self.results.writer.away:
            return None
        try:
            return self.results.find(job.id)
        except JobsError as error:
            log.warning("the record of a job cannot be read: %s", error, extra=self._extra(job, action))
            self.results.writer.failed(error)
            return None

    # --- started and decoded

    def start(self, job: ReceivedJob, *, marked: bool = True) -> bool:
        """Work begins now: the record says so, and the broker knows in case this process vanishes.

        Args:
            job: The job.
            marked: Whether the broker has to know; not of a job that is acknowledged at once.

        Returns:
            Whether it is to run. One that was cancelled is acknowledged and skipped.
        """
        job.started_at = datetime.now(UTC)
        write = None
        if job.tracked and not job.delivery.dead:
            write = self.results.writing(self.state(job, ExecutionStatus.RUNNING), job.log_fields)
        if not marked and write is None:
            return True
        if job.delivery.start(write, exact=job.exact):
            return True
        job.started_at = None
        self.settle(job, Acknowledged(ExecutionStatus.CANCELLED))
        return False

    def decode(
        self,
        job: ReceivedJob,
        schema: type[JobSchema[Any, Any]] | None = None,
        read: Callable[[], Job[Any]] | None = None,
    ) -> Job[Any]:
        """The job itself.

        Args:
            job: The received job.
            schema: Read the payload as this schema.
            read: Reads it in another way than from the message alone.

        Raises:
            DecodeError: it is no job of a known type. It was dead-lettered, or, received from a dead-letter queue,
                requeued.
        """
        try:
            decoded = read() if read else self._read(job.delivery.message, schema)
        except DecodeError as error:
            self.refuse(job, error)
            raise
        job.job = decoded
        job.id, job.name = decoded.id, decoded.payload.name
        job.queued_at = job.queued_at or (decoded.created_at if "created_at" in decoded.model_fields_set else None)
        decoded._assign(status=ExecutionStatus.RUNNING, started_at=job.started_at)
        return decoded

    def _read(self, message: Message, schema: type[JobSchema[Any, Any]] | None) -> Job[Any]:
        message, limit = self.opened(message), self.client.max_decompressed_bytes
        return decode(message.body, message.headers, message.content_type, schema, limit)

    def opened(self, message: Message) -> Message:
        """A message as it can be read: itself, or what was signed if only signed messages are accepted.

        Raises:
            DecodeError: it is not signed, or not by anybody who is trusted.
            ConfigurationError: this process cannot verify it.
        """
        if self._signing is None or not self._signing.required:
            return message
        return self._signing.verified(message, self.client.max_decompressed_bytes)

    # --- ended

    def succeed(self, job: ReceivedJob, request: Any = None) -> Outcome:
        """The work is done: record the output, then acknowledge. An output that cannot be written is a failure.

        Args:
            job: The job.
            request: Celery's request, if it runs as a Celery task.

        Raises:
            LeaseLostError: somebody else has the job by now, and records what comes of it.
            BrokerUnavailableError: it is not acknowledged, and will be delivered again.
        """
        assert job.job is not None
        job.end = Acknowledged()
        job.delivery.confirm()
        job.job._assign(status=ExecutionStatus.COMPLETED, completed_at=datetime.now(UTC))
        write = None
        if job.recorded:
            state = self.state(job, ExecutionStatus.COMPLETED, output=job.job.payload.output)
            write = self.results.writing(state, job.log_fields, request)
        try:
            job.delivery.acknowledge(write)
        except EncodeError as error:
            unwritable = InvalidOutputError(str(error))
            end = failed(unwritable, job.id, job.retries, RetryPolicy())
            self.settle(job, end, unwritable)
            return end
        if request is None and log.isEnabledFor(logging.INFO):  # Celery has a line of its own
            log.info("job %s completed", shown(job.id), extra=self._extra(job, "complete_job"))
        return Acknowledged()

    def fail(self, job: ReceivedJob, error: BaseException, policy: RetryPolicy, final: Reason | None = None) -> Outcome:
        """The handler raised: run the job again later if the policy allows, else dead-letter it.

        A dead letter stays one.

        Args:
            job: The job.
            error: What the handler raised.
            policy: How often it is retried, and after what.
            final: Why it is not retried whatever the policy says, unless that names this very error.

        Raises:
            LeaseLostError: somebody else has the job by now, and decides.
        """
        end = failed(error, job.id, job.retries, policy)
        if job.delivery.dead or (final is not None and type(error) not in policy.retry_on):
            end = without_retry(end, final)
        job.end, job.error = end, error
        job.delivery.confirm()
        self.settle(job, end, error)
        return end

    def refuse(self, job: ReceivedJob, error: DecodeError) -> None:
        """Dead-letter a message that cannot be read. No work on it has begun."""
        job.started_at = None
        self.settle(job, Returned() if job.delivery.dead else refused(error), error)

    # --- settled

    def settle(self, job: ReceivedJob, end: Outcome, error: BaseException | None = None) -> None:
        """Record how a delivery ends, then carry it out.

        Args:
            job: The job.
            end: What was decided.
            error: What was raised, for Celery's own view of the result.

        Raises:
            LeaseLostError: somebody else has the job by now.
            PublishError, BrokerError: the copy was not published, so the message is not acknowledged.
        """
        job.end, job.error, job.written = end, error, False
        self._note(job, end)
        self.record(job, end, error)
        job.written = True
        self.move(job, end)

    def settle_again(self, job: ReceivedJob) -> None:
        """Carry out how a delivery ends that was decided before, and failed; raises as ``settle``."""
        assert job.end is not None
        job.delivery.confirm()
        if isinstance(job.end, Acknowledged) and job.end.status is ExecutionStatus.COMPLETED:
            self.succeed(job)
        elif job.written:
            self.move(job, job.end)
        else:
            self.settle(job, job.end, job.error)

    def record(self, job: ReceivedJob, end: Outcome, error: BaseException | None = None) -> None:
        """Write the record of a job that ends so, now or when the result backend takes it."""
        if not job.recorded or job.id is None or isinstance(end, Postponed) or job.delivery.dead:
            return
        if isinstance(end, Returned):
            job.started_at = None
        failure = end.failure if isinstance(end, Retried | DeadLettered) else None
        state = self.state(job, status_after(end), failure=failure)
        # Celery's own names: a job that waits to be retried is more than queued.
        celery_state = RETRY if isinstance(end, Retried) else None
        raised = error if failure is not None else None
        self.results.writer.write(
            state, job.log_fields, celery_state=celery_state, result=raised, traceback=traceback_of(raised)
        )

    def move(self, job: ReceivedJob, end: Outcome) -> None:
        """Carry out what was decided and recorded; raises as ``settle``."""
        delivery = job.delivery
        match end:
            case Acknowledged():
                delivery.acknowledge()
                if end.status is ExecutionStatus.CANCELLED:
                    what, action = ("skipped", "skip_job") if job.started_at is None else ("stopped", "stop_job")
                    log.info("job %s was cancelled: %s", shown(job.id), what, extra=self._extra(job, action))
            case Retried():
                self._publish_again(job, end.delay, retries=job.retries + 1)
                log.info(
                    "job %s failed (%s: %s), retry %d in %.1f s",
                    shown(job.id),
                    end.failure.error_type,
                    shown(end.failure.error),
                    job.retries + 1,
                    end.delay,
                    extra=self._extra(job, "retry_job"),
                )
            case DeadLettered():
                if self._dead_letters is None:
                    delivery.acknowledge()
                    return
                self._dead_letters.add(
                    delivery,
                    end.reason,
                    end.failure,
                    losses=job.losses,
                    retries=job.retries,
                    worker=self.worker,
                    level=self._level,
                )
                self._trim(job, self._dead_letters)
            case Postponed():
                self._publish_again(job, end.delay)
                delivery.postponed = True
            case Returned():
                delivery.requeue()

    def _publish_again(self, job: ReceivedJob, delay: float, **counts: int) -> None:
        message = copy_of(job.delivery.message, delay, losses=job.losses - job.suspected, **counts)
        publication = Publication(job.job, message, "", job.delivery.queue) if self._announces and job.job else None
        if publication is not None:
            publication.before()
        job.delivery.replace(self.client, message, job.delivery.queue, delay)
        if publication is not None:
            publication.after()

    def _trim(self, job: ReceivedJob, dead_letters: DeadLetters) -> None:
        try:
            dead_letters.trim(job.delivery.queue)
        except JobsError as error:
            queue = job.delivery.queue
            log.warning("dead letters of %s not trimmed: %s", queue, error, extra=self._extra(job, "trim_dead_letters"))

    # --- what is written

    @property
    def worker(self) -> str:
        """The name of this worker."""
        return self._worker or worker_name()

    def state(
        self, job: ReceivedJob, status: ExecutionStatus, *, output: Any = None, failure: Failure | None = None
    ) -> JobState:
        """The state of a job as it is now."""
        assert job.id is not None
        return JobState(
            id=job.id,
            name=job.name,
            status=status,
            output=output,
            failure=failure,
            starts=job.starts,
            losses=job.losses,
            retries=job.retries,
            queued_at=job.queued_at or job.started_at,
            started_at=job.started_at or job.last_started_at,
            completed_at=datetime.now(UTC) if status.final else None,
            worker=job.worker or self.worker,
        )

    @staticmethod
    def _note(job: ReceivedJob, end: Outcome) -> None:
        """Put how it ended into the job that the handler's caller holds."""
        if job.job is None:
            return
        failure = end.failure if isinstance(end, Retried | DeadLettered) else None
        if failure is not None:
            job.job._assign(error=failure.error)
        job.job._assign(status=status_after(end), completed_at=datetime.now(UTC) if status_after(end).final else None)

    @staticmethod
    def _extra(job: ReceivedJob, action: str) -> dict[str, Any]:
        return {"action": action, **job.log_fields}


def traceback_of(error: BaseException | None) -> str | None:
    """The traceback of an exception that was raised, as Celery keeps it in a result."""
    if error is None or error.__traceback__ is None:
        return None
    try:
        return "".join(format_exception(error))
    except Exception:  # whatever a user's exception does when it is printed
        return None


def copy_of(message: Message, delay: float, **counts: int) -> Message:
    """The message again, for a delivery of its own.

    Args:
        message: As it was delivered.
        delay: Seconds before which it is not to run.
        counts: ``retries`` and ``losses``, where they change.
    """
    headers = {name: value for name, value in message.headers.items() if name not in wire.OF_DELIVERY}
    if delay > 0 and counts.get("retries"):
        headers["eta"] = (datetime.now(UTC) + timedelta(seconds=min(delay, LONGEST_DELAY))).isoformat()
    if "retries" in counts:
        headers["retries"] = counts["retries"]
    if counts.get("losses"):
        headers[wire.LOSSES] = counts["losses"]
    return replace(message, headers=headers)
