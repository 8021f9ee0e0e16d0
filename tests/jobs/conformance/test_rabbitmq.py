"""RabbitMQClient keeps the public contract of a backend."""

from __future__ import annotations

import pytest

from mindtrace_jobs.testing import BackendConformance


class TestRabbitMQClient(BackendConformance):
    @pytest.fixture
    def broker(self, rabbitmq_url: str) -> str:
        return rabbitmq_url
