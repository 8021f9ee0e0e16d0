"""A job in a worker's main process: what Celery would drop is kept first, and a lost worker is counted."""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import signals
from celery.concurrency.base import BasePool
from celery.exceptions import (
    Ignore,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
)
from celery.exceptions import WorkerLostError as ProcessLostError
from celery.worker import state
from celery.worker.request import Request

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.errors import (
    CancelledIgnore,
    InvalidInputError,
    InvalidOutputError,
    JobExpiredError,
    WorkerLostError,
)
from mindtrace_jobs.celery.keeper import Keeper
from mindtrace_jobs.celery.messages import queue_of
from mindtrace_jobs.deadletter import Reason
from mindtrace_jobs.errors import DecodeError, JobsError, RejectJob
from mindtrace_jobs.logs import message_fields
from mindtrace_jobs.message import ATTEMPTS

log = logging.getLogger("mindtrace_jobs.celery")

#: The first that fits an exception says why its job is dead-lettered.
_REASONS: tuple[tuple[type[BaseException], Reason], ...] = (
    (InvalidOutputError, Reason.INVALID_OUTPUT),
    (InvalidInputError, Reason.INVALID_INPUT),
    (RejectJob, Reason.REJECTED),
    (Reject, Reason.REJECTED),
    (TimeLimitExceeded, Reason.TIME_LIMIT),
    (SoftTimeLimitExceeded, Reason.TIME_LIMIT),
    (ProcessLostError, Reason.WORKER_LOST),
)


class JobRequest(Request):  # type: ignore[misc]
    """Celery's request of a job task.

    ``consumer`` is set on the subclass that a worker makes for each of its tasks.
    """

    consumer: Any = None

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self.queue = queue_of(message, getattr(self.consumer, "task_consumer", None))
        self._kept = False
        # Monitors show which job it is, not its data, whatever its producer wrote there.
        self._argsrepr, self._kwargsrepr = f"(<{self.task.schema.__name__} job {self.id}>,)", "{}"
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    @property
    def losses(self) -> int:
        """How often work on it began before and its worker vanished."""
        value = self._request_dict.get(ATTEMPTS)
        return value if isinstance(value, int) else 0

    @property
    def _installation(self) -> installation.Installation:
        return installation.find(self.app) or installation.Installation(installation.real_app(self.app))

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
        mark = getattr(self.message.channel, "mark_started", None)
        if mark is not None:
            # On the thread that owns the channel, as acknowledgements are.
            run = getattr(self.consumer, "call_soon_ack", None)
            run(mark, self.message.delivery_tag) if run is not None else mark(self.message.delivery_tag)

    # --- ends

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """End the job's process: the worker stops, or has lost its connection. Where there is none, the job goes on.

        For threads and solo Celery raises an error, which would end the worker's loop, or the job itself. A greenlet it
        would end, and then acknowledge the job as done.
        """
        if self._can_be_ended(pool) and not pool.is_green:
            super().cancel(pool, signal, emit_retry)
        else:
            log.info("job %s cannot be ended and runs on", self.id, extra=self._extra("cancel_job"))

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
        """The job failed for good, is to be retried, or lost its process."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, CancelledIgnore):
            return self._on_cancelled(exc_info, send_failed_event, return_ok)
        if self._stopped(error):
            self._put_back()
            return super().on_failure(exc_info, send_failed_event, return_ok)
        if isinstance(error, Retry | Ignore | MemoryError):
            return super().on_failure(exc_info, send_failed_event, return_ok)
        if isinstance(error, ProcessLostError | SystemExit | KeyboardInterrupt):
            return self._on_lost(exc_info, error, send_failed_event, return_ok)
        if isinstance(error, TimeLimitExceeded) and state.should_terminate:
            self.reject(requeue=True)
        elif not (isinstance(error, Reject) and error.requeue):
            reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.RETRIES_EXHAUSTED)
            self._keep(reason, error)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _on_cancelled(self, exc_info: Any, send_failed_event: bool, return_ok: bool) -> Any:
        """Tell monitors too: of a task that is ignored Celery says nothing, and they would show it as running for ever."""
        done = super().on_failure(exc_info, send_failed_event, return_ok)
        how = {"terminated": False, "signum": None, "expired": False}
        self.send_event("task-revoked", **how)
        signals.task_revoked.send(self.task, request=self._context, **how)
        return done

    def _stopped(self, error: Any) -> bool:
        """Whether the process went because the worker ended it: for this job, for another it had run before, for all."""
        return isinstance(error, Terminated) or (
            isinstance(error, ProcessLostError | SystemExit | KeyboardInterrupt)
            and (state.should_terminate or self._already_cancelled or self._already_revoked)
        )

    def _put_back(self) -> None:
        """The worker ended the process: the message goes back as it came, and this start does not count."""
        if self.acknowledged:
            return  # cancelled, and recorded so
        # Else Celery would take a process that nobody cancelled for a revoked job's.
        self._already_cancelled = True
        if self._success_was_stored():
            self.acknowledge()
            return
        try:
            self.task.record_put_back(self._context, self.losses)
        except Exception as failure:
            log.error("job %s: not recorded as queued: %s", self.id, failure, extra=self._extra("record_status"))  # noqa: TRY400
        self.reject(requeue=True)
        log.info("job %s put back: its process was ended", self.id, extra=self._extra("put_back_job"))

    def _on_lost(self, exc_info: Any, error: Any, send_failed_event: bool, return_ok: bool) -> Any:
        losses = self.losses + 1
        over = losses >= self._installation.max_worker_losses
        if not self.acknowledged and not self._success_was_stored():
            try:
                if over:
                    failure = WorkerLostError(f"its process vanished {losses} times while running it: {error}")
                    self._keep(Reason.WORKER_LOST, failure, losses)
                    self._record(failure, exc_info)
                else:
                    self._keeper.run_again(self.message, self.queue, losses)
                self.acknowledge()
            except JobsError as failed:
                log.error("job %s put back: %s", self.id, failed, extra=self._extra("put_back_job"))  # noqa: TRY400
                self.reject(requeue=True)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A time limit ran out; at the hard one the pool kills the process."""
        if not soft:
            if state.should_terminate:
                self.reject(requeue=True)
            else:
                self._keep(Reason.TIME_LIMIT, TimeLimitExceeded(timeout))
        super().on_timeout(soft, timeout)

    def reject(self, requeue: bool = False) -> None:
        """Give the message back, or keep it where Celery would have it deleted."""
        if not requeue and not self.acknowledged:
            self._keep(Reason.REJECTED, DecodeError("rejected by the worker"))
        if not self.acknowledged:
            super().reject(requeue=requeue)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if not expired:
            super()._announce_revoked(reason, terminated, signum, expired)
            return
        # Celery would record it as revoked; nobody did that, and it is kept.
        error = JobExpiredError(f"expired at {self.expires.isoformat()}")
        state.task_ready(self)
        self._keep(Reason.EXPIRED, error)
        self.send_event("task-revoked", terminated=False, signum=None, expired=True)
        self._record(error, None)
        self.acknowledge()
        self._already_revoked = True
        signals.task_revoked.send(self.task, request=self._context, terminated=False, signum=None, expired=True)

    # --- keeping

    @property
    def _keeper(self) -> Keeper:
        keeper = getattr(self.consumer, "keeper", None)
        return keeper if isinstance(keeper, Keeper) else Keeper(self._installation)

    def _keep(self, reason: Reason, error: BaseException, losses: int | None = None) -> None:
        """Publish to the dead-letter queue once; if that fails, give the message back instead of losing it."""
        if self._kept or self.acknowledged:
            return
        try:
            self._keeper.keep(
                self.message,
                self.queue,
                reason,
                error,
                attempts=self.losses if losses is None else losses,
                worker=self.hostname,
            )
            self._kept = True
        except JobsError as failed:
            log.error("job %s put back, not kept: %s", self.id, failed, extra=self._extra("put_back_job"))  # noqa: TRY400
            self.reject(requeue=True)

    def _record(self, error: BaseException, exc_info: Any) -> None:
        try:
            self.task.backend.mark_as_failure(
                self.id,
                error,
                getattr(exc_info, "traceback", None),
                request=self._context,
                store_result=self.store_errors,
            )
        except Exception as failure:
            log.error("job %s: failure not recorded: %s", self.id, failure, extra=self._extra("record_status"))  # noqa: TRY400

    def _extra(self, action: str) -> dict[str, Any]:
        return {"action": action, **message_fields(self._request_dict, self.queue, self.losses)}
