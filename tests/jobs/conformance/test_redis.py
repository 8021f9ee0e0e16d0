"""RedisClient keeps the public contract of a backend."""

from __future__ import annotations

import pytest

from mindtrace_jobs.testing import BackendConformance


class TestRedisClient(BackendConformance):
    @pytest.fixture
    def broker(self, redis_url: str) -> str:
        return redis_url
