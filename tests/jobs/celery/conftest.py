"""Brokers and worker processes for the tests of jobs as Celery tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import RedisServer


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """A Redis server of this module."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, own_redis: RedisServer) -> Iterator[Broker]:
    """An empty broker for the tests of a module; results are kept on Redis beside both."""
    if request.param == "redis":
        url = own_redis.url(1)
        broker = Broker("redis", url, own_redis.url(2))
    else:
        server = request.getfixturevalue("rabbitmq_server")
        broker = Broker("rabbitmq", server.url(server.add_vhost()), own_redis.url(3))
    yield broker
    broker.close()


@pytest.fixture
def start_worker(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts a worker of the stack on the broker; ended with the test."""
    workers: list[Worker] = []

    def start(**options: object) -> Worker:
        worker = Worker(broker, tmp_path / f"worker{len(workers)}", **options)  # type: ignore[arg-type]
        workers.append(worker)
        return worker.wait_ready()

    yield start
    for worker in workers:
        worker.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Celery's Redis backend calls what redis-py says is out of date.
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"))
