"""A Consumer and Celery workers answer alike, on the three brokers."""

from __future__ import annotations

import pytest

from mindtrace_jobs.testing.runners.conformance import LivingRunnerConformance
from mindtrace_jobs.testing.runners.endings import CompletedConformance
from mindtrace_jobs.testing.runners.hostile import HostileConformance
from mindtrace_jobs.testing.runners.raising import ExitConformance

#: Runners that are held to the whole contract.
WHOLE = (
    "memory-consumer",
    "memory-threads",
    "redis-consumer",
    "redis-prefork",
    "rabbitmq-consumer",
    "rabbitmq-prefork",
)
#: Runners that differ from those in how they run a handler.
POOLS = ("memory-solo", "redis-solo", "redis-threads", "redis-gevent")


@pytest.mark.parametrize("runners", WHOLE, indirect=True)
class TestRunners(LivingRunnerConformance):
    """All that ends no runner; the rest of the contract is in test_lost_runners.py."""


@pytest.mark.parametrize("runners", POOLS, indirect=True)
class TestPools(CompletedConformance, HostileConformance, ExitConformance):
    """What depends on how a pool runs a handler."""
