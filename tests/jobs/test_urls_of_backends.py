"""A URL chooses the client, and making one connects to nothing."""

from __future__ import annotations

import pytest

from mindtrace_jobs import ConfigurationError, LocalClient, Orchestrator, RabbitMQClient, RedisClient


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
