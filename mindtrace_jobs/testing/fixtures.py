"""Pytest fixtures for projects that use this package: a broker in memory, and workers on it that acknowledge for real.

Import them in a ``conftest.py``::

    from mindtrace_jobs.testing.fixtures import job_worker, orchestrator

    __all__ = ["job_worker", "orchestrator"]

and ask for them by name::

    def test_detection(orchestrator, job_worker):
        job_worker.start("detection_jobs", detect)
        handle = orchestrator.submit(Job(payload=DetectionSchema(input=...)))
        assert handle.result(timeout=10) == DetectionOutput(...)


    def test_failures_are_dead_lettered(orchestrator, job_worker):
        orchestrator.publish_message("detection_jobs", broken_job)
        job_worker.run_until_empty("detection_jobs", detect, retry=RetryPolicy(max_retries=0))
        [letter] = orchestrator.dead_letters.list("detection_jobs")

To run the same tests on a server, define a fixture ``orchestrator`` of your own; ``job_worker`` uses whichever there is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import pytest

from mindtrace_jobs.clients import LocalClient
from mindtrace_jobs.consumer import Consumer, SchemaT
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import Job, JobOutput
from mindtrace_jobs.orchestrator import Orchestrator

__all__ = ["JobWorker", "job_worker", "orchestrator"]

#: Seconds within which what a test waits for must happen, unless it says otherwise.
PATIENCE = 30.0
#: Seconds between two looks at the queues.
_GLANCE = 0.005


class JobWorker:
    """Workers of one test, in this process.

    As in production, a job is acknowledged when its handler has returned, one that raises is retried and then
    dead-lettered, and stopping requeues what was not started.

    Args:
        orchestrator: Where jobs come from and are recorded.
    """

    def __init__(self, orchestrator: Orchestrator) -> None:
        self.orchestrator = orchestrator
        self._running: list[_Running] = []

    def start(
        self,
        queues: str | Sequence[str],
        handler: Callable[[Job[SchemaT]], JobOutput | None] | type[Consumer[SchemaT]],
        *,
        schema: type[SchemaT] | None = None,
        retry: RetryPolicy | None = None,
        prefetch: int = 1,
        threads: int = 1,
    ) -> None:
        """Run jobs in threads from now on, until ``stop`` or the end of the test.

        Args:
            queues: One queue, or some; those that do not exist are declared.
            handler: A function, or a subclass of Consumer.
            schema, retry, prefetch: As Consumer's. Retries wait by the policy; a test may want short pauses.
            threads: How many jobs at once.
        """
        for _ in range(threads):
            self._running.append(_Running(self._consumer(queues, handler, schema, retry, prefetch)))

    def run_until_empty(
        self,
        queues: str | Sequence[str],
        handler: Callable[[Job[SchemaT]], JobOutput | None] | type[Consumer[SchemaT]],
        *,
        schema: type[SchemaT] | None = None,
        retry: RetryPolicy | None = None,
        prefetch: int = 1,
    ) -> int:
        """Run the jobs that are ready, in this thread, and return how many were settled.

        Jobs that handlers publish meanwhile are run as well; those that wait for their time, retries too, are not waited
        for. Arguments as ``start``'s.
        """
        return self._consumer(queues, handler, schema, retry, prefetch).consume_until_empty()

    def wait_until_idle(self, timeout: float = PATIENCE) -> None:
        """Wait until the queues of the workers that were started hold nothing: ready, at work, or delayed.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: they still do. It says what.
            Exception: what ended a worker; RuntimeError for what is no Exception, such as KeyboardInterrupt.
        """
        queues = sorted({queue for running in self._running for queue in running.consumer.queues})
        deadline = time.monotonic() + timeout
        while True:
            for running in self._running:
                running.check()
            infos = [self.orchestrator.queue_info(queue) for queue in queues]
            busy = [info for info in infos if info.ready or info.unacknowledged or info.delayed]
            if not busy:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout:g} s still not idle: {busy}")
            time.sleep(_GLANCE)

    def stop(self, timeout: float = PATIENCE) -> None:
        """Let each worker finish the job it runs and requeue what waits. Does nothing when none runs.

        Args:
            timeout: Seconds for each.

        Raises:
            TimeoutError: a handler did not return.
            Exception: what ended a worker before, as ``wait_until_idle``.
        """
        running, self._running = self._running, []
        for one in running:
            one.consumer.stop()
        for one in running:
            one.join(timeout)
        for one in running:
            one.check()

    def _consumer(
        self,
        queues: str | Sequence[str],
        handler: Callable[[Job[SchemaT]], JobOutput | None] | type[Consumer[SchemaT]],
        schema: type[SchemaT] | None,
        retry: RetryPolicy | None,
        prefetch: int,
    ) -> Consumer[SchemaT]:
        for queue in [queues] if isinstance(queues, str) else queues:
            if not self.orchestrator.client.exists(queue):
                self.orchestrator.declare_queue(queue)
        if isinstance(handler, type):
            # Widened: mypy takes calling a class that it knows by isinstance alone for calling anything.
            subclass: type[Consumer[SchemaT]] = handler
            return subclass(self.orchestrator, queues, schema=schema, retry=retry, prefetch=prefetch)
        return Consumer(self.orchestrator, queues, handler, schema=schema, retry=retry, prefetch=prefetch)


class _Running:
    """A consumer in a thread."""

    def __init__(self, consumer: Consumer[Any]) -> None:
        self.consumer = consumer
        self._error: BaseException | None = None
        # A handler that never returns must not keep the test run from ending.
        self._thread = threading.Thread(target=self._run, name="job-worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.consumer.run_forever()
        except BaseException as error:
            self._error = error

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"after {timeout:g} s a job of {self.consumer.queues} is still running")

    def check(self) -> None:
        """Raise what ended the thread, once; as a RuntimeError what would end the test run instead of the test."""
        error, self._error = self._error, None
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raise RuntimeError(f"a worker of {self.consumer.queues} was ended by {error!r}") from error


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    """An orchestrator on a memory broker that no other test sees."""
    with Orchestrator(LocalClient(broker_id=f"pytest-{uuid4().hex}")) as made:
        yield made


@pytest.fixture
def job_worker(orchestrator: Orchestrator) -> Iterator[JobWorker]:
    """Runs handlers on the orchestrator's queues; what was started is stopped at the end of the test."""
    worker = JobWorker(orchestrator)
    yield worker
    worker.stop()
