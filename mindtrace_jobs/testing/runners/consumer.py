"""The Consumer of the conformance tests."""

from __future__ import annotations

from typing import Any

from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.runners.jobs import handle
from mindtrace_jobs.testing.runners.options import RunnerOptions

#: What its process writes before it takes jobs.
READY = "the consumer is ready."


def make_consumer(orchestrator: Orchestrator, options: RunnerOptions) -> Consumer[Any]:
    """A Consumer on the queues of the options, which are declared if need be."""
    for queue in options.queues:
        if not orchestrator.client.exists(queue):
            orchestrator.declare_queue(queue)
    return Consumer(orchestrator, options.queues, handle, prefetch=options.prefetch)
