"""LocalClient keeps the public contract of a backend."""

from __future__ import annotations

import pytest

from mindtrace_jobs.testing import BackendConformance

# Celery's Redis result backend calls a redis-py method that redis-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


class TestLocalClient(BackendConformance):
    @pytest.fixture
    def broker(self, memory_url: str) -> str:
        return memory_url
