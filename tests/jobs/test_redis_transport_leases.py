"""A living holder keeps what it took; what a dead one took is back within the lease."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mindtrace_jobs.transports.redis.leases import keeper
from mindtrace_jobs.transports.redis.settling import acknowledge_all
from mindtrace_jobs.transports.redis.wire import Wire
from tests.jobs.redis_channels import (
    PATIENCE,
    Child,
    Connect,
    bodies,
    connection,
    consume,
    counts,
    drain,
    get,
    let_expire,
    publish,
    server,
    tracks,
    vanish,
)
from tests.jobs.servers import wait_until

LEASE = 1.0

#: A consumer that reports what it receives and does as its third argument says.
CONSUMER = """
from tests.jobs.redis_channels import connection, consume
url, lease, what = sys.argv[1:]
source = connection(url, lease=float(lease))
channel = source.default_channel
received = consume(channel, prefetch=20)
done = 0
while True:
    source.drain_events()
    message = received[done]
    done += 1
    if what != "hold":
        channel.start(message.delivery_tag)
    report(message.payload)
    if what == "work":
        message.ack()
    elif what == "late":
        sys.stdin.readline()
        message.ack()
        report(sorted(channel.lost_deliveries))
"""


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    """Opens connections to one empty database, with a lease of a second."""
    opened: list[Any] = []

    def new(**options: Any) -> Any:
        opened.append(connection(redis_url, **{"lease": LEASE, **options}))
        return opened[-1]

    yield new
    for one in opened:
        one.release()


def received_within(source: Any, received: list[Any], count: int) -> list[Any]:
    return [message.payload for message in drain(source, received, count)]


def test_messages_of_a_killed_consumer_are_back_in_order_at_the_front(connect: Connect, redis_url: str) -> None:
    channel = connect().default_channel
    for number in range(5):
        publish(channel, number)
    with Child(CONSUMER, redis_url, str(LEASE), "start") as child:
        assert child.line() == 0
        wait_until(lambda: counts(channel)[1] == 5, "all are held")
        child.signal(signal.SIGSTOP)  # it would take the next one, too
        publish(channel, "behind")
        child.signal(signal.SIGKILL)
    source = connect()
    received = consume(source.default_channel)
    assert received_within(source, received, 6)[0] == "behind"
    restored = received[1:]
    assert [message.payload for message in restored] == [0, 1, 2, 3, 4]
    assert all(message.headers["redelivered"] and message.headers["x-delivery-count"] == 1 for message in restored)
    for message in received:
        message.ack()
    with server(redis_url) as client:
        # It may have been killed in the moment in which it held Kombu's lock, which lasts for minutes.
        wait_until(lambda: not tracks(client), "the acknowledgements are done")


def test_only_what_was_started_counts_as_an_attempt_when_its_holder_dies(connect: Connect, redis_url: str) -> None:
    channel = connect().default_channel
    for number in range(3):
        publish(channel, number)
    with Child(CONSUMER, redis_url, str(LEASE), "start") as child:
        assert [child.line(), child.line(), child.line()] == [0, 1, 2]
        with server(redis_url) as client:
            wait_until(lambda: client.hlen("mindtrace.started") == 3, "the marks are there")
            marks = client.hkeys("mindtrace.started")
            # As if the third had not been begun.
            client.hdel("mindtrace.started", max(marks))
        child.signal(signal.SIGKILL)
    source = connect()
    received = consume(source.default_channel)
    drain(source, received, 3)
    assert [message.headers.get("x-attempts") for message in received] == [1, 1, None]


def test_get_finds_what_a_dead_process_held_without_any_consumer(connect: Connect, redis_url: str) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    with Child(CONSUMER, redis_url, str(LEASE), "hold") as child:
        assert child.line() == 1
        child.signal(signal.SIGKILL)
    taker = connect().default_channel
    found: list[Any] = []

    def take() -> bool:
        message = taker.basic_get("q")
        if message is not None:
            found.append(message.payload)
        return bool(found)

    wait_until(take, "it is back")
    assert found == [1]


def test_living_holder_keeps_what_it_took_while_its_main_thread_is_busy(connect: Connect) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    holder, waiting = connect(), connect()
    mine = drain(holder, consume(holder.default_channel), 1)
    others = consume(waiting.default_channel)
    end = time.monotonic() + 3.5 * LEASE
    waiter = threading.Thread(target=_drain_until, args=(waiting, end))
    waiter.start()
    time.sleep(3.5 * LEASE)  # the work: it blocks this thread, as a job does
    waiter.join()
    assert others == []
    mine[0].ack()
    assert counts(holder.default_channel) == (0, 0, 0)
    assert not holder.default_channel.lost_deliveries


def _drain_until(source: Any, end: float) -> None:
    while (left := end - time.monotonic()) > 0:
        try:
            source.drain_events(timeout=left)
        except TimeoutError:
            return


def test_paused_holder_loses_its_message_and_does_not_acknowledge_anothers(connect: Connect, redis_url: str) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    program = CONSUMER.replace("sys.stdin.readline()", "input()")
    with Child(program, redis_url, str(LEASE), "pause") as child:
        assert child.line() == 1
        child.signal(signal.SIGSTOP)
        source = connect()
        received = consume(source.default_channel)
        drain(source, received, 1)
        assert received[0].headers["x-attempts"] == 1
        child.signal(signal.SIGCONT)
        assert counts(channel) == (0, 1, 0)
        received[0].ack()


def test_late_acknowledgement_is_reported_and_touches_nothing(connect: Connect, caplog: Any) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    holder = connect().default_channel
    message = get(holder)
    vanish(holder, message.delivery_tag)
    source = connect()
    received = drain(source, consume(source.default_channel), 1)
    message.ack()
    # The holder's next command brings the word.
    assert counts(holder) == (0, 1, 0)
    assert message.delivery_tag in holder.lost_deliveries
    assert "expired" in caplog.text
    received[0].ack()
    assert counts(source.default_channel) == (0, 0, 0)


def test_late_reject_does_not_double_the_message(connect: Connect) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    holder = connect().default_channel
    message = get(holder)
    held = holder.deliveries.held[message.delivery_tag]
    vanish(holder, message.delivery_tag)
    source = connect()
    drain(source, consume(source.default_channel), 1)
    message.requeue()
    assert counts(channel) == (0, 1, 0)
    # Also where the holder has not learnt of it yet.
    assert holder.store.requeue([held], vanished=False) == {message.delivery_tag}
    assert acknowledge_all(holder.store, [message.delivery_tag]) == {message.delivery_tag}
    assert counts(channel) == (0, 1, 0)


def test_holder_learns_that_it_lost_a_message_while_it_works_on_it(connect: Connect) -> None:
    publish(connect().default_channel, 1)
    holder = connect().default_channel
    message = get(holder)
    vanish(holder, message.delivery_tag)
    keeper.add(holder.deliveries)
    wait_until(lambda: message.delivery_tag in holder.lost_deliveries, "it is told")


def test_holder_that_comes_back_before_the_restore_keeps_its_message(connect: Connect) -> None:
    channel = connect(lease=60).default_channel
    publish(channel, 1)
    message = get(channel)
    store = channel.store

    def expired() -> bool:
        let_expire(channel, message.delivery_tag)
        return bool(store.wire.script(store.scripts["expired"], args=[10, 1]))

    wait_until(expired, "somebody else found it expired")
    assert not store.renew(store.wire, [message.delivery_tag], [])
    store.wire.script(store.scripts["requeue"], args=["1", message.delivery_tag, "q", "{}"])
    assert counts(channel) == (0, 1, 0)
    message.ack()


def test_renewal_and_acknowledgement_at_once_are_not_taken_for_a_loss(connect: Connect) -> None:
    source = connect(lease=60)
    channel = source.default_channel
    for number in range(500):
        publish(channel, number)
    stop = threading.Event()

    def renew() -> None:
        wire = Wire(channel.connections.connector())
        while not stop.is_set():
            channel.deliveries.renew(wire)
        wire.close()

    thread = threading.Thread(target=renew)
    thread.start()
    received = consume(channel)
    for number in range(500):
        drain(source, received, number + 1)
        received[number].ack()
    stop.set()
    thread.join()
    assert not channel.lost_deliveries


def test_deleted_queue_does_not_come_back_when_the_holders_lease_ends(connect: Connect, redis_url: str) -> None:
    channel = connect().default_channel
    publish(channel, 1, mandatory=True)
    with Child(CONSUMER, redis_url, str(LEASE), "hold") as child:
        assert child.line() == 1
        channel.queue_delete("q")
        child.signal(signal.SIGKILL)
    with server(redis_url) as client:
        assert not tracks(client)
    assert channel.queue_type("q") is None


def test_killing_consumers_at_any_instant_loses_nothing(connect: Connect, redis_url: str) -> None:
    channel = connect().default_channel
    total, seen = 600, set()
    for number in range(total):
        publish(channel, number)
    for _ in range(10):
        with Child(CONSUMER, redis_url, str(LEASE), "work") as child:
            for _ in range(25):
                seen.add(child.line())
            child.signal(signal.SIGKILL)
            child.process.wait(PATIENCE)
            assert child.process.stdout is not None
            seen.update(int(line) for line in child.process.stdout.read().split("\n")[:-1])
    source = connect()
    received = consume(source.default_channel)
    done = 0
    while len(seen) < total or counts(channel) != (0, 0, 0):
        drain(source, received, done + 1)
        seen.add(received[done].payload)
        received[done].ack()
        done += 1
    assert seen == set(range(total))
    with server(redis_url) as client:
        assert not tracks(client)


def test_forked_child_leaves_the_parents_messages_and_connections_alone(connect: Connect, redis_url: str) -> None:
    source = connect(lease=60)
    channel = source.default_channel
    for number in range(3):
        publish(channel, number)
    received = drain(source, consume(channel, prefetch=2), 2)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            publish(channel, "child")
            source.release()
            with connection(redis_url) as own:
                taken = get(own.default_channel)
                taken.ack()
            os.write(writer, str(taken.payload).encode())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "2"
    assert status == 0
    assert counts(channel) == (1, 2, 0)
    for message in received:
        message.ack()
    assert drain(source, received, 3)[2].payload == "child"


def test_lease_keeper_ends_with_its_last_channel_and_closes_its_connection(redis_url: str) -> None:
    with server(redis_url) as client:

        def mine() -> int:
            database = redis_url.rpartition("/")[2]
            return sum(one["db"] == database for one in client.client_list())

        before = mine()
        with connection(redis_url, lease=LEASE) as source:
            publish(source.default_channel, 1)
            message = get(source.default_channel)
            wait_until(lambda: mine() >= before + 2, "the keeper has a connection")
            message.ack()
        wait_until(lambda: mine() == before, "every connection is closed")


def test_closed_channels_messages_are_not_renewed(connect: Connect) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    holder = connect()
    get(holder.default_channel)
    holder.release()
    assert bodies(channel) == [1]
