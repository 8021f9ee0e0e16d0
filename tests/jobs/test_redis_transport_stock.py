"""Stock Kombu and this transport share a server: keys, formats and rules are Kombu's own."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mindtrace_jobs.transports.redis.settling import acknowledge_all
from tests.jobs.redis_channels import (
    Child,
    Connect,
    bodies,
    connection,
    consume,
    counts,
    declare,
    drain,
    get,
    publish,
    server,
    tracks,
)
from tests.jobs.servers import wait_until


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    """Opens connections to one empty database, ours or stock ones."""
    opened: list[Any] = []

    def new(**options: Any) -> Any:
        opened.append(connection(redis_url, **options))
        return opened[-1]

    yield new
    for one in opened:
        one.release()


@pytest.mark.parametrize("prefix", ["", "site/"])
@pytest.mark.parametrize("queue_type", ["fifo", "priority", "stack", ""])
def test_what_stock_publishes_is_consumed(connect: Connect, queue_type: str, prefix: str) -> None:
    ours = connect(global_keyprefix=prefix)
    declare(ours.default_channel, queue_type)
    stock = connect(stock=True, global_keyprefix=prefix).default_channel
    for priority in (0, 3, 6, 9):
        publish(stock, priority, priority=priority)
    assert counts(ours.default_channel) == (4, 0, 0)
    received = drain(ours, consume(ours.default_channel), 4)
    order = [message.payload for message in received]
    assert order == ([9, 6, 3, 0] if queue_type == "priority" else [0, 3, 6, 9])


@pytest.mark.parametrize("prefix", ["", "site/"])
@pytest.mark.parametrize("queue_type", ["fifo", "priority", "stack", ""])
def test_what_is_published_here_is_consumed_by_stock(connect: Connect, queue_type: str, prefix: str) -> None:
    ours = connect(global_keyprefix=prefix).default_channel
    declare(ours, queue_type)
    for priority in (0, 3, 6, 9):
        publish(ours, {"priority": priority}, priority=priority, headers={"h": [1]})
    stock = connect(stock=True, global_keyprefix=prefix)
    received = drain(stock, consume(stock.default_channel), 4)
    assert sorted(message.payload["priority"] for message in received) == [0, 3, 6, 9]
    assert all(message.headers["h"] == [1] for message in received)
    for message in received:
        message.ack()
    assert counts(ours) == (0, 0, 0)


def test_bindings_are_shared_in_both_directions(connect: Connect) -> None:
    ours, stock = connect().default_channel, connect(stock=True).default_channel
    for channel, exchange in ((ours, "made-here"), (stock, "made-there")):
        channel.exchange_declare(exchange, "direct", durable=True)
        channel.queue_declare(f"q-{exchange}", durable=True)
        channel.queue_bind(f"q-{exchange}", exchange, "k")
    stock.exchange_declare("made-here", "direct", durable=True)
    publish(stock, 1, exchange="made-here", routing_key="k")
    publish(ours, 2, exchange="made-there", routing_key="k", mandatory=True)
    assert bodies(ours, "q-made-here") == [1]
    assert get(stock, "q-made-there").payload == 2


def test_stock_restores_what_a_dead_process_held_here_after_its_visibility_timeout(
    connect: Connect, redis_url: str
) -> None:
    publish(connect().default_channel, {"big": 2**70, "empty": []}, priority=9)
    program = """
    from tests.jobs.redis_channels import connection, get
    source = connection(sys.argv[1], lease=600)
    report(get(source.default_channel).payload["empty"])
    time.sleep(600)
    """
    with Child(program, redis_url) as child:
        assert child.line() == []
        child.signal(signal.SIGKILL)
    stock = connect(stock=True, visibility_timeout=0.5)
    # What a timer of Kombu's does in a worker.
    stock_channel = stock.default_channel
    wait_until(lambda: stock_channel.qos.restore_visible(interval=1) or stock_channel._size("q"), "stock restores it")
    received = consume(stock_channel)
    drain(stock, received, 1)
    assert received[0].payload == {"big": 2**70, "empty": []}
    received[0].ack()
    with server(redis_url) as client:
        assert not {"unacked", "unacked_index"} & tracks(client)
        assert client.zcard("mindtrace.leases") == 1
        # What is left of the lease goes away with it.
        client.zadd("mindtrace.leases", {client.zrange("mindtrace.leases", 0, 0)[0]: 1})
        channel = connect().default_channel
        assert channel.store.restore_expired(channel.store.wire) == 0
        assert not tracks(client)


def test_stock_does_not_restore_what_a_living_process_holds_here(connect: Connect) -> None:
    publish(connect().default_channel, 1)
    holder = connect(lease=600, visibility_timeout=0.9)
    message = drain(holder, consume(holder.default_channel), 1)[0]
    stock = connect(stock=True, visibility_timeout=1, unacked_restore_throttle=1)
    received = consume(stock.default_channel)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        with pytest.raises(socket.timeout):
            stock.drain_events(timeout=0.3)
    assert received == []
    message.ack()
    assert not holder.default_channel.lost_deliveries


def test_holder_learns_that_stock_restored_what_it_holds(connect: Connect) -> None:
    publish(connect().default_channel, 1)
    holder = connect(lease=600).default_channel
    message = get(holder)
    # As a stock process does whose clock is fast, or that was told of a short visibility timeout.
    connect(stock=True).default_channel.qos.restore_by_tag(message.delivery_tag)
    holder.deliveries.renew(holder.store.wire)
    assert not holder.holds(message.delivery_tag)
    assert message.delivery_tag in holder.lost_deliveries


def test_what_stock_holds_is_left_alone_until_its_visibility_timeout(connect: Connect) -> None:
    ours = connect(lease=0.3, visibility_timeout=3600)
    stock = connect(stock=True)
    publish(stock.default_channel, 1)
    held = get(stock.default_channel)
    received = consume(ours.default_channel)
    with pytest.raises(socket.timeout):
        ours.drain_events(timeout=1.5)
    assert received == []
    held.ack()
    assert counts(ours.default_channel) == (0, 0, 0)


def test_what_stock_left_behind_is_restored_after_its_visibility_timeout(connect: Connect, redis_url: str) -> None:
    stock = connect(stock=True)
    publish(stock.default_channel, 1)
    message = get(stock.default_channel)
    with server(redis_url) as client:
        client.zadd("unacked_index", {message.delivery_tag: time.time() - 100})
    ours = connect(visibility_timeout=50)
    received = consume(ours.default_channel)
    drain(ours, received, 1)
    assert received[0].headers["redelivered"] is True
    received[0].ack()
    with server(redis_url) as client:
        wait_until(lambda: not tracks(client), "the acknowledgement is done")


def test_consumer_whose_clock_is_fast_leaves_what_is_under_a_lease(connect: Connect, redis_url: str) -> None:
    channel = connect(lease=60).default_channel
    publish(channel, 1)
    # Without a thread that renews it in between.
    held = channel.store.claim([("q", False)], 1, 1).deliveries[0]
    with server(redis_url) as client:
        # To a clock that is an hour fast, what was taken just now looks like this.
        client.zadd("unacked_index", {held.tag: time.time() - 3600})
    ours = connect(visibility_timeout=50)
    received = consume(ours.default_channel)
    with pytest.raises(socket.timeout):
        ours.drain_events(timeout=0.3)
    assert received == []
    assert acknowledge_all(channel.store, [held.tag]) == set()


def test_going_back_to_stock_loses_nothing(connect: Connect, redis_url: str) -> None:
    source = connect(lease=60)
    channel = source.default_channel
    for number in range(6):
        publish(channel, number, mandatory=True)
    drain(source, consume(channel, prefetch=3), 3)
    source.release()
    stock = connect(stock=True)
    received = drain(stock, consume(stock.default_channel), 6)
    assert [message.payload for message in received] == list(range(6))
