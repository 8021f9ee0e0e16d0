"""What users of pytest-celery can test when their app runs jobs: its setup, its nodes, their kills and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from pytest_celery import CeleryTestSetup

from mindtrace_jobs import ExecutionStatus, Job, Orchestrator
from mindtrace_jobs.celery import InvalidInputError
from tests.jobs.nodes.jobs import (
    MeasureInput,
    MeasureOutput,
    MeasureSchema,
    ShipmentInput,
    ShipmentOutput,
    ShipmentSchema,
    gate,
)
from tests.jobs.servers import wait_until

pytestmark = [
    pytest.mark.usefixtures("pool"),
]

PATIENCE = 60.0
TAKEN = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
LEDGER = "ledger"


@pytest.fixture
def results(celery_setup: CeleryTestSetup) -> Iterator[redis.Redis]:
    """A client of the result backend, where shipments write down what they do."""
    with celery_setup.backend.container.client as client:
        yield client


def measurement(*samples: float) -> Job[MeasureSchema]:
    return Job(payload=MeasureSchema(input=MeasureInput(samples=list(samples), taken=TAKEN)))


def shipment() -> Job[ShipmentSchema]:
    return Job(payload=ShipmentSchema(input=ShipmentInput(ledger=LEDGER)))


def entries(results: redis.Redis) -> list[Any]:
    return list(results.lrange(LEDGER, 0, -1))


def letters(orchestrator: Orchestrator, queue: str) -> list[Any]:
    """All dead letters of a queue, once there is one."""
    wait_until(lambda: orchestrator.dead_letters.count(queue), f"a dead letter in {queue}")
    return orchestrator.dead_letters.list(queue)


def test_a_submitted_job_comes_back_typed(celery_setup: CeleryTestSetup, orchestrator: Orchestrator, pool: str) -> None:
    handle = orchestrator.submit(measurement(1, 2), queue=celery_setup.worker.worker_queue)
    assert handle.result(PATIENCE) == MeasureOutput(mean=1.5, taken=TAKEN)
    assert handle.status() is ExecutionStatus.COMPLETED
    assert f"concurrency: 1 ({pool.removesuffix('s')})" in celery_setup.worker.logs()


def test_a_producer_of_plain_messages_has_its_jobs_validated_and_its_tasks_run(
    celery_setup: CeleryTestSetup, orchestrator: Orchestrator
) -> None:
    queue, send = celery_setup.worker.worker_queue, celery_setup.app.send_task
    right = send("nodes_measure", kwargs={"samples": [1, 2]}, queue=queue)
    wrong = send("nodes_measure", kwargs={"samples": "many"}, queue=queue)
    plain = send("nodes.add", args=[1, 2], queue=queue)
    assert right.get(timeout=PATIENCE) == MeasureOutput(mean=1.5)
    with pytest.raises(InvalidInputError, match="samples"):
        wrong.get(timeout=PATIENCE)
    assert plain.get(timeout=PATIENCE) == 3
    assert [(letter.id, letter.reason) for letter in letters(orchestrator, queue)] == [(wrong.id, "invalid-input")]


def test_a_message_that_would_end_a_stock_worker_is_dead_lettered_and_the_worker_goes_on(
    celery_setup: CeleryTestSetup, orchestrator: Orchestrator
) -> None:
    app, worker = celery_setup.app, celery_setup.worker
    queue, body = worker.worker_queue, b'"hello"'
    with app.connection_for_write() as connection:
        app.amqp.Producer(connection).publish(
            body,
            routing_key=queue,
            headers={"task": "nodes.add", "id": "poison"},
            content_type="application/json",
            content_encoding="utf-8",
        )
    (letter,) = letters(orchestrator, queue)
    assert (letter.id, letter.reason, letter.body) == ("poison", "undecodable", body)
    assert letter.worker == worker.hostname()
    assert orchestrator.submit(measurement(3), queue=queue).result(PATIENCE) == MeasureOutput(mean=3, taken=TAKEN)


def test_a_job_whose_worker_is_killed_is_done_after_the_workers_restart(
    celery_setup: CeleryTestSetup, orchestrator: Orchestrator, results: redis.Redis
) -> None:
    worker = celery_setup.worker
    handle = orchestrator.submit(shipment(), queue=worker.worker_queue)
    wait_until(lambda: entries(results), "the job's begin")
    worker.kill()
    worker.restart()
    results.set(gate(LEDGER), "go")
    assert handle.result(PATIENCE) == ShipmentOutput(attempt=2)
    assert entries(results) == ["begin 1", "begin 2", "end 2"]


@pytest.mark.parametrize("pool", ["prefork"], indirect=True)
def test_a_worker_and_its_jobs_outlive_a_restart_of_the_broker(
    celery_setup: CeleryTestSetup, results: redis.Redis
) -> None:
    queue = celery_setup.worker.worker_queue
    with Orchestrator.from_celery(celery_setup.app) as before:
        running = before.submit(shipment(), queue=queue)
        waiting = before.submit(measurement(1, 2), queue=queue)
    wait_until(lambda: entries(results), "the job's begin")
    celery_setup.broker.restart()
    results.set(gate(LEDGER), "go")
    # A container comes back on another port; the library has told the app.
    with Orchestrator.from_celery(celery_setup.app) as after:
        assert after.handle(running.id).result(PATIENCE) is not None
        assert after.handle(waiting.id).result(PATIENCE) == MeasureOutput(mean=1.5, taken=TAKEN)
        assert after.submit(measurement(3), queue=queue).result(PATIENCE) == MeasureOutput(mean=3, taken=TAKEN)
    assert entries(results)[:2] == ["begin 1", "end 1"]
    assert celery_setup.worker.logs().count(" ready.") == 1


def test_the_library_finds_its_nodes_and_what_runs_in_them(celery_setup: CeleryTestSetup) -> None:
    worker = celery_setup.worker
    assert celery_setup.ready(docker=True)
    answers = celery_setup.app.control.ping(timeout=PATIENCE, limit=1)
    assert [list(answer) for answer in answers] == [[worker.hostname()]]
    assert worker.get_running_processes_info(["name"], {"name": "celery"})
    assert worker.container.env["CELERY_BROKER_URL"] == celery_setup.broker.config()["url"]
