"""Stock and installed workers on one broker, as while a stack is being rolled out."""

from __future__ import annotations

from collections.abc import Callable

from mindtrace_jobs import Job
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until

PATIENCE = 30.0


def detection() -> Job[DetectionSchema]:
    return Job(payload=DetectionSchema(input=DetectionInput(image="x")))


def test_control_a_stock_worker_on_a_queue_of_jobs_throws_them_away(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    handle = broker.orchestrator.submit(detection(), queue="shared_jobs")
    stock = start_worker(installed=False, pool="prefork", queues=("shared_jobs",))
    stock.wait_logged("unregistered task")
    stock.stop()
    assert broker.orchestrator.queue_status("shared_jobs") == 0
    assert broker.orchestrator.dead_letters.count("shared_jobs") == 0
    assert handle.record().output is None


def test_workers_first_then_producers(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    start_worker(installed=False, queues=("celery", "reports"))
    start_worker(installed=True)
    adds = [broker.plain.send_task("stack.add", args=[number, 1]) for number in range(20)]
    handles = [broker.orchestrator.submit(detection()) for _ in range(20)]
    assert [added.get(timeout=PATIENCE) for added in adds] == list(range(1, 21))
    assert [handle.result(PATIENCE) for handle in handles] == [DetectionOutput(labels=["x", "DetectionInput"])] * 20


def test_plain_tasks_published_by_an_installed_app_run_on_stock_workers_and_the_reverse(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    stock = start_worker(installed=False, queues=("stock only",))
    installed = start_worker(installed=True, queues=("installed only",))
    there = broker.app.send_task("stack.add", args=[1, 2], queue="stock only")
    back = broker.plain.send_task("stack.add", args=[3, 4], queue="installed only")
    assert (there.get(timeout=PATIENCE), back.get(timeout=PATIENCE)) == (3, 7)
    for worker in (stock, installed):
        wait_until(lambda worker=worker: worker.logged("succeeded"), "the log")  # type: ignore[misc]


def test_a_priority_queue_that_exists_is_consumed_as_it_is(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    broker.orchestrator.declare_queue("urgent_jobs", "priority")
    worker = start_worker(queues=("urgent_jobs",))
    assert broker.orchestrator.submit(detection(), queue="urgent_jobs").result(PATIENCE) is not None
    assert broker.kind == "redis" or worker.logged("is used as it is")
