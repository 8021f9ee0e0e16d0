"""The three backends keep the public contract of a backend, on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mindtrace_jobs import ConfigurationError, LocalClient, Orchestrator, RabbitMQClient, RedisClient
from mindtrace_jobs.testing import BackendConformance

# Celery's Redis result backend calls a redis-py method that redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

Connect = Callable[[], Orchestrator]


class TestBackends(BackendConformance):
    """With results: RabbitMQ's are kept in Redis."""

    @pytest.fixture
    def connect(self, backend_url: str, request: pytest.FixtureRequest) -> Iterator[Connect]:
        options = {}
        if backend_url.startswith("amqp"):
            options["result_backend"] = request.getfixturevalue("redis_url")
        opened: list[Orchestrator] = []

        def connect() -> Orchestrator:
            opened.append(Orchestrator.from_url(backend_url, client_options=options))
            return opened[-1]

        yield connect
        for orchestrator in opened:
            orchestrator.close()

    @pytest.fixture
    def orchestrator(self, connect: Connect) -> Orchestrator:
        return connect()

    @pytest.fixture
    def other_orchestrator(self, connect: Connect) -> Orchestrator:
        return connect()


@pytest.mark.parametrize(
    ("url", "client"),
    [
        ("memory://", LocalClient),
        ("memory://of-my-own", LocalClient),
        ("redis://localhost:1/3", RedisClient),
        ("rediss://localhost:1/3", RedisClient),
        ("sentinel://localhost:1", RedisClient),
        ("amqp://localhost:1//", RabbitMQClient),
        ("amqps://localhost:1//", RabbitMQClient),
    ],
)
def test_from_url_chooses_the_client_and_connects_to_nothing(url: str, client: type) -> None:
    with Orchestrator.from_url(url) as orchestrator:
        assert type(orchestrator.client) is client


@pytest.mark.parametrize("url", ["sqs://", "redis", "", "http://localhost"])
def test_from_url_refuses_what_it_does_not_know(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Orchestrator.from_url(url)


def test_an_orchestrator_alone_works_in_memory() -> None:
    with Orchestrator() as orchestrator:
        assert isinstance(orchestrator.client, LocalClient)
