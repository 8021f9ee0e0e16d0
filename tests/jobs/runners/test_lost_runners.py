"""A Consumer and Celery workers that are killed, stopped or interrupted answer alike."""

from __future__ import annotations

import pytest

from mindtrace_jobs.testing.runners.conformance import LostRunnerConformance
from mindtrace_jobs.testing.runners.losses import InterruptConformance

#: Runners that are held to this part of the contract: between them every pool that differs in how it is lost.
WHOLE = ("memory-consumer", "redis-consumer", "redis-prefork", "rabbitmq-consumer", "rabbitmq-threads")
#: Runners that differ from those in how they are interrupted.
POOLS = ("redis-solo", "redis-threads", "redis-gevent")


@pytest.mark.parametrize("runners", WHOLE, indirect=True)
class TestLostRunners(LostRunnerConformance):
    """All that ends a runner; the rest of the contract is in test_runners.py."""


@pytest.mark.parametrize("runners", POOLS, indirect=True)
class TestInterruptedPools(InterruptConformance):
    """What depends on how a pool runs a handler."""
