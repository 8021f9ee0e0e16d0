"""Brokers and worker processes for the tests of jobs as Celery tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.celery.projects import Project
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import RedisServer

#: Projects with tests of their own, which others run.
collect_ignore = ["project", "project_jobs"]


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """A Redis server of this module."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def new_broker(request: pytest.FixtureRequest, own_redis: RedisServer) -> Iterator[Callable[[str], Broker]]:
    """Makes an empty broker of a kind for the tests of a module; results are kept on Redis beside both."""
    made: list[Broker] = []

    def make(kind: str) -> Broker:
        results = own_redis.url(2 * len(made) + 1)
        if kind == "redis":
            url = own_redis.url(2 * len(made) + 2)
        else:
            server = request.getfixturevalue("rabbitmq_server")
            url = server.url(server.add_vhost())
        made.append(Broker(kind, url, results))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, new_broker: Callable[[str], Broker]) -> Broker:
    """The broker of most tests of a module."""
    return new_broker(request.param)


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


@pytest.fixture
def new_project(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Makes copies of the project in ``project/``; what they start is ended with the test."""
    made: list[Project] = []

    def make(name: str, on: Broker = broker, **options: Any) -> Project:
        project = Project(tmp_path / name, on, **options)
        made.append(project)
        return project

    yield make
    for project in made:
        project.close()
