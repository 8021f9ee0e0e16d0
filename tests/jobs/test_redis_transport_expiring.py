"""Queues that vanish when nobody uses them do so whatever happened to their messages in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Queue

from tests.jobs.redis_channels import Connect, bodies, connection, consume, drain, get, publish, server, vanish

#: Milliseconds; longer than a test takes.
EXPIRES = 600_000


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    opened: list[Any] = []

    def new(**options: Any) -> Any:
        opened.append(connection(redis_url, **options))
        return opened[-1]

    yield new
    for one in opened:
        one.release()


def declared(source: Any) -> Any:
    channel = source.channel()
    Queue("q", routing_key="q", expires=EXPIRES / 1000, channel=channel).declare()
    for priority in (0, 9):
        publish(channel, priority, priority=priority)
    return channel


def all_vanish(channel: Any, held: list[Any]) -> None:
    for message in held:
        vanish(channel, message.delivery_tag)


ENDS: dict[str, Callable[[Any, list[Any]], object]] = {
    "reject": lambda channel, held: [message.requeue() for message in held],
    "requeue": lambda channel, held: [channel.requeue(message.delivery_tag) for message in held],
    "close": lambda channel, held: channel.close(),
    "cancel": lambda channel, held: (channel.basic_cancel(next(iter(channel._consumers), "")), channel.close()),
    "vanish": all_vanish,
}


@pytest.mark.parametrize("how", ["get", "consume"])
@pytest.mark.parametrize("end", ENDS)
def test_a_queue_that_expires_does_so_after_its_messages_were_requeued(
    connect: Connect, redis_url: str, how: str, end: str
) -> None:
    source = connect(lease=3600)
    channel = declared(source)
    held = [get(channel), get(channel)] if how == "get" else drain(source, consume(channel, prefetch=2), 2)
    with server(redis_url) as client:
        assert not client.exists("q")
        ENDS[end](channel, held)
        lists = client.keys("q*")
        assert len(lists) == 2
        assert all(0 < client.pttl(key) <= EXPIRES for key in lists)


def test_a_queue_is_forgotten_with_what_is_known_of_its_expiry(connect: Connect, redis_url: str) -> None:
    channel = declared(connect())
    held = get(channel)
    with server(redis_url) as client:
        (key,) = client.keys("mindtrace.expires:*")
        assert client.pttl(key) > EXPIRES
        channel.queue_delete("q")
        assert not client.keys("mindtrace.expires:*")
        held.requeue()
        assert not client.exists("q")


def test_replies_that_nobody_acknowledges_leave_nothing_behind(connect: Connect, redis_url: str) -> None:
    """As Celery's remote control has them: a queue of its own for each."""
    channel = declared(connect())
    assert bodies(channel) == [0, 9]
    with server(redis_url) as client:
        assert not client.keys("mindtrace.expires:*")
