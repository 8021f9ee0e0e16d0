"""The worker's consumer, extended so that no message is dropped and none can stop the worker.

Celery acknowledges what it cannot decode and rejects what it does not know, which deletes both. Here each is recorded,
kept in ``<queue>.dlq``, and acknowledged then. It is a mixin over the app's own consumer class, and calls that class for
everything.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import ContentDisallowed
from vine import ppartial

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.queues import declare_or_adopt
from mindtrace_jobs.celery.worker.messages import (
    RECEIVED,
    Refused,
    WorkerDelivery,
    are_limits,
    protocol_violation,
    queue_of,
)
from mindtrace_jobs.clients.session import GOODBYE_TIMEOUT, answer_within
from mindtrace_jobs.errors import DecodeError, JobsError, failure_of
from mindtrace_jobs.execution.lifecycle import Lifecycle, ReceivedJob
from mindtrace_jobs.execution.outcome import DeadLettered, Reason, refused
from mindtrace_jobs.execution.unsettled import FIRST_PAUSE, Unsettled
from mindtrace_jobs.transports.contract import JobsChannel
from mindtrace_jobs.transports.packed import keep_packed
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import unknown_type

log = logging.getLogger("mindtrace_jobs.celery")


#: Seconds within which a connection that is given up was of no use, and the longest pause before the next.
_SHORT_LIVED, _LONGEST_PAUSE = 1.0, 30.0


class JobsConsumerMixin:
    """Over any subclass of Celery's worker Consumer."""

    app: Any
    connection: Any
    event_dispatcher: Any
    task_consumer: Any
    pool: Any
    prefetch_multiplier: int
    qos: Any
    timer: Any
    strategies: Any
    hostname: str
    connection_errors: tuple[type[BaseException], ...]
    channel_errors: tuple[type[BaseException], ...]
    _loop_thread: int = -1
    #: When it connected last, in monotonic seconds, and how long it waited before.
    _connecting_at: float = -math.inf
    _connecting_pause: float = 0.0
    #: How many are received in place of jobs that wait to be settled, and by what the broker was told so.
    _room: int = 0
    _roomy: Any = None
    #: Whether the timer will have unsettled jobs looked at.
    _timed: bool = False
    #: The channel over which messages come, if it is one of this package's.
    _channel: JobsChannel | None = None

    @property
    def lifecycle(self) -> Lifecycle:
        """What records and settles this worker's jobs."""
        found = self.__dict__.get("_jobs_lifecycle")
        if found is None:
            found = self.__dict__["_jobs_lifecycle"] = installation.of(self.app).lifecycle(self.hostname)
        return cast("Lifecycle", found)

    @property
    def unsettled(self) -> Unsettled:
        """This worker's jobs whose end is decided, and could not be carried out yet."""
        found = self.__dict__.get("_jobs_unsettled")
        if found is None:
            found = self.__dict__["_jobs_unsettled"] = Unsettled(self.lifecycle)
        return cast("Unsettled", found)

    def settle_later(self, job: ReceivedJob, error: JobsError) -> None:
        """Have a job wait aside whose end is decided: another is received in its place, as for one with an ETA."""
        self.unsettled.add(job, error)
        self._make_room()
        if not self._timed:
            self._settle_in_time()

    def _make_room(self) -> None:
        """Receive others in place of jobs that wait.

        The worker's loop takes note of it only now and then, for up to two seconds, so it is for as many again.
        """
        if self._roomy is not self.qos:  # of an earlier connection
            self._roomy, self._room = self.qos, 0
        waiting = len(self.unsettled)
        if not waiting and self._room:
            self.qos.decrement_eventually(self._room)
            self._room = 0
        elif waiting > self._room and not self.unsettled.full:
            self.qos.increment_eventually(2 * waiting - self._room)
            self._room = 2 * waiting

    def _settle_in_time(self) -> None:
        """Have the jobs that wait be looked at soon, and again as long as there are any."""
        self._timed = len(self.unsettled) > 0
        if self._timed:
            self.timer.call_after(FIRST_PAUSE, self._try_unsettled)

    def _try_unsettled(self) -> None:
        try:
            self.unsettled.try_due()
        finally:
            self._make_room()
            self._settle_in_time()

    def received(self, raw: Any, headers: Mapping[str, Any] | None = None) -> ReceivedJob:
        """A message as the lifecycle sees it, settled by the message itself until a request takes it over.

        Args:
            raw: The Kombu message.
            headers: What a message of protocol 1 has in its body.
        """
        queue = queue_of(raw, self.task_consumer)
        delivery = WorkerDelivery(self.lifecycle.client.delivery_of(raw, queue), raw.ack, raw.requeue)
        headers = delivery.message.headers if headers is None else headers
        task: Any = self.app.tasks.get(wire.text(headers, "task") or "")
        is_job = getattr(task, "is_job", False)
        recorded = self.lifecycle.results.configured and not headers.get("ignore_result")
        return self.lifecycle.described(
            delivery,
            headers,
            tracked=recorded and is_job and task.tracks_start(headers),
            recorded=recorded and not (is_job and task.ignore_result),
        )

    def stop(self) -> None:
        """Stop consuming; a broker that does not answer is not waited for as long as Celery would, which is for ever."""
        events = None if self.event_dispatcher is None else self.event_dispatcher.connection
        for connection in (self.connection, events):
            if connection is not None:
                answer_within(connection, GOODBYE_TIMEOUT)
        super().stop()  # type: ignore[misc]

    # --- queues

    def connect(self) -> Any:
        """Connect, and declare the queues, or adopt those that exist with other arguments."""
        self._loop_thread = threading.get_ident()
        self._wait_between_connections()
        connection = super().connect()  # type: ignore[misc]
        channel = connection.default_channel
        keep_packed(channel, self.lifecycle.client.max_decompressed_bytes)
        self._channel = channel if isinstance(channel, JobsChannel) else None
        if self._channel is not None:
            # Half of what only waits for a free process.
            self._channel.least_claim = self.pool.num_processes * (self.prefetch_multiplier - 1) // 2
        self._declare_queues(connection)
        self._settle_in_time()  # Celery clears its timer when it reconnects
        return connection

    def _wait_between_connections(self) -> None:
        """Wait, longer each time, if the last connection was given up at once: Celery waits only where it cannot connect.

        So it is while a server that took over has too few replicas: it answers, and takes no writes.
        """
        now = time.monotonic()
        short_lived = now - self._connecting_at < _SHORT_LIVED + self._connecting_pause
        self._connecting_pause = min(max(1.0, 2 * self._connecting_pause), _LONGEST_PAUSE) if short_lived else 0.0
        end = now + self._connecting_pause
        while (left := end - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(left, 0.25))
        self._connecting_at = now

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now if this is the loop's own thread.

        Celery leaves it to the event loop's next round. But when a message was read in the same round as another
        callback, as a solo worker does whose broker is quick, the loop first waits for events, for up to ten seconds;
        and none comes, since the broker waits for the acknowledgement.
        """
        if getattr(self, "hub", None) is None or threading.get_ident() != self._loop_thread:
            return super().call_soon_ack(p, *args, **kwargs)  # type: ignore[misc]
        call, channel = ppartial(p, *args, **kwargs), self._channel
        if channel is not None:
            # Many in a turn of the loop are sent together; but a worker that stops has no next turn.
            channel.puts_off = state.should_stop is None and state.should_terminate is None
        try:
            call()
        except Exception:
            # As Celery does without a loop: a lost connection shows when it is read.
            log.exception("not acknowledged", extra={"action": "acknowledge"})
        finally:
            if channel is not None:
                channel.puts_off = False
        return call

    def start(self) -> None:
        """Consume until the worker stops; what was put off in the last turn of the loop is sent then."""
        try:
            super().start()  # type: ignore[misc]
        finally:
            self._send_put_off()

    def _send_put_off(self) -> None:
        if self._channel is not None:
            # What cannot be sent is logged, and told again; a lost connection shows when it is read.
            with suppress(*self.connection_errors):
                self._channel.flush()

    def _declare_queues(self, connection: Any) -> None:
        """Use queues that exist with other arguments as they are."""
        if connection.transport.driver_type == "amqp":
            for queue in self.app.amqp.queues.consume_from.values():
                if not queue.no_declare:
                    declare_or_adopt(queue, connection)

    # --- what Celery drops

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Dead-letter what cannot be decoded."""
        _report(super().on_decode_error, Refused(message), exc)  # type: ignore[misc]
        self._refuse(message, refused(_cause(exc)))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Dead-letter what is no task message."""
        _report(super().on_unknown_message, body, Refused(message))  # type: ignore[misc]
        error = DecodeError("not a Celery task message: it has no task name in its headers or body")
        self._refuse(message, refused(error))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Dead-letter what no task of this worker takes."""
        _report(super().on_unknown_task, body, Refused(message), exc)  # type: ignore[misc]
        name = (message.headers or {}).get("task") or (body or {}).get("task")
        self._refuse(message, refused(unknown_type(name)))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Dead-letter what the task message protocol forbids, and what has a content type that is not accepted."""
        _report(super().on_invalid_task, body, Refused(message), exc)  # type: ignore[misc]
        self._refuse(message, DeadLettered(Reason.UNDECODABLE, failure_of(exc)))

    def _refuse(self, message: Any, end: DeadLettered) -> None:
        """Record that a message cannot be run, move it to the dead-letter queue, and acknowledge it.

        What cannot be moved now waits aside. A connection that is lost meanwhile is the worker's to notice.
        """
        job = self.received(message)
        try:
            self.lifecycle.settle(job, end)
        except JobsError as error:
            self._wait(job, error)

    def _wait(self, job: ReceivedJob, error: JobsError) -> None:
        if not job.delivery.settled:
            self.settle_later(job, error)

    # --- what stops Celery

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's handler of a received message, behind checks of all that it takes for granted."""
        # As called: the app's own consumer need not have Celery's optional argument.
        handle = super().create_task_handler(*args, **kwargs)  # type: ignore[misc]

        def on_task_received(message: Any) -> Any:
            if state.should_stop is not None or state.should_terminate is not None:
                return None  # the worker stops: closing the channel requeues it as it came
            if not self._is_job(message):
                # It may run then and there, for long.
                self._send_put_off()
            try:
                return handle(message) if self._sound(message) else None
            except self.connection_errors + self.channel_errors:
                raise
            except Exception as error:
                # A worker must outlive any message; but once there is a request, the error is not the message's.
                if message.acknowledged or self._is_received(message):
                    raise
                self.on_invalid_task(None, message, error)
                return None

        return on_task_received

    def _sound(self, message: Any) -> bool:
        """Whether Celery can handle the message; what it cannot is dead-lettered."""
        headers = message.headers
        if not isinstance(headers, dict) or "task" not in headers:
            return True  # of protocol 1 or none: Celery looks at the body first
        name = headers["task"]
        if not isinstance(name, str) or not wire.text(headers, "id"):
            self.on_invalid_task(None, message, DecodeError("the headers `task` and `id` of a task message are texts"))
            return False
        if name not in self.strategies:
            return True  # an unknown task
        if not are_limits(headers.get("timelimit")):
            self.on_invalid_task(None, message, DecodeError("the header `timelimit` is no pair of positive seconds"))
            return False
        if self._is_job(message):
            return True  # decoded where it runs
        wrong = wire.wrong_fields(headers)
        if wrong:
            error = DecodeError(f"the header `{wrong[0]}` is not what Celery's protocol says")
            self.on_invalid_task(None, message, error)
            return False
        return self._sound_body(message)

    def _is_job(self, message: Any) -> bool:
        """Whether a task of this worker's that takes typed jobs is named in a message's headers."""
        headers = message.headers
        name = headers.get("task") if isinstance(headers, dict) else None
        return isinstance(name, str) and getattr(self.app.tasks.get(name), "is_job", False)

    def _sound_body(self, message: Any) -> bool:
        """Whether the body is that of a plain task."""
        try:
            payload = message.payload
        except ContentDisallowed as error:
            self.on_invalid_task(None, message, error)
            return False
        except Exception as error:
            self.on_decode_error(message, error)
            return False
        violation = protocol_violation(payload)
        if violation is not None:
            self.on_invalid_task(None, message, DecodeError(f"not a Celery task message: {violation}"))
        return violation is None

    @staticmethod
    def _is_received(message: Any) -> bool:
        requests = (*state.reserved_requests, *state.active_requests, *state.scheduled_requests)
        return any(request.message.delivery_tag == message.delivery_tag for request in requests)

    # --- jobs that take their worker down

    def may_start(self, message: Any, headers: Mapping[str, Any]) -> bool:
        """Whether a job has not lost its worker too often; its request finds then how often it has."""
        job = self.received(message, headers)
        task = self.app.tasks[headers["task"]]
        try:
            if self.lifecycle.lost_too_often(job, task.policy.max_worker_losses):
                return False
        except JobsError as error:
            self._wait(job, error)
            return False
        if isinstance(message.headers, dict):
            message.headers[wire.LOSSES] = job.losses
        setattr(message, RECEIVED, job)
        return True


class JobsConsumer(JobsConsumerMixin, Consumer):  # type: ignore[misc]
    """Celery's own consumer, extended."""


def with_jobs(base: type[Any]) -> type[Any]:
    """A consumer class, extended unless it is already."""
    if issubclass(base, JobsConsumerMixin):
        return base
    return type(base.__name__, (JobsConsumerMixin, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def _report(celery: Callable[..., Any], *args: Any) -> None:
    """Let Celery log a refused message and send its signal and event; whatever fails there ends no worker."""
    try:
        celery(*args)
    except Exception:
        log.exception("a refused message could not be reported", extra={"action": "report_message"})


def _cause(error: BaseException) -> DecodeError:
    """The cause of a decoding error as Kombu raised it: it wraps the decoder's own."""
    cause = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    return cause if isinstance(cause, DecodeError) else DecodeError(f"{type(cause).__name__}: {cause}")
