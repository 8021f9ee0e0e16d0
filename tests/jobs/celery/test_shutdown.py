"""Soft and cold shutdown: every job is done once or back on its queue at once, and another worker does the rest."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import ExecutionStatus, Job
from tests.jobs.celery.models import DeedInput, DeedOutput, DeedSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until

PATIENCE = 30.0
#: Seconds; what is back sooner did not wait for its lease.
LEASE = 600.0
DONE, PUT_BACK = ["begin 1", "end 1"], ["begin 1"]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def end(path: Path) -> None:
    """Let a job end that waits for it."""
    path.with_name(f"{path.name}.go").touch()


@pytest.fixture(scope="module")
def survivor(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that does what others leave, once it is told of their queue."""
    worker = Worker(broker, tmp_path_factory.mktemp("survivor"), pool="threads", queues=("survivors_jobs",))
    yield worker.wait_ready()
    worker.close()


class Work:
    """Six jobs on a queue: two that a worker runs, two it has prefetched, two that wait."""

    def __init__(self, broker: Broker, queue: str, folder: Path) -> None:
        self.broker, self.queue = broker, queue
        self.paths = [folder / f"job{number}" for number in range(6)]
        deeds = [DeedInput(deed="wait", path=str(path), seconds=PATIENCE) for path in self.paths]
        self.handles = [broker.orchestrator.submit(Job(payload=DeedSchema(input=deed)), queue=queue) for deed in deeds]
        self.short, self.long = self.paths[:2]

    def wait_begun(self, worker: Worker) -> None:
        wait_until(lambda: self.short.exists() and self.long.exists(), "both jobs' begin")
        for handle in self.handles[:4]:
            worker.wait_logged(f"{handle.id}] received")

    def check(self, survivor: Worker, *began: list[str]) -> None:
        """What the first jobs have done; none of the others has begun. All can be taken at once, and are done."""
        rest = len(self.paths) - len(began)
        assert [lines(path) for path in self.paths] == [*began, *[[]] * rest]
        left = [handle for handle, path in zip(self.handles, self.paths, strict=True) if lines(path) != DONE]
        assert {handle.status() for handle in left} == {ExecutionStatus.QUEUED}
        assert self.broker.orchestrator.queue_status(self.queue) == len(left)
        for path in self.paths:
            end(path)
        self.broker.app.control.add_consumer(self.queue, destination=[survivor.name], reply=True, timeout=PATIENCE)
        # None of them counts as having lost its worker.
        assert [handle.result(PATIENCE) for handle in self.handles] == [DeedOutput(attempt=1)] * 6
        assert [lines(path) for path in self.paths] == [
            *(did if did == DONE else [*did, *DONE] for did in began),
            *[DONE] * rest,
        ]


@pytest.fixture
def work(broker: Broker, request: pytest.FixtureRequest, tmp_path: Path) -> Work:
    return Work(broker, request.node.name, tmp_path)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_soft_shutdown_waits_for_short_jobs_and_gives_back_the_others(
    pool: str, broker: Broker, survivor: Worker, work: Work, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker(
        pool=pool,
        concurrency=2,
        prefetch=2,
        queues=(work.queue,),
        lease=LEASE,
        settings={"worker_soft_shutdown_timeout": 3},
    )
    work.wait_begun(worker)
    worker.signal(signal.SIGQUIT)
    worker.wait_logged("Initiating Soft Shutdown")
    end(work.short)
    if pool == "prefork":
        worker.wait_ended()
        work.check(survivor, DONE, PUT_BACK)
    else:
        # Threads go on with what was prefetched, and cannot be stopped: the worker ends with the last of them.
        wait_until(work.paths[2].exists, "the third job's begin")
        worker.wait_logged("cannot be ended and runs on")
        end(work.long)
        end(work.paths[2])
        worker.wait_ended()
        work.check(survivor, DONE, DONE, DONE)


@pytest.mark.parametrize(
    ("pool", "number"), [("prefork", signal.SIGQUIT), ("prefork", signal.SIGINT), ("threads", signal.SIGQUIT)]
)
def test_a_cold_shutdown_gives_back_what_it_can_stop(
    pool: str,
    number: signal.Signals,
    broker: Broker,
    survivor: Worker,
    work: Work,
    start_worker: Callable[..., Worker],
) -> None:
    worker = start_worker(pool=pool, concurrency=2, prefetch=2, queues=(work.queue,), lease=LEASE)
    work.wait_begun(worker)
    if number is signal.SIGINT:
        # The first asks for a warm shutdown, the second for a cold one.
        worker.signal(number)
        worker.wait_logged("Hitting Ctrl+C again will initiate cold shutdown")
    worker.signal(number)
    if pool == "threads":
        worker.wait_logged("cannot be ended and runs on")
        end(work.short)
        end(work.long)
    worker.wait_ended()
    assert not worker.logged("Unrecoverable error")
    work.check(survivor, *[PUT_BACK if pool == "prefork" else DONE] * 2)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_cold_shutdown_lets_a_solo_workers_job_end(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    path = tmp_path / "deeds"
    deed: Job[Any] = Job(payload=DeedSchema(input=DeedInput(deed="wait", path=str(path), seconds=PATIENCE)))
    handle = broker.orchestrator.submit(deed, queue="cold_solo_jobs")
    worker = start_worker(queues=("cold_solo_jobs",))
    wait_until(path.exists, "the job's begin")
    worker.signal(signal.SIGQUIT)
    worker.wait_logged("cannot be ended and runs on")
    end(path)
    assert handle.result(PATIENCE) == DeedOutput(attempt=1)
    assert lines(path) == DONE
