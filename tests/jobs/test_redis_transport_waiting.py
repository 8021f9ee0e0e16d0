"""Waiting takes nothing away, asks for nothing, wakes at once, and survives what happens to connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import redis
from kombu import Connection
from kombu.exceptions import OperationalError

from mindtrace_jobs.transports import register_aliases
from mindtrace_jobs.transports.redis import Transport
from tests.jobs.redis_channels import (
    PATIENCE,
    Connect,
    bodies,
    commands,
    connection,
    consume,
    counts,
    declare,
    drain,
    get,
    publish,
    server,
    user,
)
from tests.jobs.servers import RedisServer, TcpProxy, wait_until


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    opened: list[Any] = []

    def new(url: str = redis_url, **options: Any) -> Any:
        opened.append(connection(url, **options))
        return opened[-1]

    yield new
    for one in opened:
        one.release()


def wait_idle(source: Any) -> None:
    """Let a consumer find nothing and settle down to wait."""
    with pytest.raises(socket.timeout):
        source.drain_events(timeout=0.1)


def recovering(new: Callable[[], Any], count: int, source: Any = None) -> list[Any]:
    """Take so many messages, each once, as a user of Kombu does: when a connection is lost, with a new one."""
    deadline = time.monotonic() + PATIENCE
    errors = (*Transport.connection_errors, OperationalError)
    found: list[Any] = []
    received: list[Any] | None = None
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {found}"
        try:
            if source is None:
                source, received = new(), None
            if received is None:
                received = consume(source.default_channel, prefetch=1)
            with suppress(TimeoutError):
                source.drain_events(timeout=1)
            while received:
                message = received.pop(0)
                # Before it is acknowledged: if the connection is lost over that, it may come again, or not.
                if message.payload not in found:
                    found.append(message.payload)
                message.ack()
        except errors:
            source.release()
            source = None
    source.release()
    return found


@pytest.mark.parametrize("publisher_is_stock", [False, True])
def test_waiting_consumer_wakes_for_what_anybody_publishes_and_asks_for_nothing_meanwhile(
    connect: Connect, redis_server: RedisServer, publisher_is_stock: bool
) -> None:
    # A server of its own counts, so that nobody else's commands are in it.
    with RedisServer() as own:
        source = connect(own.url(), safety_poll=60.0)
        publisher = connect(own.url(), stock=publisher_is_stock).default_channel
        received = consume(source.default_channel)
        wait_idle(source)
        with server(own.url()) as client:
            # What a connection says at its beginning may still be coming; polling would be some hundred commands.
            before = commands(client)
            thread = threading.Timer(1.0, publish, [publisher, 1])
            thread.start()
            started = time.monotonic()
            with pytest.raises(socket.timeout):
                source.drain_events(timeout=0.8)
            assert commands(client) - before <= 30
            drain(source, received, 1)
            # Nothing but the wake-up can have been this early.
            assert time.monotonic() - started < 30
            thread.join()
        for one in (source, publisher.connection.client):
            one.release()


def test_waiting_takes_no_message_that_nobody_has_credit_for(connect: Connect) -> None:
    source = connect()
    channel = connect().default_channel
    received = consume(source.default_channel, prefetch=1)
    wait_idle(source)
    for number in range(3):
        publish(channel, number)
    drain(source, received, 1)
    wait_idle(source)
    assert counts(channel) == (2, 1, 0)


def test_many_waiting_consumers_share_what_comes(connect: Connect) -> None:
    sources = [connect() for _ in range(5)]
    boxes = [consume(source.default_channel, prefetch=1) for source in sources]
    for source in sources:
        wait_idle(source)
    channel = connect().default_channel
    for number in range(5):
        publish(channel, number)
    for source, box in zip(sources, boxes, strict=True):
        drain(source, box, 1)
    assert sorted(box[0].payload for box in boxes) == list(range(5))


def test_message_given_back_wakes_another_consumer(connect: Connect) -> None:
    publish(connect().default_channel, 1)
    holder = connect()
    message = get(holder.default_channel)
    source = connect(safety_poll=60.0)
    received = consume(source.default_channel)
    wait_idle(source)
    message.requeue()
    drain(source, received, 1)


def test_user_who_may_not_track_is_woken_by_a_short_poll(connect: Connect, caplog: Any) -> None:
    with RedisServer() as own, user(own.url(), "~*", "&*", "+@all", "-client") as url:
        source = connect(url, safety_poll=60.0)
        received = consume(source.default_channel)
        wait_idle(source)
        assert "refuses CLIENT TRACKING" in caplog.text
        publisher = connect(own.url())
        publish(publisher.default_channel, 1)
        drain(source, received, 1)
        source.release()
        publisher.release()


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_versions_of_the_protocol_work(redis_url: str, protocol: int) -> None:
    with connection(redis_url, protocol=protocol) as source:
        channel = source.default_channel
        declare(channel, "priority")
        received = consume(channel)
        wait_idle(source)
        publish(channel, 1)
        drain(source, received, 1)[0].ack()
        assert channel.queue_stats("q") == {"ready": 0, "unacknowledged": 0, "delayed": 0, "consumers": 1}


# --- what happens to connections


def test_consumer_goes_on_after_its_connections_are_killed(connect: Connect) -> None:
    with RedisServer() as own:
        publisher = connect(own.url()).default_channel
        killed = threading.Event()

        def kill() -> None:
            with server(own.url()) as client:
                for number in range(6):
                    client.client_kill_filter(_type="normal", skipme=True)
                    publish_somehow(own.url(), number)
                    wait_until(lambda: client.exists("unacked") or not client.exists("q"), "somebody took it")
            killed.set()

        thread = threading.Thread(target=kill)
        thread.start()
        assert sorted(recovering(lambda: connection(own.url(), lease=1.0), 6)) == list(range(6))
        thread.join()
        assert killed.is_set()
        publisher.connection.client.release()


def publish_somehow(url: str, body: Any) -> None:
    with connection(url) as source:
        publish(source.default_channel, body)


def test_publisher_goes_on_after_its_idle_connection_was_closed(connect: Connect) -> None:
    with RedisServer() as own:
        source = connect(own.url())
        channel = source.default_channel
        publish(channel, 1)
        with server(own.url()) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        publish(channel, 2)
        assert bodies(channel) == [1, 2]
        source.release()


def test_messages_and_types_outlive_a_restart_of_the_server_while_a_consumer_waits(
    own_redis_server: RedisServer,
) -> None:
    url = own_redis_server.url()

    source = connection(url, lease=1.0)
    consume(source.default_channel)
    declare(source.default_channel, "stack", "other")
    wait_idle(source)
    own_redis_server.kill()
    with pytest.raises((*source.connection_errors, OperationalError)):
        source.drain_events(timeout=5)
    own_redis_server.restart()
    publish_somehow(url, 1)
    source.release()
    source = connection(url, lease=1.0)
    held = drain(source, consume(source.default_channel), 1)[0]
    assert source.default_channel.queue_type("other") == "stack"
    own_redis_server.kill()
    with pytest.raises(redis.ConnectionError):
        held.ack()
    source.release()  # before the server is back, when the acknowledgement would be tried again
    own_redis_server.restart()
    assert recovering(lambda: connection(url, lease=1.0), 1) == [1]


def test_unacknowledged_message_is_still_held_after_an_acknowledgement_that_could_not_be_sent(
    connect: Connect, redis_url: str, proxy_to: Callable[[str], TcpProxy]
) -> None:
    proxy = proxy_to(redis_url)
    source = connect(proxy.url(redis_url))
    channel = source.default_channel
    publish(channel, 1)
    message = get(channel)
    proxy.refuse()
    proxy.cut()
    with pytest.raises(redis.ConnectionError):
        message.ack()
    assert not message.acknowledged
    proxy.allow()
    message.ack()
    assert counts(channel) == (0, 0, 0)


def test_message_that_could_not_be_acknowledged_is_acknowledged_later_and_keeps_no_credit(
    connect: Connect, redis_url: str, proxy_to: Callable[[str], TcpProxy]
) -> None:
    proxy = proxy_to(redis_url)
    publisher = connect().default_channel
    source = connect(proxy.url(redis_url), lease=1.0)
    channel = source.default_channel
    received = consume(channel, prefetch=1)
    for number in range(2):
        publish(publisher, number)
    message = drain(source, received, 1)[0]
    proxy.refuse()
    proxy.cut()
    with pytest.raises(redis.ConnectionError):
        message.ack()
    proxy.allow()
    # As a Celery worker, which says that it could not, and goes on.
    assert drain(source, received, 2)[1].payload == 1
    wait_until(lambda: counts(publisher) == (0, 1, 0), "it is acknowledged")
    message.ack()
    assert not channel.lost_deliveries


def test_command_goes_over_a_new_connection_if_nobody_answers_on_an_idle_one(connect: Connect) -> None:
    channel = connect(health_check_interval=0.01, socket_timeout=0.3).default_channel
    publish(channel, 1)
    # From now on the server says nothing on this connection, as if the network had forgotten it.
    channel.connections.commands.connection.send_command("CLIENT", "REPLY", "OFF")
    time.sleep(0.02)  # it lies idle
    publish(channel, 2)
    assert bodies(channel) == [1, 2]


def test_half_open_connection_is_an_error_after_the_socket_timeout(
    connect: Connect, redis_url: str, proxy_to: Callable[[str], TcpProxy]
) -> None:
    proxy = proxy_to(redis_url)
    source = connect(proxy.url(redis_url), socket_timeout=0.5, safety_poll=0.5)
    consume(source.default_channel)
    wait_idle(source)
    proxy.freeze()
    with pytest.raises(redis.TimeoutError):
        source.drain_events(timeout=PATIENCE)
    proxy.thaw()


def test_full_server_refuses_publishing_and_goes_on_to_deliver(connect: Connect) -> None:
    with RedisServer() as own, server(own.url()) as client:
        source = connect(own.url(), lease=1.0)
        channel = source.default_channel
        number = 20
        for priority in range(number):
            publish(channel, "x" * 50_000, priority=priority % 10)
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            publish(channel, "x")
        received = consume(channel, prefetch=2)
        first = drain(source, received, 1)[0]
        channel.start(first.delivery_tag)
        assert client.hlen("mindtrace.started") == 1
        assert channel.store.renew(channel.store.wire, [first.delivery_tag], ["q"]) == set()
        for done in range(number):
            drain(source, received, done + 1)
            channel.start(received[done].delivery_tag)
            if done < 2:
                received[done].requeue()
                del received[done]
                drain(source, received, done + 1)
            received[done].ack()
        assert counts(channel) == (0, 0, 0)
        assert not channel.lost_deliveries
        source.release()


class SentinelServer(RedisServer):
    """A sentinel that watches one master."""

    ready_text = "+monitor master"

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self.configuration = self.folder / "sentinel.conf"
        self.configuration.write_text(
            f"""port {self.port}
bind 127.0.0.1
dir {self.folder}
sentinel monitor jobs 127.0.0.1 {master.port} 1
sentinel down-after-milliseconds jobs 300
sentinel failover-timeout jobs 2000
"""
        )

    def _command(self) -> list[str]:
        return [str(self._program), str(self.configuration), "--sentinel"]


def test_failover_through_sentinel_is_survived() -> None:
    with (
        RedisServer(arguments=["--repl-diskless-sync-delay", "0"]) as master,
        RedisServer(arguments=["--replicaof", "127.0.0.1", str(master.port)]) as replica,
        ExitStack() as stack,
    ):
        with server(replica.url()) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica follows")
        # Last, since it asks only every ten seconds for new replicas.
        sentinel = stack.enter_context(SentinelServer(master))
        url = f"mtsentinel://127.0.0.1:{sentinel.port}/0"
        register_aliases()

        def new() -> Any:
            options = {"master_name": "jobs", "lease": 1.0, "socket_timeout": 2.0}
            return Connection(url, transport_options=options)

        source = new()
        publish(source.default_channel, 1)
        publish(source.default_channel, 2)
        drain(source, consume(source.default_channel, prefetch=1), 1)
        with server(replica.url()) as client, server(sentinel.url()) as watcher:
            wait_until(lambda: client.llen("q") == 1 and client.hlen("unacked") == 1, "the replica has everything")
            wait_until(lambda: watcher.info("sentinel")["master0"]["slaves"] == 1, "the sentinel knows the replica")
        master.kill()
        assert sorted(recovering(new, 2, source)) == [1, 2]
