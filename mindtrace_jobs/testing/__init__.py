"""The contract of a backend as tests that run: what every client of this package does, whatever its broker.

Hold a client of your own to it, in a test module of yours::

    import pytest

    pytest.register_assert_rewrite("mindtrace_jobs.testing")

    from mindtrace_jobs import Orchestrator
    from mindtrace_jobs.testing import BackendConformance


    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def orchestrator(self):
            with Orchestrator(MyClient(...)) as orchestrator:
                yield orchestrator

        @pytest.fixture
        def other_orchestrator(self):
            with Orchestrator(MyClient(...)) as orchestrator:
                yield orchestrator

Importing this package needs pytest, which `mindtrace_jobs` itself neither imports nor requires.
"""

from __future__ import annotations

from mindtrace_jobs.testing.conformance import BackendConformance

__all__ = ["BackendConformance"]
