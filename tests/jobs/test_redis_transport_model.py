"""Any sequence of publish, claim, acknowledge, reject, expiry and restore does what a simple model of a queue does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from tests.jobs.redis_channels import connection, publish, server, tracks, vanish

BANDS = {priority: band for band, priority in enumerate((0, 3, 6, 9))}


def machine(url: str, queue_type: str) -> type[RuleBasedStateMachine]:
    numbers = itertools.count()

    class Machine(RuleBasedStateMachine):
        """The model: ready messages in the order of delivery within a band, and what is held."""

        held_messages = Bundle("held_messages")

        def __init__(self) -> None:
            super().__init__()
            with server(url) as client:
                client.flushdb()
            self.connections = [connection(url, lease=3600) for _ in range(2)]
            self.channels = [one.default_channel for one in self.connections]
            self.channels[0].queue_declare("q", durable=True, arguments={"x-job-queue": queue_type})
            self.ready: dict[int, list[int]] = {band: [] for band in BANDS.values()}
            self.held: dict[str, tuple[int, int, bool]] = {}
            self.attempts: dict[int, int] = {}

        def band(self, priority: int) -> int:
            return BANDS[priority] if queue_type == "priority" else 0

        @rule(priority=st.sampled_from([0, 3, 6, 9]), count=st.integers(1, 3), batch=st.booleans())
        def publish(self, priority: int, count: int, batch: bool) -> None:
            bodies = [next(numbers) for _ in range(count)]
            channel = self.channels[0]
            if batch:
                sender = channel.create_publish_batch(10)
                for body in bodies:
                    message = channel.prepare_message(str(body), priority=priority, content_type="application/json")
                    sender.publish(message, exchange="", routing_key="q")
                sender.flush()
            else:
                for body in bodies:
                    publish(channel, body, priority=priority)
            queue = self.ready[self.band(priority)]
            for body in bodies:
                queue.insert(0 if queue_type == "stack" else len(queue), body)

        @rule(target=held_messages, who=st.integers(0, 1))
        def claim(self, who: int) -> Any:
            message = self.channels[who].basic_get("q")
            bands = [band for band in sorted(self.ready, reverse=True) if self.ready[band]]
            if not bands:
                assert message is None
                return None
            body = self.ready[bands[0]].pop(0)
            assert message.payload == body
            assert message.headers.get("x-attempts", 0) == self.attempts.get(body, 0)
            self.held[message.delivery_tag] = (body, bands[0], False)
            return message

        @rule(message=held_messages)
        def start(self, message: Any) -> None:
            if message is not None and message.delivery_tag in self.held:
                message.channel.mark_started(message.delivery_tag)
                body, band, _ = self.held[message.delivery_tag]
                self.held[message.delivery_tag] = (body, band, True)

        @rule(message=consumes(held_messages))
        def acknowledge(self, message: Any) -> None:
            if message is not None:
                message.ack()
                message.channel.queue_stats("q")  # brings the word that it is done
                self.held.pop(message.delivery_tag, None)

        @rule(message=consumes(held_messages))
        def drop(self, message: Any) -> None:
            if message is not None:
                message.reject()
                message.channel.queue_stats("q")
                self.held.pop(message.delivery_tag, None)

        @rule(message=consumes(held_messages))
        def give_back(self, message: Any) -> None:
            if message is not None:
                message.requeue()
                if message.delivery_tag in self.held:
                    body, band, _ = self.held.pop(message.delivery_tag)
                    self.ready[band].insert(0, body)

        @rule(message=held_messages)
        def expire_and_restore(self, message: Any) -> None:
            if message is None or message.delivery_tag not in self.held:
                return
            vanish(message.channel, message.delivery_tag)
            body, band, started = self.held.pop(message.delivery_tag)
            self.ready[band].insert(0, body)
            if started:
                self.attempts[body] = self.attempts.get(body, 0) + 1

        @rule()
        def purge(self) -> None:
            assert self.channels[1].queue_purge("q") == sum(map(len, self.ready.values()))
            for queue in self.ready.values():
                queue.clear()

        @invariant()
        def counts_and_order_agree(self) -> None:
            expected = [body for band in sorted(self.ready, reverse=True) for body in self.ready[band]]
            channel = self.channels[0]
            stats = channel.queue_stats("q")
            assert (stats["ready"], stats["unacknowledged"]) == (len(expected), len(self.held))
            found = [channel.Message(raw, channel=channel).payload for raw in channel.peek("q", 100)]
            assert found == expected

        def teardown(self) -> None:
            count = sum(map(len, self.ready.values())) + len(self.held)
            for one in self.connections:
                one.release()
            with connection(url) as last:
                assert last.default_channel.queue_stats("q")["ready"] == count
            with server(url) as client:
                assert not tracks(client)

    return Machine


@pytest.mark.parametrize("queue_type", ["fifo", "priority", "stack"])
def test_queue_behaves_as_its_model(redis_url: str, queue_type: str) -> None:
    run_state_machine_as_test(
        machine(redis_url, queue_type), settings=settings(max_examples=25, stateful_step_count=25)
    )
