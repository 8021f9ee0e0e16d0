"""A queue and two holders of its messages, as a state machine that knows what each step must do."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

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

from mindtrace_jobs.transports import our_url, register_aliases
from tests.jobs.transports.kit import declare, peeked

HOLDERS = 2
holders = st.integers(0, HOLDERS - 1)
#: One of each band in which the Redis transport orders.
priorities = st.sampled_from([0, 3, 6, 9])
names = itertools.count()


def run(machine: type[QueueMachine], url: str, queue_type: str, *, examples: int, steps: int) -> None:
    """Run a machine against the broker of a URL, so many times so many steps."""
    profile = settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck))
    named = {"url": url, "queue_type": queue_type}
    run_state_machine_as_test(type(f"{queue_type or 'plain'}Machine", (machine,), named), settings=profile)


@dataclass(eq=False)
class Item:
    """What the model knows about one message."""

    number: int
    priority: int
    redelivered: bool = False
    deliveries: int = 0
    losses: int = 0


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

    url: ClassVar[str]
    queue_type: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    @initialize()
    def start(self) -> None:
        register_aliases()
        self.ready: list[Item] = []
        self.holders = [self.open() for _ in range(HOLDERS)]
        self.replaced = 0
        for queue in ("q", "other"):
            self.holders[0].channel.queue_delete(queue)  # of the run before
        declare(self.holders[0].channel, self.queue_type)

    def open(self) -> Holder:
        connection = Connection(our_url(self.url), transport_options=self.options)
        return Holder(connection, connection.default_channel)

    @rule(holder=holders, priority=priorities, count=st.integers(1, 3), batch=st.booleans())
    def publish(self, holder: int, priority: int, count: int, batch: bool) -> None:
        channel = self.holders[holder].channel
        if self.queue_type == "":  # a plain queue orders as on Kombu's own transport
            priority = 0
        items = [Item(next(names), priority) for _ in range(count)]
        sender = channel.create_publish_batch(10) if batch else None
        for item in items:
            message = channel.prepare_message(str(item.number), priority, "application/json", "utf-8", properties={})
            if sender is None:
                channel.basic_publish(message, exchange="", routing_key="q")
            else:
                sender.publish(message, exchange="", routing_key="q")
        if sender is not None:
            sender.flush()
        for item in items:
            at = 0 if self.queue_type == "stack" else self.place(item, behind_equals=True)
            self.ready.insert(at, item)

    @rule(holder=holders)
    def get(self, holder: int) -> None:
        self.took(holder, self.holders[holder].channel.basic_get("q"), prefetched=False)

    @rule(holder=holders)
    def consume_one(self, holder: int) -> None:
        it = self.holders[holder]
        received: list[Any] = []
        it.channel.basic_qos(0, len(it.held) + 1, False)
        it.channel.basic_consume("q", no_ack=False, callback=received.append, consumer_tag="c")
        with suppress(TimeoutError):
            while len(received) < 1:
                it.connection.drain_events(timeout=0)
        it.channel.basic_cancel("c")
        self.took(holder, received[0] if received else None, prefetched=True)

    def took(self, holder: int, message: Any, prefetched: bool) -> None:
        if not self.ready:
            assert message is None
            return
        item = self.ready.pop(0)
        assert message.payload == item.number
        assert message.headers.get("redelivered", False) is item.redelivered
        assert message.delivery_info.get("redelivered", False) is item.redelivered
        assert message.headers.get("x-delivery-count", 0) == item.deliveries
        assert message.headers.get("x-attempts", 0) == item.losses
        self.holders[holder].held.append(Held(item, message, prefetched))

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data())
    def mark_started(self, data: Any) -> None:
        it, held = self.pick(data)
        assert it.channel.start(held.message.delivery_tag)
        held.started = True

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data(), verb=st.sampled_from(["acknowledge", "ack_nowait", "basic_ack"]))
    def acknowledge(self, data: Any, verb: str) -> None:
        it, held = self.pick(data)
        it.held.remove(held)
        getattr(it.channel, verb)(held.message.delivery_tag)
        it.channel.queue_stats("q")  # brings an acknowledgement that was not waited for

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data(), how=st.sampled_from(["drop", "last", "next"]))
    def reject(self, data: Any, how: str) -> None:
        it, held = self.pick(data)
        it.held.remove(held)
        if how == "next":
            it.channel.requeue(held.message.delivery_tag)
        else:
            held.message.reject(requeue=how == "last")
        it.channel.queue_stats("q")
        if how != "drop":
            self.put_back(held, vanished=False, last=how == "last")

    @precondition(lambda self: any(holder.held for holder in self.holders))
    @rule(data=st.data())
    def replace(self, data: Any) -> None:
        it, held = self.pick(data)
        it.held.remove(held)
        message = it.channel.prepare_message("{}", 0, "application/json", "utf-8", properties={})
        it.channel.replace(held.message.delivery_tag, message, "other")
        self.replaced += 1
        assert it.channel.queue_stats("other")["ready"] == self.replaced

    @rule(holder=holders)
    def close(self, holder: int) -> None:
        it = self.holders[holder]
        it.connection.release()
        for held in reversed(it.held):
            self.put_back(held, vanished=True)
        self.holders[holder] = self.open()

    @rule(holder=holders)
    def purge(self, holder: int) -> None:
        assert self.holders[holder].channel.queue_purge("q") == len(self.ready)
        self.ready.clear()

    @invariant()
    def order_and_counts_agree(self) -> None:
        channel = self.holders[0].channel
        assert peeked(channel) == [item.number for item in self.ready]
        assert channel.queue_stats("q") == {
            "ready": len(self.ready),
            "unacknowledged": sum(len(holder.held) for holder in self.holders),
            "delayed": 0,
            "consumers": 0,
        }

    def pick(self, data: Any) -> tuple[Holder, Held]:
        """A message that is held, and who holds it."""
        return data.draw(st.sampled_from([(holder, held) for holder in self.holders for held in holder.held]))  # type: ignore[no-any-return]

    def put_back(self, held: Held, vanished: bool, last: bool = False) -> None:
        item = held.item
        item.redelivered = True
        item.deliveries += held.started or not held.prefetched
        item.losses += held.started and vanished
        self.ready.insert(self.place(item, behind_equals=last), item)

    def place(self, item: Item, behind_equals: bool) -> int:
        """Where in ``ready`` it belongs."""
        if self.queue_type != "priority":
            return len(self.ready) if behind_equals else 0
        lowest = item.priority if behind_equals else item.priority + 1
        return sum(1 for other in self.ready if other.priority >= lowest)

    def teardown(self) -> None:
        if not hasattr(self, "holders"):
            return
        left = len(self.ready) + sum(len(holder.held) for holder in self.holders)
        for holder in self.holders:
            holder.connection.release()
        last = self.open()
        assert last.channel.queue_stats("q")["ready"] == left
        last.connection.release()
