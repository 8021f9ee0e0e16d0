"""Coroutine functions as jobs: one event loop in each process, and all that plain functions have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import ExecutionStatus, Job
from mindtrace_jobs.celery import cancel
from mindtrace_jobs.results import JobHandle
from tests.jobs.celery.models import AwaitInput, AwaitOutput, AwaitSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until

# What is tried is between the pool and the loop; a broker has no part in it.
pytestmark = pytest.mark.parametrize("broker", ["redis"], indirect=True)

PATIENCE = 30.0
QUEUE = "await_jobs"


@pytest.fixture(scope="module", params=["prefork", "threads"])
def worker(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp(request.param)
    worker = Worker(
        broker, folder, pool=request.param, concurrency=3, queues=(QUEUE,), app="tests.jobs.celery.async_jobs"
    )
    yield worker.wait_ready()
    worker.close()


def submit(broker: Broker, act: str, path: Path | str = "", **options: Any) -> JobHandle[AwaitOutput]:
    deed = AwaitInput(act=act, path=str(path), people=options.pop("people", 1))  # type: ignore[arg-type]
    return broker.orchestrator.submit(Job(payload=AwaitSchema(input=deed)), queue=QUEUE, **options)


def result(handle: JobHandle[AwaitOutput]) -> AwaitOutput:
    output = handle.result(PATIENCE)
    assert output is not None
    return output


def is_prefork(worker: Worker) -> bool:
    return worker.pool == "prefork"


def test_coroutines_of_a_process_share_one_loop(worker: Worker, broker: Broker) -> None:
    # Threads: each waits until all three are there, and none could go on if one held the loop.
    handles = [submit(broker, "meet", people=1 if is_prefork(worker) else 3) for _ in range(9)]
    loops = {result(handle).loop for handle in handles}
    assert len(loops) == len({loop.split()[0] for loop in loops})
    assert len(loops) == 1 or is_prefork(worker)


def test_progress_of_a_coroutine_is_read(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    handle = submit(broker, "report", tmp_path / "deeds")
    wait_until(lambda: handle.record().progress is not None, "progress")
    assert handle.status() is ExecutionStatus.RUNNING
    (tmp_path / "deeds.go").touch()
    assert result(handle).text == "report 1"


def test_a_coroutine_is_retried_for_the_errors_that_are_worth_it(worker: Worker, broker: Broker) -> None:
    assert result(submit(broker, "retry")).text == "retry 2"


def test_a_running_coroutine_is_cancelled_where_it_awaits(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "deeds"
    handle = submit(broker, "hang", path)
    wait_until(path.exists, "the coroutine's begin")
    assert cancel(broker.app, handle.id)
    worker.wait_logged(f"{handle.id}] ignored")
    assert path.read_text().splitlines() == ["begin", "cancelled"]
    assert handle.status() is ExecutionStatus.CANCELLED


def send(broker: Broker, act: str, path: Path, **options: Any) -> Any:
    job = Job(payload=AwaitSchema(input=AwaitInput(act=act, path=str(path))))  # type: ignore[arg-type]
    return broker.app.send_task(
        "stack_await_detection", args=[job], serializer="pydantic", queue=QUEUE, task_id=job.id, **options
    )


@pytest.mark.parametrize("worker", ["prefork"], indirect=True)
def test_a_soft_time_limit_cancels_the_coroutine(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "deeds"
    hanging = send(broker, "hang", path, soft_time_limit=0.5)
    wait_until(lambda: broker.orchestrator.dead_letters.count(QUEUE), "the dead letter")
    (letter,) = broker.orchestrator.dead_letters.list(QUEUE)
    assert (letter.id, letter.reason, letter.error_type) == (hanging.id, "time-limit", "SoftTimeLimitExceeded")
    assert path.read_text().splitlines() == ["begin", "cancelled"]
    giving_up = send(broker, "give up", path, soft_time_limit=0.5)
    assert giving_up.get(timeout=PATIENCE).text == "given up"


@pytest.mark.parametrize("worker", ["prefork"], indirect=True)
def test_the_coroutine_of_a_terminated_process_is_cancelled(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "deeds"
    handle = submit(broker, "hang", path)
    wait_until(path.exists, "the coroutine's begin")
    assert cancel(broker.app, handle.id, terminate=True)
    wait_until(lambda: handle.status() is ExecutionStatus.CANCELLED, "the job's end")
    wait_until(lambda: path.read_text().splitlines() == ["begin", "cancelled"], "the coroutine's end")
    assert result(submit(broker, "retry")).text == "retry 2"


def test_a_worker_of_greenlets_refuses_coroutine_functions(broker: Broker, tmp_path: Path) -> None:
    worker = Worker(broker, tmp_path, pool="gevent", queues=("green_await_jobs",), app="tests.jobs.celery.async_jobs")
    try:
        worker.wait_ended()
        assert worker.logged("'stack_await_detection' is a coroutine function")
    finally:
        worker.close()
