"""What is sent without waiting for the server's word is done, whatever happens to scripts and connections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mindtrace_jobs import BrokerUnavailableError, Consumer, Job, Orchestrator
from mindtrace_jobs.testing.models import ImageSchema, image_job
from tests.jobs.redis_channels import PATIENCE, connection, consume, drain, publish, server, tracks
from tests.jobs.servers import RedisServer, TcpProxy, wait_until


@pytest.fixture
def own_url() -> Iterator[str]:
    """A server without persistence: what is done to its connections and scripts harms nobody else."""
    with RedisServer() as own:
        yield own.url()


def test_jobs_are_acknowledged_though_the_server_forgot_the_scripts(own_url: str) -> None:
    ran: list[str] = []
    with Orchestrator.from_url(own_url) as orchestrator, server(own_url) as client:

        def handle(job: Job[ImageSchema]) -> None:
            ran.append(job.id)
            if len(ran) % 3 == 0:
                client.script_flush()

        orchestrator.publish_many("q", [image_job() for _ in range(10)])
        consumer = Consumer(orchestrator, "q", handle, schema=ImageSchema)
        assert consumer.consume(10, timeout=PATIENCE) == 10
        assert not tracks(client)


def test_last_acknowledgement_before_a_lull_is_done_though_the_server_forgot_the_script(own_url: str) -> None:
    with connection(own_url, safety_poll=0.05) as source, server(own_url) as client:
        channel = source.default_channel
        received = consume(channel, prefetch=1)
        for number in range(2):
            client.script_flush()
            publish(channel, number)
            drain(source, received, number + 1)
            channel.ack_nowait(received[number].delivery_tag)

        def done() -> bool:
            with pytest.raises(TimeoutError):
                source.drain_events(timeout=0.1)
            return not tracks(client)

        # No command is sent any more but what waiting needs.
        wait_until(done, "the last one is acknowledged")


def test_acknowledgement_goes_over_a_new_connection_if_the_old_one_was_closed_meanwhile(own_url: str) -> None:
    with connection(own_url) as source, server(own_url) as client:
        channel = source.default_channel
        publish(channel, 1)
        message = drain(source, consume(channel), 1)[0]
        channel.start(message.delivery_tag)
        wait_until(lambda: client.hlen("mindtrace.started"), "the mark is there")
        client.client_kill_filter(_type="normal", skipme=True)
        channel.ack_nowait(message.delivery_tag)
        channel.connections.commands.call("PING")
        wait_until(lambda: not tracks(client), "it is acknowledged")


def test_acknowledgement_whose_refusal_nobody_read_is_sent_again(own_url: str) -> None:
    with connection(own_url, lease=1.0) as source, server(own_url) as client:
        channel = source.default_channel
        publish(channel, 1)
        message = drain(source, consume(channel), 1)[0]
        client.config_set("min-replicas-to-write", 1)
        channel.ack_nowait(message.delivery_tag)
        channel.connections.commands.connection.disconnect()
        client.config_set("min-replicas-to-write", 0)
        channel.connections.commands.call("PING")
        wait_until(lambda: not tracks(client), "it is acknowledged")
        assert channel.queue_stats("q")["ready"] == 0


def test_job_during_which_all_connections_are_cut_is_acknowledged_and_runs_once(
    own_url: str, proxy_to: Callable[[str], TcpProxy]
) -> None:
    proxy = proxy_to(own_url)
    ran: list[Any] = []
    with (
        Orchestrator.from_url(proxy.url(own_url), client_options={"lease": 600}) as orchestrator,
        server(own_url) as client,
    ):

        def handle(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)
            if len(ran) == 1:
                proxy.cut()

        orchestrator.publish_many("q", [image_job("cut"), image_job("next")])
        consumer = Consumer(orchestrator, "q", handle, schema=ImageSchema)
        assert consumer.consume(2, timeout=PATIENCE) == 2
        assert ran == ["cut", "next"]
        assert not tracks(client)


def left(orchestrator: Orchestrator) -> tuple[int, int | None, int | None]:
    """How many jobs are ready, unacknowledged and delayed."""
    info = orchestrator.queue_info("q")
    return info.ready, info.unacknowledged, info.delayed


@pytest.mark.parametrize("outcome", ["returns", "raises"])
def test_consumer_goes_on_after_a_job_that_could_not_be_settled(
    own_url: str, proxy_to: Callable[[str], TcpProxy], caplog: pytest.LogCaptureFixture, outcome: str
) -> None:
    # given: a consumer of one job at a time, whose server can't be reached when the job ends
    proxy = proxy_to(own_url)
    runs: list[str] = []
    with Orchestrator.from_url(proxy.url(own_url), client_options={"lease": 1.0}) as orchestrator:

        def handle(job: Job[ImageSchema]) -> None:
            runs.append(job.payload.input.url)
            if len(runs) == 1:
                proxy.refuse()
                proxy.cut()
                if outcome == "raises":
                    raise ValueError(outcome)

        orchestrator.publish_message("q", image_job("a"))
        consumer = Consumer(orchestrator, "q", handle, schema=ImageSchema)
        thread = threading.Thread(target=consumer.run_forever)
        thread.start()
        wait_until(lambda: "trying again" in caplog.text, "the consumer has noticed")

        # when: it can be reached again
        proxy.allow()

        # then: what is done is acknowledged; nobody renews the lease of what is not, and the consumer takes it again
        orchestrator.publish_message("q", image_job("b"))
        expected = ["a", "b"] if outcome == "returns" else ["a", "a", "b"]
        wait_until(lambda: sorted(runs) == expected, "the jobs run")
        # Nothing is left anywhere that could run again.
        wait_until(lambda: left(orchestrator) == (0, 0, 0), "they are acknowledged")
        assert sorted(runs) == expected
        consumer.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_job_received_by_itself_that_could_not_be_acknowledged_is_not_renewed_for_ever(
    own_url: str, proxy_to: Callable[[str], TcpProxy]
) -> None:
    proxy = proxy_to(own_url)
    with (
        Orchestrator.from_url(proxy.url(own_url), client_options={"lease": 3.0}) as orchestrator,
        Orchestrator.from_url(own_url, client_options={"lease": 3.0}) as other,
    ):
        orchestrator.publish_message("q", image_job("a"))
        delivery = orchestrator.client.get("q")
        assert delivery is not None
        proxy.refuse()
        proxy.cut()
        with pytest.raises(BrokerUnavailableError):
            delivery.acknowledge()
        proxy.allow()
        wait_until(lambda: other.receive_message("q") is not None, "it is back")
