"""A job in the process, thread or greenlet that runs it: the shared lifecycle, in the terms of Celery's tracer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

from billiard.common import terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Reject, TaskPredicate, WorkerShutdown, WorkerTerminate
from kombu.exceptions import EncodeError as KombuEncodeError
from kombu.serialization import loads, prepare_accept_content

from mindtrace_jobs._serializer_entry import CONTENT_TYPE
from mindtrace_jobs.celery.arguments import job_from
from mindtrace_jobs.celery.errors import JobCancelled, JobRetried, JobReturned, JobUnsettled, mark_settled, sendable
from mindtrace_jobs.celery.records import EXHAUSTED, RECORDED, RUNNING
from mindtrace_jobs.clients import Delivery, RecordWrite
from mindtrace_jobs.errors import ConfigurationError, DecodeError, InvalidOutputError, JobsError, RetryJob, failure_of
from mindtrace_jobs.execution.context import JobContext
from mindtrace_jobs.execution.handlers import set_output
from mindtrace_jobs.execution.lifecycle import Lifecycle, ReceivedJob
from mindtrace_jobs.execution.outcome import Acknowledged, DeadLettered, Outcome, Reason, Retried, Returned, failed
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobSchema
from mindtrace_jobs.results import JobState, Progress, worker_name
from mindtrace_jobs.results.record import PROGRESS, RETRY, SUCCESS
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import Message, decode_task
from mindtrace_jobs.wire.signing import not_accepted

log = logging.getLogger("mindtrace_jobs.celery")

_JSON = ("application/json", CONTENT_TYPE)


@dataclass(frozen=True, slots=True)
class UndecodedJob:
    """A job's message as a task's only argument, to be decoded where the job runs.

    Attributes:
        message: The message.
        queue: Where it was received from. Its routing key may be another, where an exchange brought it there.
        losses: How many workers it has lost; ``suspected``: how many of these are suspected only.
    """

    message: Message
    queue: str
    losses: int = 0
    suspected: int = 0

    def __repr__(self) -> str:
        return f"<job {self.message.headers.get('id')}>"


class PoolDelivery(Delivery):
    """A delivery as the pool sees it: the worker's main process holds the message and settles it."""

    def confirm(self) -> None:
        """Nothing to do: the main process renews the lease."""

    def start(self, write: RecordWrite | None = None, *, exact: bool = False) -> bool:  # noqa: ARG002
        return write is None or write.start()

    def acknowledge(self, write: RecordWrite | None = None, *, at_once: bool = False) -> None:  # noqa: ARG002
        if write is not None:
            write.finish()
        self.settled = True

    def requeue(self) -> None:
        self.settled = True


class Runnable(Protocol):
    """The part of a job task that a run needs."""

    app: Any
    schema: type[JobSchema[Any, Any]]

    @property
    def policy(self) -> RetryPolicy:
        """How its jobs are retried."""

    def call(self, job: Job[Any], context: JobContext) -> Any:
        """Call the job function."""

    def shown(self, job: Job[Any]) -> list[Any]:
        """The arguments of a job as hooks see them."""


class UnwritableOutputError(InvalidOutputError, KombuEncodeError):
    """Tells Celery's tracer that the output could not be written as a result."""


class RunningJob:
    """One run of a job.

    Args:
        task: The job task.
        request: Celery's context of this run.
        lifecycle: What records and settles it.
        records: Whether its end is recorded; ``starts``: whether its start is.
    """

    def __init__(self, task: Runnable, request: Any, lifecycle: Lifecycle, *, records: bool, starts: bool) -> None:
        self._task = task
        self._request = request
        self._lifecycle = lifecycle
        self._results = lifecycle.results
        self._records = records
        self._starts = starts
        self.received: ReceivedJob
        self.context: JobContext | None = None

    def work(self, undecoded: UndecodedJob) -> Any:
        """Run it to its end; returns the output.

        Raises:
            celery.exceptions.Ignore, Retry, Reject: it was cancelled, is retried, goes back to its queue.
            Exception: it has failed, and is recorded and dead-lettered.
        """
        request = self._request
        names = ("id", "task", "retries", wire.QUEUED_AT)
        headers = {name: request.get(name) for name in names}
        delivery = PoolDelivery(undecoded.message, undecoded.queue)
        self.received = self._lifecycle.described(delivery, headers, recorded=self._records, tracked=self._starts)
        self.received.losses, self.received.suspected = undecoded.losses, undecoded.suspected
        setattr(request, RUNNING, self)
        return self._settling(lambda: self._run(undecoded.message))

    def _run(self, message: Message) -> Any:
        if not self._lifecycle.start(self.received):
            raise JobCancelled(f"job {self._request.id} was cancelled")
        try:
            job = self._lifecycle.decode(self.received, read=lambda: self._read(message))
        except DecodeError as error:
            self._ended()
            raise sendable(error) from error
        except ConfigurationError as error:  # of a worker that cannot verify signatures
            self._fail(error)
        except JobsError:
            raise  # it could not be refused
        except BaseException as error:  # of a validator that exits
            if _ends_process(error):
                raise
            self._fail(error)
        self._show(job)
        self.context = JobContext(
            job,
            self if self._records else None,
            retries=self.received.retries,
            losses=self.received.losses,
            queue=self.received.delivery.queue,
        )
        try:
            set_output(job, self._task.call(job, self.context))
        except TaskPredicate as signal:
            if isinstance(signal, Reject) and not signal.requeue:
                self._fail(signal)
            raise
        except BaseException as error:
            if _ends_process(error):
                raise
            self._fail(error)
        return job.payload.output

    def _read(self, message: Message) -> Job[Any]:
        accepted = prepare_accept_content(self._task.app.conf.accept_content)
        if message.content_type not in accepted:
            raise not_accepted(message.content_type)
        message = self._lifecycle.opened(message)
        if message.content_type in _JSON:
            limit = self._lifecycle.client.max_decompressed_bytes
            job, embed = decode_task(message.body, message.headers, message.content_type, self._task.schema, limit)
        else:
            found, named, embed = self._loads(message, accepted)
            job = job_from(found, named, self._task.schema, self._request.id)
        vars(self._request).update(embed or {})
        return job

    def _loads(self, message: Message, accepted: Any) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """A task body in another serializer that the app accepts, as Kombu reads it."""
        body = message.unpacked(self._lifecycle.client.max_decompressed_bytes)
        try:
            args, kwargs, embed = loads(body, message.content_type, message.content_encoding, accept=accepted)
            return list(args), dict(kwargs), dict(embed or {})
        except Exception as error:
            raise DecodeError(f"not a Celery task body ({type(error).__name__})") from error

    def _show(self, job: Job[Any]) -> None:
        """Let Celery's hooks see the job where the message was."""
        request = self._request
        shown = self._task.shown(job)
        if isinstance(request.args, list):
            request.args[:] = shown  # the tracer's own list
        else:
            request.args = tuple(shown)
        request.kwargs = {}

    # --- ends

    def _fail(self, error: BaseException) -> NoReturn:
        final = Reason.TIME_LIMIT if isinstance(error, SoftTimeLimitExceeded) else None
        if self._request.get(EXHAUSTED):
            final = Reason.RETRIES_EXHAUSTED
        end = self._lifecycle.fail(self.received, error, self._task.policy, final)
        self._ended()
        self._tell(end, error)

    def _tell(self, end: Outcome, error: BaseException) -> NoReturn:
        """Tell Celery how it ended."""
        match end:
            case Acknowledged():
                raise JobCancelled(f"job {self._request.id} was cancelled") from error
            case Retried():
                raise JobRetried(None, sendable(error), end.delay) from error
            case DeadLettered():
                raise sendable(error) from error
            case _:
                stop = isinstance(error, KeyboardInterrupt)
                raise JobReturned("the worker stops" if stop else "returned", stop=stop) from error

    def _ended(self) -> None:
        setattr(self._request, RECORDED, True)

    def _settling(self, work: Callable[[], Any]) -> Any:
        """Do something; a job that could not be settled is left to the main process, and one not begun goes back."""
        received = self.received
        try:
            return work()
        except JobsError as error:
            if received.delivery.settled or self._request.get(RECORDED):
                raise
            if received.end is not None:
                self._ended()
                raise JobUnsettled(str(error), received.end, written=received.written) from error
            log.warning(
                "job not settled, it will run again: %s",
                error,
                extra={"action": "lose_delivery", **received.log_fields},
            )
            raise JobReturned(str(error)) from error

    def celery_stores(self, result: Any, state: str, traceback: Any) -> Any:
        """Record what Celery's tracer, or the task itself, writes of this job; returns the result."""
        if not self._records:
            return result
        if state == SUCCESS:
            self._settling(self._succeed)
            return result
        status = ExecutionStatus.QUEUED if state == RETRY else ExecutionStatus.RUNNING
        self._results.writer.write(
            self._lifecycle.state(self.received, status),
            self.received.log_fields,
            celery_state=state,
            result=result,
            request=self._request,
            traceback=traceback,
        )
        return result

    def _succeed(self) -> None:
        end = self._lifecycle.succeed(self.received, self._request)
        if isinstance(end, DeadLettered):
            self._ended()
            raise mark_settled(UnwritableOutputError(end.failure.error))

    # --- for the context

    def report(self, progress: Progress) -> None:
        """Record how far the job is, unless it has ended: a thread of the handler's may outlive it."""
        if self._request.get(RECORDED) or self.received.delivery.settled:
            return
        self._results.writer.write(
            self._lifecycle.state(self.received, ExecutionStatus.RUNNING),
            self.received.log_fields,
            celery_state=PROGRESS,
            result=progress.model_dump(),
        )

    def cancelled(self) -> bool:
        """Whether somebody has cancelled the job."""
        return self._results.seems_cancelled(self._request.id, self.received.log_fields)


def _ends_process(error: BaseException) -> bool:
    """Whether this ends the process, thread or greenlet, and is not the handler's own."""
    if isinstance(error, Exception):
        return False
    if isinstance(error, WorkerShutdown | WorkerTerminate) or terminate_handler_fired():
        return True
    # A hard time limit and a kill, in gevent's pool.
    gevent: Any = sys.modules.get("gevent")
    return gevent is not None and isinstance(error, gevent.GreenletExit | gevent.Timeout)


def run_eagerly(task: Any, request: Any, args: Any, kwargs: Any) -> Any:
    """Run a job in the caller's process, as Celery's eager mode does; it has no delivery to settle.

    Raises:
        celery.exceptions.Retry: it was retried, eagerly too.
        Exception: what the job function raised.
    """
    job = job_from(args, kwargs, task.schema, request.id)
    started = datetime.now(UTC)
    job._assign(status=ExecutionStatus.RUNNING, started_at=started)
    state = JobState(
        job.id,
        job.payload.name,
        ExecutionStatus.COMPLETED,
        starts=(request.retries or 0) + 1,
        retries=request.retries or 0,
        queued_at=job.created_at,
        started_at=started,
        worker=worker_name(),
    )
    try:
        set_output(job, task.call(job, JobContext(job, retries=request.retries or 0)))
    except TaskPredicate:
        raise
    except Exception as error:
        # By the default policy nobody who calls it here waits for a retry: the error is what a test wants to see.
        asked = task.job_retry is not None or task.job_retry_options or isinstance(error, RetryJob)
        policy = task.policy if asked else RetryPolicy(max_retries=0)
        end = failed(error, job.id, request.retries or 0, policy)
        if isinstance(end, Retried):
            raise task.retry(exc=error, countdown=end.delay, max_retries=task.policy.max_retries) from error
        if isinstance(end, Acknowledged | Returned):
            raise JobCancelled(f"job {job.id} was cancelled") from error
        request.job_state = replace(state, failure=failure_of(error), completed_at=datetime.now(UTC))
        raise
    request.job_state = replace(state, completed_at=datetime.now(UTC))
    return job.payload.output
