"""How a broker is named: URLs, hosts and ports that cannot work are refused before anything connects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mindtrace_jobs import BrokerUnavailableError, ConfigurationError, Orchestrator, RabbitMQClient, RedisClient
from tests.jobs.servers.base import free_port


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Orchestrator.from_url(None),  # type: ignore[arg-type]
        lambda: Orchestrator.from_url("redis://me:p4/ss@host:6379/0"),
        lambda: Orchestrator.from_url("redis://host:port/0"),
        lambda: Orchestrator.from_url("redis://host:6379/images"),
        lambda: Orchestrator.from_url("redis://host/0?typo=1"),
        lambda: Orchestrator.from_url("amqp://me:p4/ss@host:5672//"),
        lambda: Orchestrator.from_url("amqp://host//?typo=1"),
        lambda: RedisClient("redis://:p4ss@host:6379/0"),
        lambda: RedisClient("host:6379"),
        lambda: RedisClient(port=None),  # type: ignore[arg-type]
        lambda: RedisClient(db="images"),  # type: ignore[arg-type]
        lambda: RabbitMQClient("amqp://me:p4ss@host"),
        lambda: RabbitMQClient("host", port="amqp"),  # type: ignore[arg-type]
    ],
)
def test_an_address_that_cannot_work_is_refused_by_name_without_its_password(mistake: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        mistake()
    assert "p4" not in str(caught.value)
    assert "p4" not in str(caught.value.__cause__)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
@pytest.mark.parametrize("client", [RedisClient, RabbitMQClient])
def test_a_host_may_be_an_ipv6_address(client: type[RedisClient | RabbitMQClient], host: str) -> None:
    with (
        Orchestrator(client(host, free_port())) as orchestrator,
        pytest.raises(BrokerUnavailableError, match=r"\[::1\]"),
    ):
        orchestrator.queue_status("q")
