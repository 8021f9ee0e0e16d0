"""RabbitMQClient keeps the public contract of a backend."""

from __future__ import annotations

import pytest

from mindtrace_jobs.testing import BackendConformance

# Celery's Redis result backend calls a redis-py method that redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


class TestRabbitMQClient(BackendConformance):
    @pytest.fixture
    def broker(self, rabbitmq_url: str) -> str:
        return rabbitmq_url
