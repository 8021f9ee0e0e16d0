"""What can share a round trip does, and what was put off for it is done whatever happens meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu.asynchronous import Hub

from mindtrace_jobs import Consumer, Job, Orchestrator
from mindtrace_jobs.testing.models import ImageSchema, image_job
from tests.jobs.redis_channels import PATIENCE, connection, consume, counts, drain, publish, server, tracks
from tests.jobs.servers import RedisServer, wait_until


@pytest.fixture
def own_url() -> Iterator[str]:
    """A server whose statistics are this test's alone, and to which it may do anything."""
    with RedisServer() as own:
        yield own.url()


def held(client: Any) -> int:
    """How many deliveries the server knows of."""
    return int(client.hlen("unacked"))


def reads(client: Any) -> int:
    """How often the server has read from a connection."""
    return int(client.info("stats")["total_reads_processed"])


def one_done_of_two(source: Any) -> list[Any]:
    """Consume one message at a time, and acknowledge the first of two; the claim of the second is next."""
    channel = source.default_channel
    received = consume(channel, prefetch=1)
    for number in range(2):
        publish(channel, number)
    drain(source, received, 1)
    channel.ack_nowait(received[0].delivery_tag)
    return received


def test_a_consumer_of_one_job_at_a_time_ends_each_and_claims_the_next_in_one_step(own_url: str) -> None:
    jobs = 200
    with Orchestrator.from_url(own_url) as orchestrator, server(own_url) as client:
        orchestrator.publish_many("q", [image_job() for _ in range(jobs)])
        before = reads(client)
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", lambda _: None, schema=ImageSchema)
        assert consumer.consume(jobs, timeout=PATIENCE) == jobs
        # Its start is one read, its end and the next claim another. Connecting and renewing takes a few.
        assert reads(client) - before < 2 * jobs + 50
        assert not tracks(client)


def test_an_acknowledgement_waits_for_a_claim_only_where_that_comes_next(own_url: str) -> None:
    with connection(own_url) as source, server(own_url) as client:
        channel = source.default_channel
        received = one_done_of_two(source)
        assert held(client) == 1
        drain(source, received, 2)
        assert held(client) == 1

        # More than there is was claimed, so the channel waits to be woken, and nothing would take this one along.
        channel.basic_qos(0, 5, False)
        with pytest.raises(socket.timeout):
            source.drain_events(timeout=0.1)
        channel.ack_nowait(received[1].delivery_tag)
        wait_until(lambda: not tracks(client), "it is acknowledged")


@pytest.mark.parametrize("verb", ["queue_stats", "queue_type", "basic_get", "flush", "close"])
def test_any_command_of_the_channel_takes_along_what_was_put_off(own_url: str, verb: str) -> None:
    with connection(own_url) as source, server(own_url) as client:
        channel = source.default_channel
        publish(channel, 1)
        received = drain(source, consume(channel, prefetch=1), 1)
        channel.ack_nowait(received[0].delivery_tag)
        assert held(client) == 1
        getattr(channel, verb)(*(["q"] if verb not in ("flush", "close") else []))
        wait_until(lambda: not tracks(client), "it is acknowledged")


def test_an_acknowledgement_that_went_with_a_claim_that_was_refused_is_told_again(own_url: str) -> None:
    # By the next start: leases are renewed, and it is told then, only in minutes.
    with connection(own_url, lease=600.0, safety_poll=0.1) as source, server(own_url) as client:
        channel = source.default_channel
        received = one_done_of_two(source)
        client.config_set("min-replicas-to-write", 1)
        with pytest.raises(socket.timeout):
            source.drain_events(timeout=0.1)
        assert held(client) == 1
        client.config_set("min-replicas-to-write", 0)
        drain(source, received, 2)
        assert held(client) == 2
        channel.start(received[1].delivery_tag)
        assert held(client) == 1
        channel.acknowledge(received[1].delivery_tag)
        assert not tracks(client)
        assert [message.payload for message in received] == [0, 1]
        assert counts(channel) == (0, 0, 0)


def test_a_job_whose_end_went_with_a_claim_over_a_lost_connection_runs_once(own_url: str) -> None:
    ran: list[str] = []
    with Orchestrator.from_url(own_url) as orchestrator, server(own_url) as client:

        def handle(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)
            client.client_kill_filter(_type="normal", skipme=True)

        orchestrator.publish_many("q", [image_job(name) for name in "abc"])
        consumer = Consumer(orchestrator, "q", handle, schema=ImageSchema)
        assert consumer.consume(3, timeout=PATIENCE) == 3
        assert ran == ["a", "b", "c"]
        wait_until(lambda: not tracks(client), "they are acknowledged")


@pytest.mark.parametrize("forgotten", ["before", "between"])
def test_an_acknowledgement_and_the_claim_behind_it_are_done_though_the_scripts_are_forgotten(
    own_url: str, forgotten: str
) -> None:
    with connection(own_url) as source, server(own_url) as client:
        channel = source.default_channel
        received = consume(channel, prefetch=1)
        for number in range(3):
            publish(channel, number)
        for number in range(3):
            drain(source, received, number + 1)
            if forgotten == "before" or number:
                client.script_flush()
            channel.ack_nowait(received[number].delivery_tag)
        with pytest.raises(socket.timeout):
            source.drain_events(timeout=0.1)
        assert [message.payload for message in received] == [0, 1, 2]
        assert not tracks(client)


def test_an_event_loop_sends_what_was_put_off_at_its_next_turn(own_url: str) -> None:
    hub = Hub()
    with connection(own_url) as source, server(own_url) as client:
        channel = source.default_channel
        for number in range(4):
            publish(channel, number)
        received = consume(channel, prefetch=8)
        source.transport.register_with_event_loop(source.connection, hub)
        loop = hub.create_loop()

        def turn() -> None:
            hub.call_soon(hub.timer.call_after, 0, lambda: None)  # the loop does not wait for events
            next(loop)

        while len(received) < 4:
            turn()
        channel.puts_off = True
        for message in received[:2]:
            channel.start(message.delivery_tag)
            channel.ack_nowait(message.delivery_tag)
        channel.start(received[2].delivery_tag)
        received[3].ack()
        channel.puts_off = False
        assert (held(client), client.hlen("mindtrace.started")) == (4, 0)
        turn()
        assert (held(client), client.hlen("mindtrace.started")) == (1, 1)

        # Where it is not put off, it is sent.
        channel.start(received[2].delivery_tag)
        received[2].ack()
        wait_until(lambda: not tracks(client), "it is acknowledged")
    hub.close()


def test_a_consumer_that_holds_more_than_it_runs_claims_several_at_a_time(own_url: str) -> None:
    with connection(own_url) as source:
        channel = source.default_channel
        channel.least_claim = 3
        for number in range(12):
            publish(channel, number)
        received = drain(source, consume(channel, prefetch=8), 8)
        for message in received[:2]:
            message.ack()
            with pytest.raises(socket.timeout):
                source.drain_events(timeout=0.05)
        received[2].ack()
        drain(source, received, 11)
        assert counts(channel) == (1, 8, 0)


def test_an_acknowledgement_that_is_too_few_for_a_claim_is_sent_before_the_consumer_waits(own_url: str) -> None:
    with connection(own_url) as source, server(own_url) as client:
        channel = source.default_channel
        channel.least_claim = 3
        for number in range(12):
            publish(channel, number)
        received = drain(source, consume(channel, prefetch=8), 8)
        channel.ack_nowait(received[0].delivery_tag)
        with pytest.raises(socket.timeout):
            source.drain_events(timeout=0.05)
        assert held(client) == 7


def test_what_was_put_off_is_sent_when_a_channel_is_closed_that_requeues_nothing(own_url: str) -> None:
    with connection(own_url) as source, server(own_url) as client:
        channel = source.default_channel
        channel.do_restore = False
        publish(channel, 1)
        received = drain(source, consume(channel, prefetch=1), 1)
        channel.puts_off = True
        channel.ack_nowait(received[0].delivery_tag)
        channel.consumers.forget()  # nobody has to be counted no longer
        assert held(client) == 1
        channel.close()
        wait_until(lambda: not tracks(client), "it is acknowledged")


def test_a_consumer_whose_prefetch_count_was_lowered_goes_on(own_url: str) -> None:
    with connection(own_url) as source:
        channel = source.default_channel
        channel.least_claim = 3
        received = consume(channel, prefetch=2)
        for number in range(6):
            publish(channel, number)
        for number in range(6):
            drain(source, received, number + 1)
            received[number].ack()
        with suppress(TimeoutError):
            source.drain_events(timeout=0.05)
        assert [message.payload for message in received] == list(range(6))
