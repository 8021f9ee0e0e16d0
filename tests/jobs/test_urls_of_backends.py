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


@pytest.mark.parametrize(
    ("broker", "results", "options", "same"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0", {}, True),
        ("redis://localhost", "redis://localhost:6379/0", {}, True),
        ("redis://user:secret@host/3", "redis://user:secret@host:6379/3", {}, True),
        ("redis://host/3", "redis://host/4", {}, False),
        ("redis://host/3", "redis://user:secret@host/3", {}, False),
        ("redis://host", "redis://host?socket_timeout=3", {}, False),
        ("redis://host", "redis://host:port", {}, False),
        ("redis://host;redis://other", "redis://host", {}, True),
        ("redis://host", "rediss://host", {}, False),
        ("rediss://host", "rediss://host", {}, False),
        ("redis://host", "redis://host", {"ssl": True}, False),
        # Without a prefix of their own, and with that of the queues, results have other keys.
        ("redis://host", "redis://host", {"key_prefix": "mine:"}, False),
        ("redis://host", "cache+memory://", {}, False),
    ],
)
def test_records_are_written_with_their_messages_if_the_result_backend_is_the_brokers_own_database(
    broker: str, results: str, options: dict[str, object], same: bool
) -> None:
    with Orchestrator.from_url(broker, client_options={"result_backend": results, **options}) as orchestrator:
        assert orchestrator.client.keeps_records is same
        if not same:
            assert orchestrator.client.result_backend == results
