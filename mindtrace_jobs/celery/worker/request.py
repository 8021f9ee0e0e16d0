"""A job in a worker's main process: its start is counted, and what Celery would drop or repeat is settled.

How a job ended that ran to its end is recorded, and moved, where it ran; see ``mindtrace_jobs.celery.running``. Here is
what only the main process sees: a lost process, a hard time limit, an expiry, a shutdown.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import signals
from celery.concurrency.base import BasePool
from celery.exceptions import Ignore, Reject, Retry, Terminated, TimeLimitExceeded
from celery.exceptions import WorkerLostError as ProcessLostError
from celery.worker import state
from celery.worker.request import Request

from mindtrace_jobs.celery.errors import JobCancelled, JobReturned, JobUnsettled, settled
from mindtrace_jobs.celery.records import RECORDED
from mindtrace_jobs.celery.running import UndecodedJob
from mindtrace_jobs.celery.worker.messages import RECEIVED, WorkerDelivery
from mindtrace_jobs.errors import BrokerError, DecodeError, HandlerError, JobsError, failure_of
from mindtrace_jobs.execution.lifecycle import ReceivedJob
from mindtrace_jobs.execution.outcome import (
    DeadLettered,
    Losses,
    Outcome,
    Postponed,
    Reason,
    Returned,
    expired,
    failed,
    lost_worker,
    refused,
)
from mindtrace_jobs.logs import shown
from mindtrace_jobs.wire.message import embed_of

log = logging.getLogger("mindtrace_jobs.celery")


class JobRequest(Request):  # type: ignore[misc]
    """Celery's request of a job task.

    ``consumer`` is set on the subclass that a worker makes for each of its tasks.
    """

    consumer: Any = None
    acknowledged: bool
    #: Whether its end is decided, and could not be carried out yet.
    _waits = False

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self.job: ReceivedJob = getattr(message, RECEIVED)
        delivery = self.job.delivery
        assert isinstance(delivery, WorkerDelivery)
        delivery.settled_by(self.acknowledge, self._return, self._on_replaced)
        self.queue = self.job.delivery.queue
        # Monitors show which job it is, not its data, whatever its producer wrote there.
        self._argsrepr, self._kwargsrepr = f"(<{self.task.schema.__name__} job {self.id}>,)", "{}"
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)
        # Decoded where it runs: whatever is in it, this process lives on.
        undecoded = UndecodedJob(delivery.message, delivery.queue, self.job.losses, self.job.suspected)
        self._body: Any = ([undecoded], {}, {})
        self._content_type = self._content_encoding = None

    @property
    def _payload(self) -> Any:
        """Celery's name for the decoded body; only what canvas put into it is looked at, when the job cannot."""
        lifecycle = self.consumer.lifecycle
        try:
            message = lifecycle.opened(self.job.delivery.message)
        except JobsError:
            return [], {}, {}  # of a stranger: no task of his is called
        return [], {}, embed_of(message, lifecycle.client.max_decompressed_bytes)

    def info(self, safe: bool = False) -> Any:  # noqa: ARG002 - Celery's signature
        """What remote control lists of it: which job it is, whether its data was asked for or not."""
        return super().info(safe=True)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's signature
        """Send a worker event, without the job's output."""
        if "result" in fields:
            fields["result"] = self.task.shown_output
        super().send_event(type, **fields)

    # --- start

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A pool process has it: work begins."""
        super().on_accepted(pid, time_accepted)
        # On the thread that owns the channel, as acknowledgements are.
        self.consumer.call_soon_ack(self._count_start)

    def _count_start(self) -> None:
        try:
            self.job.delivery.start(exact=self.job.exact)
        except JobsError as error:
            log.warning(
                "the start of job %s could not be counted: %s", shown(self.id), error, extra=self._extra("count_start")
            )

    # --- ends

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """End the job's process: the worker stops, or has lost its connection. Where there is none, the job goes on.

        For threads and solo Celery raises an error, which would end the worker's loop, or the job itself. A greenlet it
        would end, and then acknowledge the job as done.
        """
        if self._can_be_ended(pool) and not pool.is_green:
            super().cancel(pool, signal, emit_retry)
        else:
            log.info("job %s cannot be ended and runs on", shown(self.id), extra=self._extra("cancel_job"))

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """End a job that is cancelled, where that is possible; else it ends when it asks whether it is.

        For threads Celery raises an error, and a job that is about to start would be held for ever.
        """
        if self._can_be_ended(pool):
            super().terminate(pool, signal)

    @staticmethod
    def _can_be_ended(pool: Any) -> bool:
        return getattr(pool.terminate_job, "__func__", None) is not BasePool.terminate_job

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The job failed, is to be retried, was returned, or lost its process."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, JobCancelled):
            return self._on_cancelled(exc_info, send_failed_event, return_ok)
        if self._stopped(error):
            self._requeue_unsettled()
        elif isinstance(error, JobUnsettled):
            self.job.end, self.job.written = error.end, error.written
            self._wait(BrokerError(str(error.reason)))
        elif isinstance(error, JobReturned):
            if error.stop:
                log.warning(
                    "job %s was interrupted: the worker stops", shown(self.id), extra=self._extra("stop_worker")
                )
                state.should_stop = os.EX_OK
        elif isinstance(error, ProcessLostError | SystemExit | KeyboardInterrupt):
            self._on_lost(error)
        elif isinstance(error, TimeLimitExceeded) and state.should_terminate:
            self.reject(requeue=True)
        elif not isinstance(error, Retry | Ignore | Reject) and not settled(error):
            error = self._on_unsettled(exc_info, error)
        self._mark_recorded()
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _on_cancelled(self, exc_info: Any, send_failed_event: bool, return_ok: bool) -> Any:
        """Tell monitors too: of a task that is ignored Celery says nothing, and they would show it as running for ever."""
        done = super().on_failure(exc_info, send_failed_event, return_ok)
        how = {"terminated": False, "signum": None, "expired": False}
        self.send_event("task-revoked", **how)
        signals.task_revoked.send(self.task, request=self._context, **how)
        return done

    def _on_unsettled(self, exc_info: Any, error: BaseException) -> BaseException:
        """Something failed around the job, so that it never came to run or to be settled."""
        if not self.acknowledged:
            if isinstance(error, TimeLimitExceeded):
                self._over_time(error)
            else:
                self._settle(failed(error, self.id, self.job.retries, self.task.policy), error)
        if isinstance(error, MemoryError):
            # Celery would raise it here and end the worker.
            error = exc_info.exception = HandlerError(str(error), type(error).__name__)
        return error

    def _stopped(self, error: Any) -> bool:
        """Whether the process went because the worker ended it: for this job, for another it had run before, for all."""
        return isinstance(error, Terminated) or (
            isinstance(error, ProcessLostError | SystemExit | KeyboardInterrupt)
            and (state.should_terminate or self._already_cancelled or self._already_revoked)
        )

    def _requeue_unsettled(self) -> None:
        """The worker ended the process: the message goes back as it came, and this start does not count."""
        if self.acknowledged:
            return  # cancelled, and recorded so
        # Else Celery would take a process that nobody cancelled for a revoked job's.
        self._already_cancelled = True
        if self._success_was_stored():
            self.acknowledge()
            return
        self.job.recorded = self.job.tracked  # a job whose start is not recorded has nothing to take back
        self._settle(Returned())
        log.info("job %s requeued: its process was ended", shown(self.id), extra=self._extra("requeue_job"))

    def _on_lost(self, error: BaseException) -> None:
        if self.acknowledged or self._success_was_stored():
            return
        self.job.losses += 1
        self.job.last_started_at = self._started_at
        end = lost_worker(Losses(self.job.losses), self.task.policy.max_worker_losses)
        log.warning("job %s lost its process: %s", shown(self.id), error, extra=self._extra("lose_worker"))
        self._settle(end or Postponed(0.0))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A time limit ran out; at the hard one the pool kills the process."""
        if not soft:
            if state.should_terminate:
                self.reject(requeue=True)
            elif not self.acknowledged:
                self._over_time(TimeLimitExceeded(timeout))
        super().on_timeout(soft, timeout)

    def _over_time(self, error: BaseException) -> None:
        if self._success_was_stored():
            self.acknowledge()  # it was done in that very moment
            return
        self.job.started_at = self._started_at
        self._settle(DeadLettered(Reason.TIME_LIMIT, failure_of(error)), error)

    @property
    def _started_at(self) -> datetime | None:
        return datetime.fromtimestamp(self.time_start, UTC) if self.time_start else None

    def acknowledge(self) -> None:
        """Remove the message, and what the broker keeps of its starts."""
        if not self.acknowledged:
            self.acknowledged = True
            delivery = self.job.delivery
            assert isinstance(delivery, WorkerDelivery)
            self.consumer.call_soon_ack(delivery.remove)

    def reject(self, requeue: bool = False) -> None:
        """Requeue the message, or dead-letter it where Celery would have it deleted."""
        if self.acknowledged or self._waits:
            return
        if requeue:
            super().reject(requeue=True)
        else:
            self._settle(refused(DecodeError("rejected by the worker")))

    def _return(self) -> None:
        """Requeue the message untouched, as the next one: the worker stops. What a handler rejects waits behind others."""
        if not self.acknowledged:
            delivery = self.job.delivery
            assert isinstance(delivery, WorkerDelivery)
            self.consumer.call_soon_ack(delivery.return_untouched)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=True)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if not expired:
            super()._announce_revoked(reason, terminated, signum, expired)
            return
        # Celery would record it as revoked; nobody did that, and it is dead-lettered.
        self._expire()
        state.task_ready(self)
        self.send_event("task-revoked", terminated=False, signum=None, expired=True)
        self._already_revoked = True
        signals.task_revoked.send(self.task, request=self._context, terminated=False, signum=None, expired=True)

    def _expire(self) -> None:
        self._settle(expired(self.expires))

    # --- settling

    def _settle(self, end: Outcome, error: BaseException | None = None) -> None:
        """Record and move the job; if that fails, it waits aside."""
        try:
            self.consumer.lifecycle.settle(self.job, end, error)
        except JobsError as failure:
            self._wait(failure)
        self._mark_recorded()

    def _wait(self, error: JobsError) -> None:
        """Its end is decided, and is carried out later."""
        if not self.acknowledged:
            self._waits = True
            self.consumer.settle_later(self.job, error)

    def _on_replaced(self) -> None:
        """Another message took the place of this one."""
        self.acknowledged = True
        self.job.delivery.ended()

    def _mark_recorded(self) -> None:
        """What Celery writes of the job from here on would replace its record."""
        self._request_dict[RECORDED] = True
        context = self.__dict__.get("_context")
        if context is not None:
            setattr(context, RECORDED, True)

    def _extra(self, action: str) -> dict[str, Any]:
        return {"action": action, **self.job.log_fields}
