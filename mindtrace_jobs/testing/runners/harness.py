"""Runners: one broker, one kind of runner, and what the conformance tests need to look at both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from uuid import uuid4

from mindtrace_jobs import DeadLetter
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.results import JobHandle, JobRecord
from mindtrace_jobs.testing.base import wait_until
from mindtrace_jobs.testing.runners.jobs import ActionOutput, action_job, begun
from mindtrace_jobs.testing.runners.options import RunnerOptions
from mindtrace_jobs.testing.runners.running import (
    CeleryWorkerProcess,
    CeleryWorkerThread,
    ConsumerProcess,
    ConsumerThread,
    Runner,
)

#: Seconds within which a runner acknowledges what a test has seen the end of; later it gets a runner of its own.
_LATE = 2.0

MadeT = TypeVar("MadeT")
RunnerKind = Literal["consumer", "solo", "threads", "prefork", "gevent"]


@dataclass(frozen=True)
class Waiting:
    """Jobs that were submitted before the shared runner was started.

    Attributes:
        cancelled, expired, behind: The first two are not to run, the third is.
        was_cancelled: What ``cancel`` returned.
        path: The trace of ``cancelled``.
    """

    cancelled: JobHandle[ActionOutput]
    expired: JobHandle[ActionOutput]
    behind: JobHandle[ActionOutput]
    was_cancelled: bool
    path: Path


class Runners:
    """A broker, and runners of one kind on it.

    A runner that all tests share is started when it is first asked for. Tests that kill or stop a runner make one of
    their own, on queues of their own. ``close`` ends all of them.

    Args:
        broker: URL of a broker that nobody else uses: ``memory://``, ``redis://`` or ``amqp://``. In memory runners are
            threads, elsewhere processes.
        kind: "consumer", or the pool of a Celery worker.
        folder: For logs, and for traces that jobs leave.
        results: URL of a Celery result backend; needed for RabbitMQ.
        settings: Of Celery, for workers and for the app that publishes.
        lease: Seconds, on Redis.

    Raises:
        ConfigurationError: there is no result backend.
    """

    def __init__(
        self,
        broker: str,
        kind: RunnerKind,
        folder: Path,
        *,
        results: str | None = None,
        settings: Mapping[str, Any] | None = None,
        lease: float = 2.0,
    ) -> None:
        if results is None and broker.startswith(("amqp", "pyamqp")):
            raise ConfigurationError("Runners on RabbitMQ need a result backend: results='redis://...'")
        self.kind = kind
        self.folder = folder
        self.options = RunnerOptions(
            broker, results, lease=lease, settings=dict(settings or {}), coroutines=kind != "gevent"
        )
        self.queue = self.new_name()
        #: A queue of the shared runner, for jobs that stay where they are.
        self.parked = self.new_name()
        #: A queue of the shared runner that had jobs before it was started.
        self.early = self.new_name()
        self.app: Any = None
        if self.celery:
            from mindtrace_jobs.testing.runners.celery_app import make_app

            self.app = make_app(self.options)
            self.orchestrator = Orchestrator.from_celery(self.app)
        else:
            self.orchestrator = self.options.orchestrator()
        self._shared: Runner | None = None
        self._waiting: Waiting | None = None
        self._made: list[Runner] = []
        self._once: dict[Any, Any] = {}

    # --- what the runner is

    @property
    def celery(self) -> bool:
        """Whether runners are Celery workers."""
        return self.kind != "consumer"

    @property
    def processes(self) -> bool:
        """Whether runners are processes of their own, which can be killed."""
        return not self.options.broker.startswith("memory")

    @property
    def rabbitmq(self) -> bool:
        """Whether the broker is RabbitMQ."""
        return self.options.broker.startswith(("amqp", "pyamqp"))

    @property
    def coroutines(self) -> bool:
        """Whether the runner takes coroutine functions."""
        return self.celery and self.options.coroutines

    # --- runners

    def shared(self) -> Runner:
        """The runner that tests share, running; it is started again if it has ended."""
        if self._shared is None:
            self._waiting = self._prepare()
            self._shared = self.new(self.queue, self.parked, self.early)
        if not self._shared.alive:
            self._shared.start().wait_ready()
        return self._shared

    def clear(self) -> None:
        """Have the next test find what it expects: no dead letters, and a runner that is not kept by earlier jobs.

        A shared runner that has ended, or has work left, is replaced by another on another queue.
        """
        if self._shared is None:
            return
        self.orchestrator.dead_letters.purge(self.queue)
        deadline = time.monotonic() + _LATE
        while not (idle := self._idle(self.queue)) and self._shared.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        if not idle or not self._shared.alive:
            self._shared.kill()
            self.queue = self.new_name()
            self._shared = self.new(self.queue, self.parked, self.early)

    @property
    def waiting(self) -> Waiting:
        """What waited for the shared runner."""
        self.shared()
        assert self._waiting is not None
        return self._waiting

    def new(self, *queues: str, prefetch: int = 1, supervised: bool = False) -> Runner:
        """A runner that is not started yet, on queues that are declared if need be.

        Args:
            queues: Their names.
            prefetch: Jobs held in the runner.
            supervised: Start it again whenever it has ended; for processes.
        """
        for queue in queues:
            if not self.orchestrator.client.exists(queue):
                self.orchestrator.declare_queue(queue)
        options = replace(self.options, queues=queues, prefetch=prefetch)
        self._made.append(self._new(options, supervised=supervised))
        return self._made[-1]

    def _new(self, options: RunnerOptions, *, supervised: bool) -> Runner:
        if self.processes:
            if not self.celery:
                return ConsumerProcess(options, self.folder, supervised=supervised)
            return CeleryWorkerProcess(options, self.folder, pool=self.kind, supervised=supervised)
        return CeleryWorkerThread(self.app, options, pool=self.kind) if self.celery else ConsumerThread(options)

    def _prepare(self) -> Waiting:
        path = self.new_path()
        submit = self.orchestrator.submit
        cancelled = submit(action_job(path=str(path)), queue=self.early)
        was_cancelled = cancelled.cancel()
        expired = submit(action_job(), queue=self.early, expires=timedelta(seconds=-1))
        behind = submit(action_job(text="behind"), queue=self.early)
        return Waiting(cancelled, expired, behind, was_cancelled, path)

    # --- jobs

    def submit(self, action: str = "work", *, queue: str | None = None, **options: Any) -> JobHandle[Any]:
        """Submit a job to the shared runner's queue, or another; ``options`` as ``action_job``'s."""
        return self.orchestrator.submit(action_job(action, **options), queue=queue or self.queue)

    def new_path(self) -> Path:
        """A file that does not exist, for the trace of a job."""
        return self.folder / f"trace-{uuid4().hex[:12]}"

    def new_name(self) -> str:
        """A name that no queue has."""
        return f"runners-{uuid4().hex[:12]}"

    def once(self, make: Callable[[Runners], MadeT]) -> MadeT:
        """What ``make`` returns for these runners, called once: for what several tests look at."""
        if make not in self._once:
            self._once[make] = make(self)
        made: MadeT = self._once[make]
        return made

    # --- waiting for the last effect

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until a condition holds.

        Raises:
            AssertionError: it did not; with the ends of the running runners' logs.
        """
        try:
            wait_until(condition, what)
        except AssertionError as error:
            logs = [f"{runner!r}:\n{runner.log[-1500:]}" for runner in self._made if runner.alive]
            raise AssertionError("\n".join([str(error), *logs])) from None

    def ended(self, handle: JobHandle[Any]) -> JobRecord[Any]:
        """The record of a job when it has ended."""
        self.wait(lambda: handle.status().final, f"the end of job {handle.id}")
        return handle.record()

    def dead_letter(self, job_id: str, queue: str | None = None) -> DeadLetter:
        """The dead letter of a job, as soon as there is one."""
        found: list[DeadLetter] = []

        def look() -> bool:
            found.extend(self.letters(job_id, queue))
            return bool(found)

        self.wait(look, f"the dead letter of job {job_id}")
        return found[0]

    def letters(self, job_id: str, queue: str | None = None) -> list[DeadLetter]:
        """What is in the dead-letter queue of a job."""
        letters = self.orchestrator.dead_letters
        name = queue or self.queue
        return [letter for letter in letters.list(name, max(letters.count(name), 1)) if letter.id == job_id]

    def wait_empty(self, queue: str | None = None) -> None:
        """Wait until nothing of a queue is ready or, where the broker tells, unacknowledged."""
        name = queue or self.queue
        self.wait(lambda: self._idle(name), f"{name} empty")

    def _idle(self, queue: str) -> bool:
        info = self.orchestrator.queue_info(queue)
        return info.ready == 0 and not info.unacknowledged

    def wait_begun(self, path: Path, times: int = 1) -> None:
        """Wait until work on the job with this trace has begun so often."""
        self.wait(lambda: len(begun(path)) >= times, f"begin {times} of the job with {path}")

    # --- the end

    def close(self) -> None:
        """End all runners, and what looks at the broker."""
        try:
            for runner in self._made:
                runner.kill()
        finally:
            self.orchestrator.close()
            if self.app is not None:
                _close_app(self.app)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _close_app(app: Any) -> None:
    """Close an app's connections to its broker and its results, which Celery leaves to the end of the process."""
    from kombu import pools

    pools.reset()
    backend = app.backend
    results = getattr(backend, "result_consumer", None)
    if results is not None:
        results.stop()
    if "client" in vars(backend):
        backend.client.close()
        backend.client.connection_pool.disconnect()
    app.close()
