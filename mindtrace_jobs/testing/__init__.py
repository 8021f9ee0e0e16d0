"""Contracts as tests that run: what every client of this package does, whatever its broker, and what every runner does.

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

A Consumer and a Celery worker answer alike whatever happens to a job. Hold either to it on a broker of yours::

    from mindtrace_jobs.testing import RunnerConformance
    from mindtrace_jobs.testing.runners import Runners


    class TestMyRunners(RunnerConformance):
        @pytest.fixture(scope="module", params=["consumer", "prefork"])
        def runners(self, request, tmp_path_factory):
            folder = tmp_path_factory.mktemp("runners")
            with Runners("redis://localhost:6379/9", request.param, folder) as runners:
                yield runners

What is in it is loaded on first use, and needs pytest, which `mindtrace_jobs` itself neither imports nor requires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindtrace_jobs import _lazy

if TYPE_CHECKING:
    from mindtrace_jobs.testing.conformance import BackendConformance as BackendConformance
    from mindtrace_jobs.testing.runners.conformance import RunnerConformance as RunnerConformance

_HOMES = {
    "mindtrace_jobs.testing.conformance": ["BackendConformance"],
    "mindtrace_jobs.testing.runners.conformance": ["RunnerConformance"],
}

__all__ = ["BackendConformance", "RunnerConformance"]


__getattr__, __dir__ = _lazy.attach(__name__, _HOMES)
