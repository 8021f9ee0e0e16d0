"""How a runner of the conformance tests is configured: the same for each, and readable from the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.runners.jobs import POLICY, RUNNER


@dataclass(frozen=True)
class RunnerOptions:
    """Where and how a runner works. URLs and settings, which may hold passwords, are not in its repr.

    Attributes:
        broker: The broker's URL.
        results: The result backend's URL; None: what the broker's client has by itself.
        queues: What is consumed.
        prefetch: Jobs held in the runner.
        lease: Seconds, on Redis.
        settings: Celery's, for a Celery worker.
        coroutines: Whether the Celery worker has a task whose function is a coroutine function.
    """

    broker: str = field(repr=False)
    results: str | None = field(default=None, repr=False)
    queues: tuple[str, ...] = ()
    prefetch: int = 1
    lease: float = 2.0
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    coroutines: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """The variable that tells a process these options."""
        return {RUNNER: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Self:
        """The options in this process's environment."""
        options = json.loads(os.environ[RUNNER])
        return cls(**{**options, "queues": tuple(options["queues"])})

    def orchestrator(self) -> Orchestrator:
        """An orchestrator on the broker and its results."""
        client: dict[str, Any] = {}
        if self.broker.startswith(("redis", "sentinel")):
            client["lease"] = self.lease
        elif self.results is not None:
            client["result_backend"] = self.results
        return Orchestrator.from_url(self.broker, client_options=client, retry=POLICY)
