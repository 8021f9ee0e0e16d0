"""Stock and installed workers on one broker, as while a stack is being rolled out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mindtrace_jobs import Job
from tests.jobs.celery.models import DetectionInput, DetectionSchema
from tests.jobs.celery.projects import Project
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until
from tests.jobs.servers.process import ServerProcess

PATIENCE = 30.0
#: Publishes numbers, and writes each down once the broker has it, until it is told to stop.
_PRODUCER = """
import sys, time
from pathlib import Path
{imports}
number, stop = int(sys.argv[1]), Path(sys.argv[2])
while not stop.exists():
    {publish}
    print("published", number, flush=True)
    number += 1
    time.sleep(0.02)
"""
ORDERS = _PRODUCER.format(imports="from shop.orders.tasks import fulfil", publish="fulfil.delay(number, seconds=0.01)")
SHELVES = _PRODUCER.format(
    imports="from shop.vision.models import ShelfInput; from shop.vision.tasks import look",
    publish="look.submit(ShelfInput(image='x', number=number, seconds=0.01))",
)


def wait_ready(*workers: ServerProcess) -> None:
    for worker in workers:
        worker.wait_for_log(" ready.", timeout=60)


def numbers(log: str) -> list[int]:
    """What a producer has published."""
    return [int(line.split()[1]) for line in log.splitlines() if line.startswith("published ")]


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


def test_stock_workers_are_replaced_one_by_one_under_load_and_nothing_is_lost(
    broker: Broker, tmp_path: Path, new_project: Callable[..., Project]
) -> None:
    # given: two stock workers, and producers of plain tasks both with and without jobs installed
    ledger, stop = tmp_path / "ledger", tmp_path / "stop"
    stock, installed = new_project("stock", ledger=ledger), new_project("installed", jobs=True, ledger=ledger)
    for project in (stock, installed):
        project.add("orders.py", ORDERS)
        project.add("shelves.py", SHELVES)
    # Of threads: a stock worker of processes may wait for ever, at a warm shutdown, for a task that came in that instant.
    old = [stock.worker(name, "--pool=threads", "--concurrency=2") for name in ("old1", "old2")]
    wait_ready(*old)
    producers = [
        stock.start("stock_orders", "orders.py", "0", str(stop)),
        installed.start("installed_orders", "orders.py", "1000000", str(stop)),
    ]

    # when: workers first, one by one, and producers of jobs as soon as there is a worker for jobs
    wait_ready(installed.worker("new1", "--concurrency=2"))
    producers.append(installed.start("shelves", "shelves.py", "0", str(stop)))
    old[0].terminate(timeout=60)
    wait_ready(installed.worker("new2", "--concurrency=2"))
    old[1].terminate(timeout=60)
    alone = len(installed.noted("fulfil"))
    wait_until(lambda: len(installed.noted("fulfil")) > alone + 20, "work by the new workers alone")
    stop.touch()
    wait_until(lambda: not any(producer.running for producer in producers), "the producers' end")

    # then: every task and every job was done, once, by either kind of worker
    by_stock, by_installed = numbers(stock.log("stock_orders")), numbers(installed.log("installed_orders"))
    wait_until(lambda: len(installed.noted("fulfil")) >= len(by_stock + by_installed), "all orders")
    fulfilled = [(int(number), host) for number, host in installed.noted("fulfil")]
    assert sorted(number for number, _ in fulfilled) == by_stock + by_installed
    assert {(number < 1_000_000, host[:3]) for number, host in fulfilled} == {
        (published_by_stock, worker) for published_by_stock in (True, False) for worker in ("old", "new")
    }
    shelves = numbers(installed.log("shelves"))
    wait_until(lambda: len(installed.noted("look")) >= len(shelves), "all jobs")
    assert sorted(int(number) for number, _ in installed.noted("look")) == shelves
    assert len(shelves) > 20
    assert not installed.noted("failed")
    for queue in ("celery", "detection_jobs"):
        assert broker.orchestrator.dead_letters.count(queue) == 0
    for project, names in ((stock, ("old1", "old2")), (installed, ("new1", "new2"))):
        assert all("Traceback" not in project.log(name) for name in names)


def test_a_priority_queue_that_exists_is_consumed_as_it_is(broker: Broker, start_worker: Callable[..., Worker]) -> None:
    broker.orchestrator.declare_queue("urgent_jobs", "priority")
    worker = start_worker(queues=("urgent_jobs",))
    assert broker.orchestrator.submit(detection(), queue="urgent_jobs").result(PATIENCE) is not None
    assert broker.kind == "redis" or worker.logged("is used as it is")
