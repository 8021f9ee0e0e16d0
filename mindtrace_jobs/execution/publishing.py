"""Publishing: for every producer the same record, the same roll-back and the same signals."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar

from mindtrace_jobs.clients import Client
from mindtrace_jobs.errors import ConfigurationError, EncodeError, JobsError, UnconfirmedError
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobInput
from mindtrace_jobs.logs import job_fields
from mindtrace_jobs.results import JobRecord, JobState, ResultStore, state_of
from mindtrace_jobs.transports.contract import Record
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import Message, encode
from mindtrace_jobs.wire.signing import Signing

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("mindtrace_jobs.execution")


class Publishing:
    """Publishes jobs to the queues and exchanges of one client.

    Args:
        client, results: Where to, and where submitted jobs are recorded.
        max_job_bytes: Largest encoded job that is published; None for no limit.
        signing: Signs jobs, where only signed messages are accepted.
    """

    def __init__(
        self,
        client: Client,
        results: ResultStore,
        *,
        max_job_bytes: int | None = None,
        signing: Signing | None = None,
    ) -> None:
        self._client = client
        self._results = results
        self._max_job_bytes = max_job_bytes
        self._signing = signing

    def encode(self, job: Job[Any], **options: Any) -> Message:
        """The message of a job; options and errors as those of ``wire.message.encode``.

        Raises:
            ConfigurationError: it is no job, or cannot be signed and has to be.
            EncodeError: it is too large, or cannot be encoded.
        """
        check_job(job)
        message = encode(job, **options)
        if self._signing is not None and self._signing.required:
            message = self._signing.signed(message, job)
        if self._max_job_bytes is not None and len(message.body) > self._max_job_bytes:
            raise EncodeError(
                f"job {job.id} is {len(message.body)} bytes, over the limit of {self._max_job_bytes}: publish where the "
                "data is, not the data"
            )
        return message

    def publish(
        self,
        job: Job[Any],
        message: Message,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        record: Record | None = None,
    ) -> None:
        """Publish the message of a job to a queue, with the record of the job if the broker keeps it, or to an exchange.

        Raises:
            ConfigurationError: both a queue and an exchange, or a routing key without an exchange.
            PublishError, BrokerUnavailableError: it was not published.
        """
        if (exchange and queue) or (routing_key and not exchange):
            raise ConfigurationError(
                f"name a queue, or an exchange with a routing key, not both: got queue {queue!r:.80}, exchange "
                f"{exchange!r:.80}, routing_key {routing_key!r:.80}"
            )
        publication = Publication(job, message, exchange, routing_key if exchange else queue)
        publication.before()
        if exchange:
            # An exchange hands on at once; whoever receives the job sees its ETA and postpones it.
            publication.run(self._client.publish, message, exchange=exchange, routing_key=routing_key)
        else:
            delay = _seconds_until(message)
            publication.run(self._client.publish, message, queue=queue, delay=delay, record=record)
        publication.after()

    def publish_many(self, jobs: Sequence[Job[Any]], queue: str) -> None:
        """Publish many jobs to one queue in as few round trips as the broker allows.

        Raises:
            EncodeError: a job cannot be encoded; none was published.
            PublishError: ``failures`` names each job that the broker refused; the others are on the queue.
        """
        messages = [self.encode(job) for job in jobs]
        publications: list[Publication] = []
        if _signals() is not None:
            publications = [Publication(job, message, "", queue) for job, message in zip(jobs, messages, strict=True)]
        for publication in publications:
            publication.before()
        self._client.publish_many(messages, queue)
        for publication in publications:
            publication.after()

    def submit_to(self, queue: str, job: Job[Any], message: Message) -> None:
        """Record a job as queued and publish its message to a queue: in one step where the broker keeps the records."""
        record = self._results.inline_record(queued(job)) if self._results.configured else None
        if record is None:
            self.submit(job, lambda: self.publish(job, message, queue))
        else:
            self.publish(job, message, queue, record=record)

    def submit(self, job: Job[Any], publish: Callable[[], object]) -> None:
        """Record a job as queued, then publish it; if that fails, no record of it is left.

        What an earlier job of this id left is not this one's and goes. If this process ends before the broker has confirmed
        the job, its record reads as failed after two minutes, see ``ResultStore.get``.

        Args:
            job: The job.
            publish: Publishes it, marked as tracked.
        """
        if not self._results.configured:
            publish()
            return
        about = job_fields(job.id, job.payload.name, "", 1)
        # Before publishing: a fast worker's record must not be overwritten by ours.
        self._results.publishing(queued(job))
        try:
            publish()
        except UnconfirmedError:
            raise  # it may be there, and run
        except BaseException:
            self._undo(job.id, about)
            raise
        self._results.not_publishing(job.id, about)

    def _undo(self, job_id: str, about: Mapping[str, Any]) -> None:
        try:
            self._results.forget(job_id)
        except JobsError as error:
            extra = {"action": "record_status", **about}
            log.error("job %s is recorded as queued, and was not published: %s", job_id, error, extra=extra)  # noqa: TRY400
        else:
            self._results.not_publishing(job_id, about)

    def replayed(self, message: Message) -> Callable[[], None]:
        """Record that a dead letter goes back: its job waits again, if its status is kept; returns how to undo that."""
        job_id = wire.text(message.headers, "id")
        if job_id is None or not message.headers.get(wire.TRACKED) or not self._results.configured:
            return _nothing
        name = wire.text(message.headers, "task")
        before: JobRecord[Any] | None = None
        try:
            before = self._results.find(job_id)
            self._results.forget(job_id)
            queued_at = wire.moment_or_none(message.headers, wire.QUEUED_AT) or datetime.now(UTC)
            self._results.save(JobState(job_id, name, ExecutionStatus.QUEUED, queued_at=queued_at))
        except JobsError as error:
            extra = {"action": "record_status", **job_fields(job_id, name, "", 1)}
            log.error("a job's status could not be recorded: %s", error, extra=extra)  # noqa: TRY400
        return _nothing if before is None else partial(self._results.save, state_of(before))


def check_job(job: object) -> None:
    """Raise ConfigurationError unless this is a job; it says how to make one of a schema or an input."""
    if isinstance(job, Job):
        return
    made = "Job(payload=YourSchema(input=...))" if isinstance(job, JobInput) else "Job(payload=...)"
    raise ConfigurationError(
        f"expected a Job, got {type(job).__name__}: {made}, and publish_message takes (queue, job)"
    )


def _nothing() -> None:
    """Undo nothing."""


def queued(job: Job[Any]) -> JobState:
    """The state of a job that is about to be published."""
    return JobState(job.id, job.payload.name, ExecutionStatus.QUEUED, queued_at=job.created_at)


def _seconds_until(message: Message) -> float:
    eta = wire.moment(message.headers, "eta")
    return (eta - datetime.now(UTC)).total_seconds() if eta else 0.0


class Publication:
    """One job on its way to the broker, as receivers of ``before_task_publish`` and ``after_task_publish`` see it.

    Its receivers run in a copy of the caller's context. Instrumentation makes its span the current one in the first
    signal and ends it in the second: in the caller's own context, jobs published together would become each other's
    parents, and a job that could not be published the parent of all that follows.

    Args:
        job, message: What is published; receivers may add to the message's headers.
        exchange, routing_key: Where to.
    """

    def __init__(self, job: Job[Any], message: Message, exchange: str, routing_key: str) -> None:
        self._context = copy_context()
        self._properties = message.properties
        self._fields: dict[str, Any] = {
            "sender": job.payload.name,
            "body": ((job,), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}),
            "exchange": exchange,
            "routing_key": routing_key,
            "headers": message.headers,
        }

    def before(self) -> None:
        """Tell that it is about to be published."""
        if (signals := _signals()) is not None:
            self._send(signals.before_task_publish, declare=[], properties=self._properties, retry_policy={})

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what publishes it in its context: what that traces belongs to this publication."""
        return self._context.run(call, *args, **kwargs)

    def after(self) -> None:
        """Tell that the broker has it."""
        if (signals := _signals()) is not None:
            self._send(signals.after_task_publish)

    def _send(self, signal: Any, **fields: Any) -> None:
        self._context.run(signal.send, **self._fields, **fields)


def _signals() -> Any:
    """Celery's signals, if somebody listens to them; nobody can where they are not loaded."""
    signals: Any = sys.modules.get("celery.signals")
    if signals is None or not (signals.before_task_publish.receivers or signals.after_task_publish.receivers):
        return None
    return signals
