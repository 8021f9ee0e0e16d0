"""Quorum queues of RabbitMQ: declared by the stack, or found where nobody said what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import Job, JobFailedError
from mindtrace_jobs.celery import JobTask, job_task
from tests.jobs.celery.models import DeedInput, DeedOutput, DeedSchema
from tests.jobs.celery.workers import QUORUM_QUEUES, Broker, Worker
from tests.jobs.servers import wait_until

pytestmark = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)

PATIENCE = 30.0
QUEUE = "quorum_jobs"
APP = "tests.jobs.celery.quorum_jobs"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def deed(name: str, path: Path | str = "") -> Job[DeedSchema]:
    return Job(payload=DeedSchema(input=DeedInput(deed=name, path=str(path), seconds=PATIENCE)))  # type: ignore[arg-type]


def declare(broker: Broker, queue: str, arguments: dict[str, Any]) -> None:
    """As somebody else has done before us."""
    with broker.plain.connection_for_write() as connection:
        connection.default_channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)


@pytest.fixture(scope="module")
def task(broker: Broker) -> JobTask[DeedInput, DeedOutput]:
    """For publishing; its function runs elsewhere."""

    @job_task(broker.app, DeedSchema)
    def deed(input: DeedInput) -> DeedOutput:  # noqa: A002
        raise NotImplementedError

    return deed


def kill_in_mid_job(broker: Broker, start_worker: Callable[..., Worker], path: Path, prefetched: str) -> None:
    """Three workers that have taken two jobs are killed while they run the first."""
    for attempt in (1, 2, 3):
        worker = start_worker(pool="threads", prefetch=2, queues=(QUEUE,), app=APP)
        wait_until(lambda attempt=attempt: len(lines(path)) == attempt, f"begin {attempt}")  # type: ignore[misc]
        worker.wait_logged(f"{prefetched}] received")
        worker.kill_main()


def test_jobs_that_only_waited_in_killed_workers_are_run_and_the_others_dead_lettered(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    killed = broker.orchestrator.submit(deed("wait", first), queue=QUEUE)
    waiting = broker.orchestrator.submit(deed("work", second), queue=QUEUE)
    kill_in_mid_job(broker, start_worker, first, waiting.id)
    # What was delivered a fourth time and given back would be dropped by the queue.
    start_worker(pool="prefork", queues=(QUEUE,), app=APP).wait_logged("Global QoS is disabled")
    with pytest.raises(JobFailedError, match="vanished 3 times"):
        killed.result(PATIENCE)
    assert waiting.result(PATIENCE) == DeedOutput(attempt=1)
    letter = broker.dead_letter(QUEUE, killed.id)
    assert (letter.reason, letter.losses) == ("worker-lost", 3)
    assert (lines(first), lines(second)) == (["begin 1", "begin 2", "begin 3"], ["begin 1", "end 1"])


def test_without_results_the_queue_itself_counts_lost_workers(
    broker: Broker, start_worker: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "results", "disabled://")
    path = tmp_path / "deeds"
    job = deed("kill", path)
    # What is handed to a worker that is dying counts as delivered.
    wait_until(lambda: broker.orchestrator.queue_info(QUEUE).consumers == 0, "the end of the test before")
    broker.orchestrator.publish_message(QUEUE, job)
    for attempt in (1, 2, 3):
        worker = start_worker(queues=(QUEUE,), app=APP)
        worker.wait_ended()
        assert lines(path)[-1] == f"begin {attempt}"
    start_worker(queues=(QUEUE,), app=APP)
    letter = broker.dead_letter(QUEUE, job.id)
    assert (letter.reason, letter.losses) == ("worker-lost", 3)
    assert len(lines(path)) == 3


def test_a_worker_warns_of_queues_that_drop_jobs_before_they_are_dead_lettered(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker(queues=tuple(QUORUM_QUEUES), app=APP)
    warned = "drops a job that it has delivered 3 times"
    assert [name for name in QUORUM_QUEUES if worker.logged(f"queue {name} {warned}")] == ["hasty_quorum_jobs"]


@pytest.mark.parametrize(
    "arguments", [{"x-queue-type": "quorum", "x-delivery-limit": 5}, {"x-max-priority": 9}], ids=["quorum", "priority"]
)
def test_a_queue_that_exists_with_other_arguments_is_used_as_it_is(
    arguments: dict[str, Any],
    broker: Broker,
    task: JobTask[DeedInput, DeedOutput],
    start_worker: Callable[..., Worker],
) -> None:
    queue = f"found_{len(arguments)}_jobs"
    declare(broker, queue, arguments)
    start_worker(pool="prefork", queues=(queue, "celery"))
    # A retry is published by the pool's process.
    assert broker.orchestrator.submit(deed("retry"), queue=queue).result(PATIENCE) == DeedOutput(attempt=2)
    assert task.apply_async((DeedInput(),), queue=queue).get(timeout=PATIENCE) == DeedOutput(attempt=1)
    assert broker.plain.send_task("stack.add", args=[1, 1]).get(timeout=PATIENCE) == 2
