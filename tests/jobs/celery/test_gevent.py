"""What a worker of greenlets has of its own; all that every pool does is tried with it in test_worker_runs_jobs.py."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mindtrace_jobs import Job
from mindtrace_jobs.results import JobHandle
from tests.jobs.celery.models import DeedInput, DeedOutput, DeedSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until

PATIENCE = 30.0
LEASE = 1.0
CONCURRENCY = 10


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("gevent")
    worker = Worker(
        broker, folder, pool="gevent", concurrency=CONCURRENCY, lease=LEASE, queues=("detection_jobs", "green_jobs")
    )
    yield worker.wait_ready()
    worker.close()


def submit(broker: Broker, name: str, path: Path, queue: str = "green_jobs") -> JobHandle[DeedOutput]:
    deed = DeedInput(deed=name, path=str(path), seconds=PATIENCE)  # type: ignore[arg-type]
    return broker.orchestrator.submit(Job(payload=DeedSchema(input=deed)), queue=queue)


def test_as_many_jobs_wait_side_by_side_as_there_are_greenlets(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    paths = [tmp_path / f"job{number}" for number in range(CONCURRENCY)]
    handles = [submit(broker, "wait", path) for path in paths]
    wait_until(lambda: all(path.exists() for path in paths), "every job's begin")
    for path in paths:
        path.with_name(f"{path.name}.go").touch()
    assert [handle.result(PATIENCE) for handle in handles] == [DeedOutput(attempt=1)] * CONCURRENCY


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_a_job_that_lets_no_greenlet_run_keeps_its_lease(
    worker: Worker, broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    path = tmp_path / "blocking"
    handle = submit(broker, "block", path)
    wait_until(path.exists, "the job's begin")
    start_worker(queues=("green_jobs", "other_green_jobs"), lease=LEASE)
    for _ in range(3):
        # Each takes the other worker longer than the lease, and it puts back what has expired.
        job: Job[DeedSchema] = Job(payload=DeedSchema(input=DeedInput()))
        again = broker.orchestrator.submit(job, queue="other_green_jobs", delay=LEASE)
        assert again.result(PATIENCE) == DeedOutput(attempt=1)
    assert lines(path) == ["begin 1"]
    path.with_name("blocking.go").touch()
    assert handle.result(PATIENCE) == DeedOutput(attempt=1)
    assert lines(path) == ["begin 1", "end 1"]


def test_jobs_may_fork_and_run_programs(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / f"job{number}"
        assert submit(broker, "fork", path).result(PATIENCE) == DeedOutput(attempt=1)
        assert lines(path) == ["begin 1", "forked", "end 1"]


def test_a_job_over_its_time_limit_is_dead_lettered(worker: Worker, broker: Broker) -> None:
    sent = broker.app.send_task(
        "stack_deed_detection",
        args=[Job(payload=DeedSchema(input=DeedInput(deed="hang")))],
        serializer="pydantic",
        time_limit=0.5,
        queue="green_jobs",
    )
    wait_until(lambda: broker.orchestrator.dead_letters.count("green_jobs"), "the dead letter")
    (letter,) = broker.orchestrator.dead_letters.list("green_jobs")
    assert (letter.id, letter.reason) == (sent.id, "time-limit")


def test_poison_is_dead_lettered_and_the_worker_goes_on(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    broker.publish("detection_jobs", b'"hello"', {"task": "stack.add", "id": "green-poison"}, "application/json")
    wait_until(lambda: broker.orchestrator.dead_letters.count("detection_jobs"), "the dead letter")
    (letter,) = broker.orchestrator.dead_letters.list("detection_jobs")
    assert (letter.id, letter.reason) == ("green-poison", "undecodable")
    assert submit(broker, "work", tmp_path / "after").result(PATIENCE) == DeedOutput(attempt=1)


def test_at_a_warm_shutdown_what_did_not_begin_goes_back(
    worker: Worker, broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    paths = [tmp_path / f"job{number}" for number in range(8)]
    handles = [submit(broker, "wait", path, "leaving_jobs") for path in paths]
    leaving = start_worker(pool="gevent", concurrency=2, prefetch=2, queues=("leaving_jobs",), lease=600.0)
    wait_until(lambda: paths[0].exists() and paths[1].exists(), "the first jobs' begin")
    leaving.signal(signal.SIGTERM)
    leaving.wait_logged("Warm shutdown")
    for path in paths:
        path.with_name(f"{path.name}.go").touch()
    leaving.wait_ended()
    # How many it still runs depends on how many it had received.
    untouched = [path for path in paths if not path.exists()]
    assert broker.orchestrator.queue_status("leaving_jobs") == len(untouched)
    assert all(lines(path) == ["begin 1", "end 1"] for path in paths if path not in untouched)
    broker.app.control.add_consumer("leaving_jobs", destination=[worker.name], reply=True, timeout=PATIENCE)
    assert [handle.result(PATIENCE) for handle in handles] == [DeedOutput(attempt=1)] * len(paths)
    assert [lines(path) for path in paths] == [["begin 1", "end 1"]] * len(paths)
