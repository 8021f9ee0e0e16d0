"""Both transports against a simple model of a queue: publish, take, start, settle and close in any order."""

from __future__ import annotations

import pytest

from tests.jobs.transports.kit import Transport
from tests.jobs.transports.model import QueueMachine, run


@pytest.mark.parametrize("queue_type", ["", "fifo", "priority", "stack"])
def test_queue_behaves_like_its_model(transport: Transport, queue_type: str) -> None:
    examples, steps = {"memory": (100, 50), "redis": (25, 25)}[transport.name]
    run(QueueMachine, transport.url, queue_type, examples=examples, steps=steps)
