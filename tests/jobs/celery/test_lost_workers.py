"""Workers and pool processes that are killed in mid-job: nothing is lost, and a job that kills them is not run for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mindtrace_jobs import Job, JobFailedError
from tests.jobs.celery.models import DeedInput, DeedOutput, DeedSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until

PATIENCE = 60.0
LEASE = 1.0


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def deed(name: str, path: Path) -> Job[DeedSchema]:
    return Job(payload=DeedSchema(input=DeedInput(deed=name, path=str(path), seconds=PATIENCE)))  # type: ignore[arg-type]


def test_a_job_that_kills_its_process_is_dead_lettered_after_three_losses(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    start_worker(pool="prefork", queues=("celery", "killer_jobs"))
    path = tmp_path / "deeds"
    handle = broker.orchestrator.submit(deed("kill", path), queue="killer_jobs")
    with pytest.raises(JobFailedError, match="vanished 3 times"):
        handle.result(PATIENCE)
    letter = broker.dead_letter("killer_jobs", handle.id)
    assert (letter.id, letter.reason, letter.losses) == (handle.id, "worker-lost", 3)
    assert lines(path) == ["begin 1", "begin 2", "begin 3"]
    assert broker.plain.send_task("stack.add", args=[1, 1]).get(timeout=PATIENCE) == 2
    assert broker.orchestrator.queue_status("killer_jobs") == 0


def test_a_job_that_kills_its_whole_worker_is_dead_lettered_after_three_losses(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    path = tmp_path / "deeds"
    handle = broker.orchestrator.submit(deed("kill", path), queue="solo_killer_jobs")
    for attempt in (1, 2, 3):
        worker = start_worker(queues=("solo_killer_jobs",), lease=LEASE)
        wait_until(lambda worker=worker: not worker.running, f"the end of worker {attempt}")  # type: ignore[misc]
        assert lines(path)[-1] == f"begin {attempt}"
    survivor = start_worker(queues=("solo_killer_jobs", "celery"), lease=LEASE)
    with pytest.raises(JobFailedError, match="vanished 3 times"):
        handle.result(PATIENCE)
    assert survivor.running
    letter = broker.dead_letter("solo_killer_jobs", handle.id)
    assert (letter.id, letter.reason, letter.losses) == (handle.id, "worker-lost", 3)
    assert lines(path) == ["begin 1", "begin 2", "begin 3"]


def test_a_prefetched_job_that_never_started_does_not_count_lost_workers(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    first, second = deed("wait", tmp_path / "first"), deed("work", tmp_path / "second")
    broker.orchestrator.submit(first, queue="prefetch_jobs")
    handle = broker.orchestrator.submit(second, queue="prefetch_jobs")
    for _ in range(2):
        begun = len(lines(tmp_path / "first"))
        worker = start_worker(pool="threads", queues=("prefetch_jobs",), lease=LEASE)
        wait_until(lambda begun=begun: len(lines(tmp_path / "first")) > begun, "the first job's begin")  # type: ignore[misc]
        worker.kill_main()
    (tmp_path / "first.go").touch()
    start_worker(pool="threads", queues=("prefetch_jobs",), lease=LEASE)
    assert handle.result(PATIENCE) == DeedOutput(attempt=1)
    assert lines(tmp_path / "second") == ["begin 1", "end 1"]


def test_a_killed_pool_process_costs_no_job(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    worker = start_worker(pool="prefork", queues=("child_jobs",))
    path = tmp_path / "deeds"
    handle = broker.orchestrator.submit(deed("wait", path), queue="child_jobs")
    wait_until(path.exists, "the job's begin")
    worker.kill_pool()
    wait_until(lambda: len(lines(path)) == 2, "the job's second begin")
    (tmp_path / "deeds.go").touch()
    assert handle.result(PATIENCE) == DeedOutput(attempt=2)
    assert lines(path) == ["begin 1", "begin 2", "end 2"]


def test_a_long_job_under_a_short_lease_runs_once(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    path, other = tmp_path / "long", tmp_path / "other"
    start_worker(pool="prefork", queues=("long_jobs",), lease=LEASE)
    handle = broker.orchestrator.submit(deed("wait", path), queue="long_jobs")
    wait_until(path.exists, "the job's begin")
    second = start_worker(pool="prefork", queues=("long_jobs",), lease=LEASE)
    for number in range(3):
        # Each takes the second worker longer than the lease to notice and to finish.
        again = broker.orchestrator.submit(deed("work", other), queue="long_jobs", delay=LEASE)
        assert again.result(PATIENCE) is not None, number
    assert second.running
    (tmp_path / "long.go").touch()
    assert handle.result(PATIENCE) == DeedOutput(attempt=1)
    assert lines(path) == ["begin 1", "end 1"]
