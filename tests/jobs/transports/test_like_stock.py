"""What existing code sees of our transports is what it sees of Kombu's own."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kombu import Connection
from kombu.transport.memory import Channel

from tests.jobs.transports.kit import Transport, bodies, connections_to, consume, drain, get, publish


@contextmanager
def each(transport: Transport) -> Iterator[list[Any]]:
    """A connection over Kombu's own transport and one over ours, to empty brokers."""
    with connections_to(transport.url) as connect, Connection(transport.url) as stock:
        yield [stock, connect()]
        # Kombu's broker in memory is one for the whole process.
        Channel.queues.clear()


@pytest.mark.parametrize("how", ["get", "consume"])
def test_requeued_messages_come_again_in_the_order_of_kombus_own_transport(transport: Transport, how: str) -> None:
    orders = []
    with each(transport) as connections:
        for source in connections:
            channel = source.channel()
            channel.queue_declare("q")
            for number in range(6):
                publish(channel, number)
            held = [get(channel) for _ in range(3)] if how == "get" else drain(source, consume(channel, prefetch=3), 3)
            for message in held:
                message.requeue()
            channel.close()
            with source.channel() as after:
                orders.append(bodies(after))
    assert orders[0] == orders[1]


def test_a_channel_that_ends_with_messages_says_so_as_kombu_does(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[Any] = []
    with each(Transport("redis", redis_url)) as connections:
        for source in connections:
            channel = source.channel()
            channel.queue_declare("q")
            for number in range(3):
                publish(channel, number)
            drain(source, consume(channel, prefetch=2), 2)
            caplog.clear()
            with caplog.at_level(logging.INFO, "kombu"):
                channel.close()
            said.append(
                [(r.name, r.levelname, r.getMessage()) for r in caplog.records if "Restoring" in r.getMessage()]
            )
            other = source.channel()
            get(other)
            text = io.StringIO()
            other.qos.restore_unacked_once(stderr=text)
            said.append(text.getvalue())
            other.close()
            with source.channel() as after:
                bodies(after)
    assert len(said[0]) == 1
    assert said[:2] == said[2:]
