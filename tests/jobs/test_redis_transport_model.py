"""The Redis transport against the transports' common model of a queue, with leases that expire at any time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.jobs.redis_channels import server, tracks, vanish
from tests.jobs.transports.model import QueueMachine, run


class LeaseMachine(QueueMachine):
    """A queue whose holders may be stopped for longer than their lease."""

    options = {"lease": 3600}  # noqa: RUF012

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data())
    def expire_and_restore(self, data: Any) -> None:
        it, held = self.pick(data)
        tag = held.message.delivery_tag
        vanish(it.channel, tag)
        it.channel.acknowledge(tag)  # too late
        assert tag in it.channel.lost_deliveries
        it.held.remove(held)
        held.prefetched = False  # the server does not know whether the holder's application had seen it
        # What is no job, and was not started as one, does not come back in front again and again.
        self.put_back(held, vanished=True, last=bool(held.item.deliveries) and not held.started)

    def teardown(self) -> None:
        super().teardown()
        with server(self.url) as client:
            assert not tracks(client)


@pytest.mark.parametrize("queue_type", ["fifo", "priority", "stack"])
def test_queue_behaves_as_its_model(redis_url: str, queue_type: str) -> None:
    run(LeaseMachine, redis_url, queue_type, examples=25, steps=25)
