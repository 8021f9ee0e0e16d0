"""Orchestrators for the contract of a backend; a file names its backend's URL in the fixture ``broker``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mindtrace_jobs import Orchestrator

Connect = Callable[[], Orchestrator]


@pytest.fixture
def connect(broker: str, request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes orchestrators with results: RabbitMQ's are kept in Redis."""
    options = {}
    if broker.startswith("amqp"):
        options["result_backend"] = request.getfixturevalue("redis_url")
    opened: list[Orchestrator] = []

    def connect() -> Orchestrator:
        opened.append(Orchestrator.from_url(broker, client_options=options))
        return opened[-1]

    yield connect
    for orchestrator in opened:
        orchestrator.close()


@pytest.fixture
def orchestrator(connect: Connect) -> Orchestrator:
    return connect()


@pytest.fixture
def other_orchestrator(connect: Connect) -> Orchestrator:
    return connect()
