"""Consumer: receive, run, acknowledge in this process. The one loop for all backends."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Generic, TypeVar

from mindtrace_jobs._arguments import check_count, check_seconds, listed
from mindtrace_jobs.clients import Delivery, Source, is_dead_letter_queue
from mindtrace_jobs.clients.base import LARGEST_PREFETCH
from mindtrace_jobs.clients.names import check_queue
from mindtrace_jobs.errors import BrokerError, ClosedError, ConfigurationError, DecodeError, JobsError, LeaseLostError
from mindtrace_jobs.execution.handlers import is_async, set_output
from mindtrace_jobs.execution.lifecycle import ReceivedJob
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.execution.unsettled import Unsettled
from mindtrace_jobs.jobs import Job, JobOutput, JobSchema
from mindtrace_jobs.logs import running, shown
from mindtrace_jobs.orchestrator import Orchestrator, check_schema

log = logging.getLogger("mindtrace_jobs.consumer")

SchemaT = TypeVar("SchemaT", bound=JobSchema[Any, Any])

#: Longest time in seconds until a stop is noticed while waiting for work.
_POLL_INTERVAL = 0.25
#: Seconds without a delivery after which the queues are asked whether they are empty.
_IDLE_TIMEOUT = 0.05
#: First and longest pause in seconds between two tries to reach the broker, and to begin with a job.
_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_PAUSE_OF_JOB = 0.1, 30.0, 5.0


class Consumer(Generic[SchemaT]):
    """Runs the jobs of some queues, one at a time, with a handler.

    A job is acknowledged when its handler has returned and its result is recorded, so a process that is killed loses
    none. While the result backend is away jobs run all the same, once, and are recorded when it is back. While the broker
    takes no writes none begins; a job whose retry or dead letter it refuses waits aside, and those behind it run. A handler
    that raises has its job retried by the retry policy, then dead-lettered; raise ``RejectJob`` to dead-letter at once and
    ``RetryJob(delay=...)`` to choose the pause. Use it with a handler, or subclass it::

        Consumer(orchestrator, ["detection_jobs"], detect).run_forever()


        class Detector(Consumer[DetectionSchema]):
            schema = DetectionSchema

            def run(self, job: Job[DetectionSchema]) -> DetectionOutput: ...

    Run several in threads or processes to run several jobs at once.

    Args:
        orchestrator: Where jobs come from and are recorded.
        queues: One queue, or some, consumed in turn.
        handler: Called with each job; returns the typed output, or None.
        schema: Read every payload as this schema; a job of another is dead-lettered.
        retry: Default the orchestrator's.
        prefetch: Jobs held ready in this process. 1 leaves the others to whoever is free; more is faster for short jobs.
    """

    #: A subclass may name its schema here.
    schema: type[SchemaT] | None = None

    def __init__(
        self,
        orchestrator: Orchestrator,
        queues: str | Sequence[str],
        handler: Callable[[Job[SchemaT]], JobOutput | None] | None = None,
        *,
        schema: type[SchemaT] | None = None,
        retry: RetryPolicy | None = None,
        prefetch: int = 1,
    ) -> None:
        if handler is None and type(self).run is Consumer.run:
            raise ConfigurationError("pass a handler, or subclass Consumer and define run(self, job)")
        if handler is not None and not callable(handler):
            raise ConfigurationError(f"handler is {handler!r:.40}; it must be callable with a job")
        if is_async(handler or self.run):
            raise ConfigurationError("a handler is no coroutine function: call asyncio.run(...) in a plain one")
        if not isinstance(orchestrator, Orchestrator):
            raise ConfigurationError(f"Consumer takes an orchestrator, not {type(orchestrator).__name__}")
        check_count("prefetch", prefetch, LARGEST_PREFETCH)
        self.orchestrator = orchestrator
        self.queues = [queues] if isinstance(queues, str) else listed("queues", queues)
        for queue in self.queues:
            check_queue(queue)
        letters = [queue for queue in self.queues if is_dead_letter_queue(queue)]
        if letters:
            raise ConfigurationError(
                f"{letters[0]!r} keeps what could not run: replay it with orchestrator.dead_letters.replay(...)"
            )
        self.retry = retry or orchestrator.retry
        self.prefetch = prefetch
        self._handler = handler
        if schema is not None:
            self.schema = schema
        check_schema(self.schema)
        self._stopping = threading.Event()
        #: Seconds to wait when a job cannot begin.
        self._pause = _FIRST_PAUSE

    def run(self, job: Job[SchemaT]) -> JobOutput | None:
        """Do the work of one job; override it, or pass a handler."""
        assert self._handler is not None
        return self._handler(job)

    def consume(self, num_messages: int | None = None, timeout: float | None = None) -> int:
        """Run jobs until ``num_messages`` are settled, ``timeout`` seconds passed, or ``stop`` was called.

        Dead-lettered messages count. A connection that is lost is made again, and a broker that answers with errors is
        asked again, with growing pauses.

        Returns:
            How many were settled.

        Raises:
            ConfigurationError: ``num_messages`` is less than 1, or ``timeout`` no number of seconds.
            QueueNotFoundError: a queue is not there.
            BrokerUnavailableError: no broker answered at the start.
        """
        if num_messages is not None:
            check_count("num_messages", num_messages)
        check_seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._loop(lambda done: done == num_messages or (deadline is not None and time.monotonic() >= deadline))

    def consume_until_empty(self) -> int:
        """Run jobs until no queue has one ready. Jobs that wait for their time, retries too, are not waited for.

        Returns:
            How many were settled; raises as ``consume``.
        """
        return self._loop(lambda _: False, until_empty=True)

    def run_forever(self) -> int:
        """Run jobs until SIGTERM or SIGINT, or ``stop()`` from another thread.

        The job that runs is finished, what waits in this process is requeued, then this returns. A second signal of
        the same kind acts as if this method had not been called. Signals are only handled in the main thread.

        Returns:
            How many jobs were settled; raises as ``consume``.
        """
        with self._signals():
            return self.consume()

    def stop(self) -> None:
        """Make the loop end after the job that runs. Callable from any thread."""
        self._stopping.set()

    def _loop(self, enough: Callable[[int], bool], *, until_empty: bool = False) -> int:
        done = 0
        pause = _FIRST_PAUSE
        unsettled = Unsettled(self.orchestrator.lifecycle)
        with self.orchestrator.client.consume(self.queues, self.prefetch) as source:
            # The stop order: receive no more, finish what runs, requeue what waits (closing the source), close.
            while not self._stopping.is_set() and not enough(done):
                done += unsettled.try_due()
                try:
                    delivery = source.next(_IDLE_TIMEOUT if until_empty else _POLL_INTERVAL)
                    if delivery is None and until_empty and self._empty(source):
                        break
                except BrokerError as error:
                    log.warning("%s; trying again in %.1f s", error, pause, extra={"action": "reconnect"})
                    self._stopping.wait(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    continue
                pause = _FIRST_PAUSE
                if delivery is not None:
                    done += self._handle(delivery, source, unsettled)
            if not self._stopping.is_set():
                done += unsettled.try_due(at_once=True)
        self._stopping.clear()
        return done

    def _empty(self, source: Source) -> bool:
        if source.buffered or any(self.orchestrator.queue_status(queue) for queue in self.queues):
            return False
        source.read_sent()  # what is on its way to this process is not ready any more
        return not source.buffered

    def _handle(self, delivery: Delivery, source: Source, unsettled: Unsettled) -> int:
        """Run one delivery to its end; 1 unless it waits, or went back to wait."""
        lifecycle = self.orchestrator.lifecycle
        received = lifecycle.described(delivery)
        try:
            # It may have waited here for long.
            delivery.confirm()
            if lifecycle.may_run(received, self.retry.max_worker_losses) and lifecycle.start(received):
                self._pause = _FIRST_PAUSE
                self._run(received)
        except DecodeError:
            pass  # dead-lettered, and logged there
        except ClosedError:
            self._requeue(delivery)
            raise
        except JobsError as error:
            self._wait(received, error, source, unsettled)
            return 0
        except Exception as error:
            return self._fail_unexpectedly(received, error, source, unsettled)
        except BaseException:
            self._requeue(delivery)
            raise
        return 0 if delivery.postponed else 1

    def _wait(self, received: ReceivedJob, error: Exception, source: Source, unsettled: Unsettled) -> None:
        """Have a job wait that the broker keeps from beginning, or from being settled."""
        delivery = received.delivery
        if delivery.settled or isinstance(error, LeaseLostError):
            # The broker delivers it again; whatever was done may be done twice.
            extra = {"action": "lose_delivery", **delivery.log_fields}
            log.warning("job not settled, it will run again: %s", error, extra=extra)
            self._requeue(delivery)
        elif received.end is not None:
            settled: Callable[[], None] | None = None
            if not unsettled.full:
                with suppress(BrokerError):  # which shows when the next one is received
                    settled = source.set_aside()
            unsettled.add(received, error, settled or (lambda: None))
        else:
            extra = {"action": "postpone_start", **delivery.log_fields}
            log.warning("job not begun, tried again in %.1f s: %s", self._pause, error, extra=extra)
            source.put_back(delivery)
            self._stopping.wait(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_OF_JOB)

    def _fail_unexpectedly(self, received: ReceivedJob, error: Exception, source: Source, unsettled: Unsettled) -> int:
        """Something failed around the job: counted and delayed like a failure of its own, so that it blocks nobody."""
        delivery = received.delivery
        log.error("message not handled: %s", type(error).__name__, exc_info=error, extra=delivery.log_fields)
        try:
            if not delivery.settled:
                self.orchestrator.lifecycle.fail(received, error, self.retry)
        except Exception as failure:
            self._wait(received, failure, source, unsettled)
            return 0
        return 1

    @staticmethod
    def _requeue(delivery: Delivery) -> None:
        if not delivery.settled:
            with suppress(JobsError):
                delivery.requeue()

    def _run(self, received: ReceivedJob) -> None:
        lifecycle = self.orchestrator.lifecycle
        try:
            job = lifecycle.decode(received, self.schema)
        except BaseException as error:  # of a validator that exits, or what keeps signatures from being verified
            if received.end is not None:
                raise  # it was refused, or could not be
            self._fail(received, error)
            return
        try:
            with running(received.log_fields):
                set_output(job, self.run(job))
        except BaseException as error:  # SystemExit or whatever: it ends the job and not this loop
            self._fail(received, error)
        else:
            lifecycle.succeed(received)

    def _fail(self, received: ReceivedJob, error: BaseException) -> None:
        log.debug(
            "job %s raised", shown(received.id), exc_info=error, extra={"action": "run_job", **received.log_fields}
        )
        try:
            self.orchestrator.lifecycle.fail(received, error, self.retry)
        finally:
            if isinstance(error, KeyboardInterrupt):
                raise error

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}

        def stop(number: int, _frame: FrameType | None) -> None:
            signal.signal(number, before[number])
            self.stop()

        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
