"""Runners for the conformance tests: kinds of runners on the three brokers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from mindtrace_jobs.testing.runners import RunnerKind, Runners
from tests.jobs.conftest import _rabbitmq as rabbitmq
from tests.jobs.servers import RedisServer

#: Settings of Celery that change what is recorded, and must not change what is read. Each is tried on one runner.
SETTINGS: dict[str, dict[str, Any]] = {
    "redis-prefork": {"task_track_started": True},
    "redis-threads": {"result_extended": True},
    "rabbitmq-prefork": {"result_extended": True, "task_track_started": True},
}


@pytest.fixture(scope="module")
def new_redis_url() -> Iterator[Callable[[], str]]:
    """Gives empty databases of a Redis server of this module."""
    with RedisServer() as server:
        numbers = count()
        yield lambda: server.url(next(numbers))


@pytest.fixture(scope="module")
def runners(
    request: pytest.FixtureRequest, new_redis_url: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runners]:
    """The runners named by the parameter, such as ``redis-prefork``, on a broker of their own."""
    name: str = request.param
    backend, kind = name.split("-")
    broker, results = f"memory://{name}", None
    if backend == "redis":
        broker = new_redis_url()
    elif backend == "rabbitmq":
        server = request.getfixturevalue("rabbitmq_server")
        broker, results = server.url(server.add_vhost()), new_redis_url()
    folder = tmp_path_factory.mktemp(name)
    settings = SETTINGS.get(name)
    runner_kind: RunnerKind = kind  # type: ignore[assignment]
    with Runners(broker, runner_kind, folder, results=results, settings=settings) as runners:
        yield runners


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start RabbitMQ now if a test will need it."""
    named = (item.callspec.params.get("runners") for item in session.items if hasattr(item, "callspec"))
    if any(str(name).startswith("rabbitmq") for name in named) and not session.config.option.collectonly:
        rabbitmq(session.config)
