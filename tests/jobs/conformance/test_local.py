"""LocalClient keeps the public contract of a backend."""

from __future__ import annotations

import pytest

from mindtrace_jobs.testing import BackendConformance


class TestLocalClient(BackendConformance):
    @pytest.fixture
    def broker(self, memory_url: str) -> str:
        return memory_url
