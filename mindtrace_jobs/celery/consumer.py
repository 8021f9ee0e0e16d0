"""The worker's consumer, extended so that no message is dropped and none can stop the worker.

Celery acknowledges what it cannot decode and rejects what it does not know, which deletes both. Here each is first kept
in ``<queue>.dlq``. It is a mixin over the app's own consumer class, and calls that class for everything.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.exceptions import ContentDisallowed
from vine import ppartial

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.errors import WorkerLostError
from mindtrace_jobs.celery.keeper import Keeper, KeptMessage, why
from mindtrace_jobs.celery.messages import fault_of, queue_of, worker_losses
from mindtrace_jobs.celery.queues import settle
from mindtrace_jobs.clients.delivery import DELIVERY_COUNT
from mindtrace_jobs.deadletter import Reason
from mindtrace_jobs.errors import DecodeError
from mindtrace_jobs.message import ATTEMPTS

log = logging.getLogger("mindtrace_jobs.celery")

_MARK = "mark_started"


class JobsConsumerMixin:
    """Over any subclass of Celery's worker Consumer."""

    app: Any
    connection: Any
    task_consumer: Any
    strategies: Any
    hostname: str
    connection_errors: tuple[type[BaseException], ...]
    channel_errors: tuple[type[BaseException], ...]
    _loop_thread: int = -1

    @property
    def keeper(self) -> Keeper:
        """Where this worker's dead letters go."""
        found = self.__dict__.get("_jobs_keeper")
        if found is None:
            found = self.__dict__["_jobs_keeper"] = Keeper(self._installation)
        return cast("Keeper", found)

    @property
    def _installation(self) -> installation.Installation:
        return installation.find(self.app) or installation.Installation(installation.real_app(self.app))

    def queue_of(self, raw: Any) -> str:
        """The queue a message came from."""
        return queue_of(raw, self.task_consumer)

    # --- queues

    def connect(self) -> Any:
        """Connect, and settle which of the queues are used as they are."""
        self._loop_thread = threading.get_ident()
        connection = super().connect()  # type: ignore[misc]
        self._declare_queues(connection)
        return connection

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now if this is the loop's own thread.

        Celery leaves it to the event loop's next round. But when a message was read in the same round as another
        callback, as a solo worker does whose broker is quick, the loop first waits for events, for up to ten seconds;
        and none comes, since the broker waits for the acknowledgement.
        """
        if getattr(self, "hub", None) is None or threading.get_ident() != self._loop_thread:
            return super().call_soon_ack(p, *args, **kwargs)  # type: ignore[misc]
        call = ppartial(p, *args, **kwargs)
        try:
            call()
        except Exception:
            # As Celery does without a loop: a lost connection shows when it is read.
            log.exception("not acknowledged", extra={"action": "acknowledge"})
        return call

    def _declare_queues(self, connection: Any) -> None:
        """Use queues that exist with other arguments as they are."""
        if connection.transport.driver_type == "amqp":
            for queue in self.app.amqp.queues.consume_from.values():
                if not queue.no_declare:
                    settle(queue, connection)

    # --- what Celery drops

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Keep what cannot be decoded."""
        reason, cause = why(exc)
        super().on_decode_error(self._kept(message, reason, cause), exc)  # type: ignore[misc]
        self.keeper.fail(message, cause)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Keep what is no task message."""
        cause = DecodeError("not a Celery task message: it has no task name in its headers or body")
        super().on_unknown_message(body, self._kept(message, Reason.UNDECODABLE, cause))  # type: ignore[misc]

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Keep what no task of this worker takes. Celery records the failure."""
        name = (message.headers or {}).get("task") or (body or {}).get("task")
        cause = DecodeError(f"no task {name!r:.80} is registered in this worker: import the module that defines it")
        super().on_unknown_task(body, self._kept(message, Reason.UNKNOWN_TASK, cause), exc)  # type: ignore[misc]

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Keep what the task message protocol forbids, and what has a content type that is not accepted."""
        super().on_invalid_task(body, self._kept(message, Reason.UNDECODABLE, exc), exc)  # type: ignore[misc]
        self.keeper.fail(message, exc)

    def _kept(self, message: Any, reason: Reason, error: BaseException) -> Any:
        queue = self.queue_of(message)
        return KeptMessage(message, lambda: self.keeper.keep(message, queue, reason, error, worker=self.hostname))

    # --- what stops Celery

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's handler of a received message, behind checks of all that it takes for granted."""
        # As called: the app's own consumer need not have Celery's optional argument.
        handle = super().create_task_handler(*args, **kwargs)  # type: ignore[misc]

        def on_task_received(message: Any) -> Any:
            if not self._sound(message) or not self._may_start(message):
                return None
            try:
                return handle(message)
            except self.connection_errors + self.channel_errors:
                raise
            except Exception as error:
                # A worker must outlive any message; but once it is taken up, the error is not the message's.
                if message.acknowledged or self._taken_up(message):
                    raise
                self.on_invalid_task(None, message, error)
                return None

        return on_task_received

    def _sound(self, message: Any) -> bool:
        """Whether Celery can take the message up; what it cannot is kept and acknowledged."""
        headers = message.headers
        if not isinstance(headers, dict) or "task" not in headers:
            return True  # of protocol 1 or none: Celery looks at the body first
        name = headers["task"]
        if not isinstance(name, str) or not isinstance(headers.get("id"), str):
            self.on_invalid_task(None, message, DecodeError("the headers `task` and `id` of a task message are texts"))
            return False
        if name not in self.strategies:
            return True  # an unknown task
        try:
            payload = message.payload
        except ContentDisallowed as error:
            self.on_invalid_task(None, message, error)
            return False
        except Exception as error:
            self.on_decode_error(message, error)
            return False
        fault = fault_of(headers, payload)
        if fault is not None:
            self.on_invalid_task(None, message, DecodeError(f"not a Celery task message: {fault}"))
        return fault is None

    @staticmethod
    def _taken_up(message: Any) -> bool:
        taken = (*state.reserved_requests, *state.active_requests, *state.scheduled_requests)
        return any(request.message is message for request in taken)

    # --- jobs that take their worker down

    def _may_start(self, message: Any) -> bool:
        """Whether a job has not lost its worker too often; its message then says how often it has."""
        name = (message.headers or {}).get("task")
        task: Any = self.app.tasks.get(name) if isinstance(name, str) else None
        if not getattr(task, "is_job", False):
            return True
        losses = self._losses(task, message)
        if losses is None:
            return False
        message.headers[ATTEMPTS] = losses
        if losses < self._installation.max_worker_losses:
            return True
        error = WorkerLostError(
            f"its worker vanished {losses} times while running it (killed, out of memory, lost its lease)"
        )
        queue = self.queue_of(message)
        self.keeper.keep(message, queue, Reason.WORKER_LOST, error, attempts=losses, worker=self.hostname)
        message.ack()
        self.keeper.fail(message, error)
        return False

    def _losses(self, task: Any, message: Any) -> int | None:
        """How often work on a job began and its worker vanished; None if a copy that says so was put in its place."""
        headers = message.headers
        counted = hasattr(message.channel, _MARK)
        if counted or not (message.delivery_info or {}).get("redelivered"):
            return worker_losses(headers, counted=counted)
        recorded = None if headers.get("ignore_result") else task.started_attempts(headers["id"])
        if recorded is None and DELIVERY_COUNT in headers:
            return worker_losses(headers, counted=False)
        if recorded is None:
            # Without a record of starts, count on the message itself: its place in the queue is the price.
            losses = worker_losses(headers, counted=False) + 1
        else:
            losses = max(worker_losses(headers, counted=True), int(recorded))
            limit = self._installation.max_worker_losses
            if losses >= limit or worker_losses(headers, counted=False) < limit:
                return losses
            # A quorum queue counts deliveries, and beyond its own limit drops what it delivered, begun or not.
        self.keeper.run_again(message, self.queue_of(message), losses)
        message.ack()
        return None


class JobsConsumer(JobsConsumerMixin, Consumer):  # type: ignore[misc]
    """Celery's own consumer, extended."""


def with_jobs(base: type[Any]) -> type[Any]:
    """A consumer class, extended unless it is already."""
    if issubclass(base, JobsConsumerMixin):
        return base
    return type(base.__name__, (JobsConsumerMixin, base), {"__module__": base.__module__, "__doc__": base.__doc__})
