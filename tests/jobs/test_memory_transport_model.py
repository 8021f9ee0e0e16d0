"""The memory transport against a simple model: publish, take, settle and close in any order, for each queue type."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kombu import Connection

from mindtrace_jobs.transports.memory import Transport

HOLDERS = 2
holders = st.integers(0, HOLDERS - 1)


@dataclass(eq=False)
class Item:
    """What the model knows about one message."""

    name: str
    priority: int
    redelivered: bool = False
    deliveries: int = 0
    attempts: int = 0


@dataclass(eq=False)
class Held:
    """One message in the hands of a holder."""

    item: Item
    message: Any
    prefetched: bool
    started: bool = False


@dataclass
class Holder:
    """A connection with one channel, and what it holds in the order in which it got it."""

    connection: Any
    channel: Any
    held: list[Held] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """One queue, two holders. ``ready`` is the queue as a plain list, the next message first."""

    queue_type = ""

    @initialize()
    def start(self) -> None:
        self.options = {"broker_id": str(uuid4())}
        self.ready: list[Item] = []
        self.published = 0
        self.holders = [self.open() for _ in range(HOLDERS)]
        self.holders[0].channel.queue_declare("q", arguments={"x-job-queue": self.queue_type})

    def open(self) -> Holder:
        connection = Connection("memory://", transport=Transport, transport_options=self.options)
        return Holder(connection, connection.channel())

    @rule(holder=holders, priority=st.integers(0, 9))
    def publish(self, holder: int, priority: int) -> None:
        item = Item(f"m{self.published}", priority)
        self.published += 1
        channel = self.holders[holder].channel
        channel.basic_publish(channel.prepare_message(item.name, priority=priority), "", "q")
        if self.queue_type == "stack":
            self.ready.insert(0, item)
        else:
            self.ready.insert(self.place(item, behind_equals=True), item)

    @rule(holder=holders)
    def get(self, holder: int) -> None:
        message = self.holders[holder].channel.basic_get("q")
        self.took(holder, message, prefetched=False)

    @rule(holder=holders)
    def consume_one(self, holder: int) -> None:
        it = self.holders[holder]
        received: list[Any] = []
        it.channel.basic_consume("q", no_ack=False, callback=received.append, consumer_tag="c")
        with suppress(TimeoutError):
            it.connection.drain_events(timeout=0)
        it.channel.basic_cancel("c")
        self.took(holder, received[0] if received else None, prefetched=True)

    def took(self, holder: int, message: Any, prefetched: bool) -> None:
        if not self.ready:
            assert message is None
            return
        item = self.ready.pop(0)
        assert message.body == item.name.encode()
        assert message.headers.get("redelivered", False) is item.redelivered
        assert message.delivery_info.get("redelivered", False) is item.redelivered
        assert message.headers.get("x-delivery-count", 0) == item.deliveries
        assert message.headers.get("x-attempts", 0) == item.attempts
        self.holders[holder].held.append(Held(item, message, prefetched))

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data())
    def mark_started(self, data: Any) -> None:
        it, held = self.pick(data)
        it.channel.mark_started(held.message.delivery_tag)
        held.started = True

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data())
    def acknowledge(self, data: Any) -> None:
        it, held = self.pick(data)
        it.held.remove(held)
        held.message.ack()

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data(), requeue=st.booleans())
    def reject(self, data: Any, requeue: bool) -> None:
        it, held = self.pick(data)
        it.held.remove(held)
        held.message.reject(requeue=requeue)
        if requeue:
            self.put_back(held, vanished=False)

    @rule(holder=holders)
    def close(self, holder: int) -> None:
        it = self.holders[holder]
        it.connection.release()
        for held in reversed(it.held):
            self.put_back(held, vanished=True)
        self.holders[holder] = self.open()

    @rule(holder=holders)
    def recover(self, holder: int) -> None:
        it = self.holders[holder]
        it.channel.basic_recover(requeue=True)
        for held in reversed(it.held):
            self.put_back(held, vanished=False)
        it.held.clear()

    @rule(holder=holders)
    def purge(self, holder: int) -> None:
        assert self.holders[holder].channel.queue_purge("q") == len(self.ready)
        self.ready.clear()

    @invariant()
    def order_and_counts_agree(self) -> None:
        channel = self.holders[0].channel
        assert [raw["body"] for raw in channel.peek("q", 1000)] == [item.name for item in self.ready]
        assert channel.queue_stats("q") == {
            "ready": len(self.ready),
            "unacknowledged": sum(len(holder.held) for holder in self.holders),
            "delayed": 0,
            "consumers": 0,
        }

    def pick(self, data: Any) -> tuple[Holder, Held]:
        return data.draw(st.sampled_from([(holder, held) for holder in self.holders for held in holder.held]))  # type: ignore[no-any-return]

    def put_back(self, held: Held, vanished: bool) -> None:
        item = held.item
        item.redelivered = True
        item.deliveries += held.started or not held.prefetched
        item.attempts += held.started and vanished
        self.ready.insert(self.place(item, behind_equals=False), item)

    def place(self, item: Item, behind_equals: bool) -> int:
        """Where in ``ready`` it belongs."""
        if self.queue_type != "priority":
            return len(self.ready) if behind_equals else 0
        lowest = item.priority if behind_equals else item.priority + 1
        return sum(1 for other in self.ready if other.priority >= lowest)

    def teardown(self) -> None:
        for holder in getattr(self, "holders", []):
            holder.connection.release()


@pytest.mark.parametrize("queue_type", ["", "fifo", "priority", "stack"])
def test_queue_behaves_like_its_model(queue_type: str) -> None:
    machine = type(f"{queue_type or 'plain'}Machine", (QueueMachine,), {"queue_type": queue_type})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
