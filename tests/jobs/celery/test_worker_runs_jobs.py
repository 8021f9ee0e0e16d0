"""Workers of every kind run jobs from every kind of producer, on Redis and RabbitMQ."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import ExecutionStatus, Job, JobCancelledError, JobFailedError
from mindtrace_jobs.celery import InvalidInputError, cancel
from tests.jobs.celery.models import (
    DeedInput,
    DeedOutput,
    DeedSchema,
    DetectionInput,
    DetectionOutput,
    DetectionSchema,
    SummaryInput,
    SummarySchema,
)
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until

PATIENCE = 30.0
TAKEN = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)


def held(broker: Broker, worker: Worker) -> int:
    """How many jobs a worker says it holds."""
    inspect = broker.app.control.inspect(destination=[worker.name], timeout=PATIENCE, limit=1)
    return sum(len(found[worker.name]) for found in (inspect.active(), inspect.reserved()))


def move(broker: Broker, source: str, target: str) -> None:
    """Bring a message from a queue where nobody works to one where somebody does."""
    delivery = broker.orchestrator.client.get(source)
    assert delivery is not None
    broker.orchestrator.client.publish(delivery.message, queue=target)
    delivery.acknowledge()


@pytest.fixture(scope="module", params=["solo", "threads", "prefork", "gevent"])
def worker(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    worker = Worker(broker, tmp_path_factory.mktemp(request.param), pool=request.param, concurrency=2).wait_ready()
    yield worker
    worker.close()


def test_jobs_that_an_orchestrator_submits_give_typed_results(worker: Worker, broker: Broker) -> None:
    job = Job(payload=DetectionSchema(input=DetectionInput(image="a.png", taken=TAKEN)))
    handle = broker.orchestrator.submit(job)
    assert handle.result(PATIENCE) == DetectionOutput(labels=["a.png", "DetectionInput"], taken=TAKEN)
    assert handle.status() is ExecutionStatus.COMPLETED


def test_plain_celery_reads_the_typed_result_by_the_jobs_id(worker: Worker, broker: Broker) -> None:
    handle = broker.orchestrator.submit(Job(payload=DetectionSchema(input=DetectionInput(image="a.png", taken=TAKEN))))
    result = broker.plain.AsyncResult(handle.id).get(timeout=PATIENCE)
    assert result == DetectionOutput(labels=["a.png", "DetectionInput"], taken=TAKEN)


def test_a_plain_producer_that_knows_no_types_sends_keywords(worker: Worker, broker: Broker) -> None:
    sent = broker.plain.send_task(
        "stack_detection",
        kwargs={"image": "b.png", "threshold": 1},
        queue="detection_jobs",
        task_id=f"plain-{worker.name}",
    )
    assert sent.get(timeout=PATIENCE).labels == ["b.png", "DetectionInput"]
    assert broker.orchestrator.handle(sent.id).result(PATIENCE) == DetectionOutput(labels=["b.png", "DetectionInput"])


def test_plain_tasks_run_beside_jobs(worker: Worker, broker: Broker) -> None:
    assert broker.plain.send_task("stack.add", args=[2, 3]).get(timeout=PATIENCE) == 5
    report = broker.plain.send_task("stack.report", args=["weekly"], kwargs={"a": 1}, queue="reports")
    assert report.get(timeout=PATIENCE) == {"kind": "weekly", "options": {"a": 1}}
    assert worker.logged("the stack's own consumer is ready")


def test_the_function_gets_its_job_and_a_context(worker: Worker, broker: Broker) -> None:
    handle = broker.orchestrator.submit(Job(payload=SummarySchema(input=SummaryInput(labels=["x", "y"]))))
    output = handle.result(PATIENCE)
    assert output is not None
    assert output.text == f"{handle.id} 1 x y"


def test_a_failure_is_read_with_type_and_message(worker: Worker, broker: Broker) -> None:
    handle = broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput(deed="fail"))))
    with pytest.raises(JobFailedError, match="nothing there") as failure:
        handle.result(PATIENCE)
    assert failure.value.error_type == "LookupError"
    with pytest.raises(LookupError, match="nothing there"):
        broker.plain.AsyncResult(handle.id).get(timeout=PATIENCE)


def test_invalid_input_is_read_field_by_field(worker: Worker, broker: Broker) -> None:
    sent = broker.plain.send_task("stack_detection", kwargs={"threshold": "high"}, queue="detection_jobs")
    with pytest.raises(InvalidInputError, match="threshold") as failure:
        sent.get(timeout=PATIENCE)
    faults = {(error["field"].rpartition(".")[2], error["type"]) for error in failure.value.errors}
    assert faults == {("image", "missing"), ("threshold", "float_parsing")}
    assert broker.orchestrator.job_record(sent.id).errors == failure.value.errors


def test_a_job_that_asks_for_it_is_run_again(worker: Worker, broker: Broker) -> None:
    handle = broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput(deed="retry"))))
    assert handle.result(PATIENCE) == DeedOutput(attempt=2)


def test_progress_is_read_and_a_running_job_stops_when_cancelled(worker: Worker, broker: Broker) -> None:
    handle = broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput(deed="steps"))))
    wait_until(lambda: handle.record().progress is not None, "progress")
    progress = handle.record().progress
    assert progress is not None
    assert (progress.current, progress.total, progress.message) == (1, 3, "one of three")
    assert handle.status() is ExecutionStatus.RUNNING
    assert cancel(broker.app, handle.id)
    worker.wait_logged(f"{handle.id}] ignored")
    assert handle.status() is ExecutionStatus.CANCELLED


def test_a_job_cancelled_while_it_waits_is_not_run(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    path = str(tmp_path / "deeds")
    job: Job[Any] = Job(payload=DeedSchema(input=DeedInput(path=path)))
    handle = broker.orchestrator.submit(job, queue="elsewhere")
    assert handle.cancel()
    move(broker, "elsewhere", "detection_jobs")
    after = broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput(path=path))))
    after.result(PATIENCE)
    worker.wait_logged(f"{handle.id}] ignored")
    assert Path(path).read_text().splitlines() == ["begin 1", "end 1"]
    assert handle.status() is ExecutionStatus.CANCELLED


@pytest.mark.parametrize("worker", ["prefork", "gevent"], indirect=True)
def test_a_running_job_is_ended_where_it_is(worker: Worker, broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "deeds"
    handle = broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput(deed="hang", path=str(path)))))
    wait_until(path.exists, "the job's begin")
    assert cancel(broker.app, handle.id, terminate=True)
    with pytest.raises(JobCancelledError):
        handle.result(PATIENCE)
    # It is not run again, as it would be if its worker had been lost, and takes nobody's place.
    after = [broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput()))) for _ in range(4)]
    assert [one.result(PATIENCE) for one in after] == [DeedOutput(attempt=1)] * 4
    assert path.read_text().splitlines() == ["begin 1"]
    assert handle.status() is ExecutionStatus.CANCELLED
    assert handle.id not in [letter.id for letter in broker.orchestrator.dead_letters.list("detection_jobs")]
    wait_until(lambda: held(broker, worker) == 0, "nothing held")


@pytest.mark.parametrize("worker", ["prefork"], indirect=True)
def test_a_job_whose_process_is_ended_on_account_of_another_is_run_again(
    worker: Worker, broker: Broker, tmp_path: Path
) -> None:
    path = tmp_path / "deeds"
    deed = DeedInput(deed="wait", path=str(path), seconds=PATIENCE)
    handle = broker.orchestrator.submit(Job(payload=DeedSchema(input=deed)))
    wait_until(path.exists, "the job's begin")
    broker.app.control.broadcast("end_process_of", arguments={"job_id": handle.id}, destination=[worker.name])
    wait_until(lambda: path.read_text().splitlines() == ["begin 1"] * 2, "its second begin")
    path.with_name("deeds.go").touch()
    assert handle.result(PATIENCE) == DeedOutput(attempt=1)


def test_jobs_of_threads_that_cannot_be_ended_hold_up_no_others(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    worker = start_worker(pool="threads", prefetch=2, queues=("thread_jobs",))
    first, second = tmp_path / "first", tmp_path / "second"
    running, prefetched = (
        broker.orchestrator.submit(
            Job(payload=DeedSchema(input=DeedInput(deed="wait", path=str(path), seconds=PATIENCE))), queue="thread_jobs"
        )
        for path in (first, second)
    )
    wait_until(first.exists, "the first job's begin")
    worker.wait_logged(f"{prefetched.id}] received")
    for handle in (running, prefetched):
        assert cancel(broker.app, handle.id, terminate=True)
        worker.wait_logged(f"Terminating {handle.id}")
    first.with_name("first.go").touch()
    assert running.result(PATIENCE) == DeedOutput(attempt=1)
    worker.wait_logged(f"{prefetched.id}] ignored")
    assert prefetched.status() is ExecutionStatus.CANCELLED
    assert not second.exists()


def test_the_worker_forgets_nothing_at_a_warm_shutdown(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    path = tmp_path / "deeds"
    first = start_worker(pool="prefork", queues=("warm_jobs",))
    jobs = [Job(payload=DeedSchema(input=DeedInput(deed="wait", path=str(path), seconds=60))) for _ in range(4)]
    handles = [broker.orchestrator.submit(job, queue="warm_jobs") for job in jobs]
    wait_until(path.exists, "the first job's begin")
    os.kill(first.process.pid, signal.SIGTERM)
    first.wait_logged("Warm shutdown")
    path.with_name("deeds.go").touch()
    wait_until(lambda: not first.running, "the worker's end")
    assert path.read_text().splitlines() == ["begin 1", "end 1"]
    start_worker(pool="prefork", queues=("warm_jobs",))
    assert [handle.result(PATIENCE) for handle in handles] == [DeedOutput(attempt=1)] * 4
    assert path.read_text().splitlines() == ["begin 1", "end 1"] * 4


def test_a_job_held_for_its_rate_limit_goes_back_when_the_worker_stops(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker(pool="threads", prefetch=2, queues=("limited_jobs",))
    limit = partial(broker.app.control.rate_limit, "stack_deed_detection", "1/h", destination=[worker.name])
    wait_until(lambda: bool(limit(reply=True, timeout=5)), "the worker's word that it heard")
    done, held = (
        broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput())), queue="limited_jobs") for _ in range(2)
    )
    assert done.result(PATIENCE) == DeedOutput(attempt=1)
    worker.wait_logged(f"{held.id}] received")
    worker.stop()
    assert held.status() is ExecutionStatus.QUEUED
    assert broker.orchestrator.queue_status("limited_jobs") == 1
    start_worker(pool="threads", queues=("limited_jobs",))
    assert held.result(PATIENCE) == DeedOutput(attempt=1)
