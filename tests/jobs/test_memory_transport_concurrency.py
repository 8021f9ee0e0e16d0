"""The memory transport with many threads, while waiting, and after a fork."""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from kombu import Connection

from tests.jobs.servers import wait_until
from tests.jobs.transports.kit import PATIENCE, Connect, connections_to

THREADS = 8
EACH = 2000


@pytest.fixture
def connect(memory_url: str) -> Iterator[Connect]:
    with connections_to(memory_url) as connect:
        yield connect


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(2 * THREADS)
    yield pool
    pool.shutdown(wait=False)  # closing the connections ends whatever still waits


def publish(channel: Any, body: str, queue: str = "q", **properties: Any) -> None:
    channel.basic_publish(channel.prepare_message(body, properties=properties), "", queue)


def listen(connection: Any, *queues: str, prefetch: int = 0) -> tuple[Any, list[Any]]:
    """Start a consumer; returns its channel and the list that its messages go to."""
    channel = connection.channel()
    received: list[Any] = []
    channel.basic_qos(0, prefetch, False)
    for queue in queues:
        channel.basic_consume(queue, no_ack=False, callback=received.append, consumer_tag=queue)
    return channel, received


def drain_in(threads: ThreadPoolExecutor, connection: Any) -> Future[Any]:
    """Let another thread wait for one event; returns once it sleeps."""
    asleep = connection.transport.link.wake_up._waiters
    done = threads.submit(connection.drain_events)  # no timeout: when it ends, it would look once more and find it
    wait_until(lambda: asleep or done.done(), "it sleeps")
    return done


# --- waking up


def test_waiting_consumer_gets_a_message_that_is_published_later(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connection = connect()
    _, received = listen(connection, "q")
    done = drain_in(threads, connection)
    assert not received
    publish(connect().channel(), "wake up")
    done.result(PATIENCE)
    assert [message.body for message in received] == [b"wake up"]


def test_each_waiting_consumer_gets_one_of_many_messages(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connections = [connect() for _ in range(4)]
    inboxes = [listen(connection, "q", "other")[1] for connection in connections]
    waiting = [drain_in(threads, connection) for connection in connections]
    channel = connect().channel()
    for number in range(4):
        publish(channel, str(number), "q" if number % 2 else "other")
    for done in waiting:
        done.result(PATIENCE)
    assert [len(inbox) for inbox in inboxes] == [1, 1, 1, 1]


def test_consumer_that_is_woken_but_takes_another_message_wakes_the_next(
    connect: Connect, threads: ThreadPoolExecutor
) -> None:
    first, second = connect(), connect()
    one, other = listen(first, "a", "b")[1], listen(second, "b")[1]
    waiting = [drain_in(threads, first), drain_in(threads, second)]
    channel = connect().channel()
    with channel.broker.lock:  # both arrive before the first, woken for b, gets to look: it takes the one in a
        publish(channel, "for b", "b")
        publish(channel, "for a", "a")
    for done in waiting:
        done.result(PATIENCE)
    assert [message.body for message in one + other] == [b"for a", b"for b"]


def test_waiting_consumer_gets_a_delayed_message_when_it_is_due(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connection = connect()
    _, received = listen(connection, "q")
    done = drain_in(threads, connection)
    channel = connect().channel()
    due = time.monotonic() + 0.1
    publish(channel, "late", delay=3600.0)
    publish(channel, "soon", delay=0.1)
    done.result(PATIENCE)
    assert time.monotonic() >= due
    assert [message.body for message in received] == [b"soon"]


def test_waiting_consumer_gets_a_message_that_another_gives_back(connect: Connect, threads: ThreadPoolExecutor) -> None:
    publish(connect().channel(), "again")
    for way in ("requeue", "release"):
        holder, connection = connect(), connect()
        message = holder.channel().basic_get("q")
        channel, received = listen(connection, "q")
        done = drain_in(threads, connection)
        if way == "requeue":
            message.requeue()
        holder.release()
        done.result(PATIENCE)
        assert received[0].body == b"again"
        channel.close()


def test_acknowledging_in_another_thread_makes_room_for_a_waiting_consumer(
    connect: Connect, threads: ThreadPoolExecutor
) -> None:
    connection = connect()
    channel, received = listen(connection, "q", prefetch=1)
    for body in "ab":
        publish(channel, body)
    connection.drain_events(timeout=PATIENCE)
    done = drain_in(threads, connection)
    received[0].ack()
    done.result(PATIENCE)
    assert [message.body for message in received] == [b"a", b"b"]


def test_message_waits_for_another_consumer_while_one_is_full(connect: Connect, threads: ThreadPoolExecutor) -> None:
    full, free = connect(), connect()
    channel, _ = listen(full, "q", prefetch=1)
    publish(channel, "first")
    full.drain_events(timeout=PATIENCE)
    stuck = drain_in(threads, full)
    _, received = listen(free, "q")
    done = drain_in(threads, free)
    publish(connect().channel(), "second")
    done.result(PATIENCE)
    assert [message.body for message in received] == [b"second"]
    assert not stuck.done()
    full.transport.close_connection(full.connection)
    with pytest.raises(full.connection_errors):
        stuck.result(PATIENCE)


def test_consumer_added_while_the_connection_waits_is_served(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connection = connect()
    channel = connection.channel()
    publish(connect().channel(), "waiting")
    done = drain_in(threads, connection)
    received: list[Any] = []
    channel.basic_consume("q", no_ack=False, callback=received.append, consumer_tag="c")
    done.result(PATIENCE)
    assert received[0].body == b"waiting"


def test_closing_a_connection_ends_the_wait_of_another_thread(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connection = connect()
    listen(connection, "q")
    done = drain_in(threads, connection)
    connection.transport.close_connection(connection.connection)
    with pytest.raises(connection.connection_errors):
        done.result(PATIENCE)


def test_waiting_costs_no_processor_time(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connection = connect()
    listen(connection, "q")
    broker = connection.transport.broker
    looks = 0
    take_turn = broker._take_turn

    def counted(link: Any) -> Any:
        nonlocal looks
        looks += 1
        return take_turn(link)

    broker._take_turn = counted
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.3)
    assert looks == 2, "once before it slept and once after"


def test_message_of_a_channel_that_is_dropped_wakes_a_waiting_consumer(
    connect: Connect, memory_url: str, threads: ThreadPoolExecutor
) -> None:
    publish(connect().channel(), "again")
    lost = Connection(connect().as_uri())
    lost.channel().basic_get("q")
    connection = connect()
    _, received = listen(connection, "q")
    done = drain_in(threads, connection)
    del lost
    gc.collect()
    done.result(PATIENCE)
    assert received[0].body == b"again"


def test_two_threads_that_wait_on_one_connection_are_both_woken(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connection = connect()
    _, received = listen(connection, "q")
    first = drain_in(threads, connection)
    second = threads.submit(connection.drain_events)
    wait_until(lambda: len(connection.transport.link.wake_up._waiters) == 2, "both sleep")
    channel = connect().channel()
    publish(channel, "a")
    wait_until(lambda: received, "one has got it")
    publish(channel, "b")
    first.result(PATIENCE)
    second.result(PATIENCE)
    assert [message.body for message in received] == [b"a", b"b"]


# --- many threads


@pytest.mark.parametrize("queue_type", ["fifo", "priority"])
def test_every_message_of_many_threads_is_received_exactly_once(
    connect: Connect, threads: ThreadPoolExecutor, queue_type: str
) -> None:
    connect().channel().queue_declare("q", arguments={"x-job-queue": queue_type})
    everything = [f"{thread}-{number}" for thread in range(THREADS) for number in range(EACH)]
    left = threading.Semaphore(len(everything))

    def produce(thread: int) -> None:
        with connect() as connection:
            channel = connection.channel()
            for number in range(EACH):
                publish(channel, f"{thread}-{number}", priority=number % 10)

    def consume(thread: int) -> list[str]:
        taken: list[str] = []
        with connect() as connection:
            _, received = listen(connection, "q", prefetch=5)
            while left.acquire(blocking=False):
                connection.drain_events()
                message = received.pop()
                taken.append(message.body.decode())
                message.ack()
        return taken

    producers = [threads.submit(produce, thread) for thread in range(THREADS)]
    consumers = [threads.submit(consume, thread) for thread in range(THREADS)]
    for producer in producers:
        producer.result(PATIENCE)
    taken = [name for consumer in consumers for name in consumer.result(PATIENCE)]
    assert sorted(taken) == sorted(everything)
    assert connect().channel().queue_stats("q") == {"ready": 0, "unacknowledged": 0, "delayed": 0, "consumers": 0}


def test_channels_of_one_connection_are_safe_for_threads(connect: Connect, threads: ThreadPoolExecutor) -> None:
    connection = connect()
    connection.connect()

    def work(thread: int) -> list[str]:
        taken = []
        for number in range(50):
            with connection.channel() as channel:
                publish(channel, f"{thread}-{number}")
                message = channel.basic_get("q")
                taken.append(message.body.decode())
                message.ack()
        return taken

    results = [threads.submit(work, thread) for thread in range(THREADS)]
    taken = [name for result in results for name in result.result(PATIENCE)]
    assert sorted(taken) == sorted(f"{thread}-{number}" for thread in range(THREADS) for number in range(50))
    with connection.channel() as channel:
        assert channel.queue_stats("q")["unacknowledged"] == 0


def test_declaring_binding_and_deleting_in_many_threads_disturbs_nobody(
    connect: Connect, threads: ThreadPoolExecutor
) -> None:
    connect().channel().exchange_declare("x", "direct")

    def work(thread: int) -> None:
        with connect() as connection:
            channel = connection.channel()
            for _ in range(100):
                queue = f"q{thread}"
                channel.queue_declare(queue)
                channel.queue_bind(queue, "x", queue)
                channel.basic_publish(channel.prepare_message("a"), "x", queue, mandatory=True)
                assert channel.basic_get(queue, no_ack=True).body == b"a"
                channel.queue_delete(queue)

    for result in [threads.submit(work, thread) for thread in range(THREADS)]:
        result.result(PATIENCE)


# --- fork


def in_child(work: Callable[[], None]) -> None:
    """Run ``work`` in a forked child and fail if it does not succeed there."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # reported below
            with suppress(OSError):
                os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as report:
        text = report.read()
    assert os.waitpid(child, 0)[1] == 0, text


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_starts_without_messages_and_the_parent_keeps_them(
    connect: Connect, threads: ThreadPoolExecutor
) -> None:
    inherited, waiting = connect(), connect()
    channel = inherited.channel()
    channel.queue_declare("q", arguments={"x-job-queue": "priority"})
    channel.exchange_declare("x", "direct")
    channel.queue_bind("q", "x", "key")
    for body in "abc":
        publish(channel, body)
    publish(channel, "d", delay=3600.0)
    held, other = channel.basic_get("q"), channel.basic_get("q")
    listen(waiting, "idle")
    done = drain_in(threads, waiting)
    stop, busy = threading.Event(), connect()

    def keep_busy() -> None:  # so that the fork may happen while another thread has the broker's lock
        mine = busy.channel()
        while not stop.is_set():
            publish(mine, "busy", "busy")
            mine.basic_get("busy").ack()

    worker = threads.submit(keep_busy)

    def child() -> None:
        assert channel.queue_type("q") == "priority"
        assert channel.queue_stats("q") == {"ready": 0, "unacknowledged": 0, "delayed": 0, "consumers": 0}
        held.ack()
        fresh = connect()
        mine = fresh.channel()
        mine.basic_publish(mine.prepare_message("mine"), "x", "key", mandatory=True)
        _, received = listen(fresh, "q")
        fresh.drain_events(timeout=PATIENCE)
        assert received[0].body == b"mine"
        inherited.release()
        assert mine.queue_stats("q")["ready"] == 0
        _, idle = listen(fresh, "idle")

        def wake() -> None:  # behind the parent's thread, which waits for this queue too, and is not here
            wait_until(lambda: fresh.transport.link.wake_up._waiters, "it sleeps")
            publish(mine, "from a thread", "idle")

        threading.Thread(target=wake, daemon=True).start()
        fresh.drain_events(timeout=PATIENCE)
        assert idle[0].body == b"from a thread"

    try:
        for _ in range(5):
            in_child(child)
    finally:
        stop.set()
    worker.result(PATIENCE)
    assert channel.queue_stats("q") == {"ready": 1, "unacknowledged": 2, "delayed": 1, "consumers": 0}
    channel.requeue(other.delivery_tag)
    channel.requeue(held.delivery_tag)
    assert channel.basic_get("q").body == b"a"
    publish(channel, "wake", "idle")
    done.result(PATIENCE)
