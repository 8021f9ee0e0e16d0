"""What is the Redis transport's own; what it shares with others is in ``transports/test_contract.py``."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kombu import Exchange, Producer, Queue
from kombu.exceptions import BatchPublishError

from mindtrace_jobs.errors import ConfigurationError
from tests.jobs.redis_channels import (
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
from tests.jobs.servers import RedisServer, free_port, wait_until


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    """Opens connections to one empty database."""
    opened: list[Any] = []

    def new(**options: Any) -> Any:
        opened.append(connection(redis_url, **options))
        return opened[-1]

    yield new
    for one in opened:
        one.release()


@pytest.fixture
def channel(connect: Connect) -> Any:
    return connect().default_channel


# --- queue types


def test_queue_that_vanishes_by_itself_leaves_no_record(channel: Any) -> None:
    channel.queue_declare("q", auto_delete=True)
    assert channel.queue_type("q") is None


def test_publishing_as_celery_does_leaves_an_unknown_queue_plain_and_without_record(channel: Any) -> None:
    publish(channel, 1)
    assert channel.queue_type("q") == ""
    assert bodies(channel) == [1]
    assert channel.queue_type("q") is None


def test_mandatory_publish_does_not_change_a_queue_that_others_fill(channel: Any) -> None:
    publish(channel, 1)
    publish(channel, 2, mandatory=True)
    assert channel.queue_type("q") == ""


def test_plain_queue_is_polled_in_the_order_of_kombus_priority_steps(channel: Any) -> None:
    channel.queue_declare("q")
    for number in range(6):
        publish(channel, number, priority=(0, 5, 9)[number % 3])
    assert bodies(channel) == [0, 3, 1, 4, 2, 5]


def test_an_apps_own_priority_steps_are_used(connect: Connect) -> None:
    channel = connect(priority_steps=list(range(10))).default_channel
    declare(channel, "priority")
    for priority in (3, 4, 5):
        publish(channel, priority, priority=priority)
    assert bodies(channel) == [5, 4, 3]


@pytest.mark.parametrize("steps", [[3, 6], [5], []])
def test_priority_steps_that_begin_above_0_leave_no_message_without_a_step(connect: Connect, steps: list[int]) -> None:
    first, second = (connect(priority_steps=steps).default_channel for _ in "12")
    declare(first, "priority")
    for priority in (0, 9):
        publish(first, priority, priority=priority)
    first.basic_get("q")
    first.close()  # gives back what it holds
    assert bodies(second) == ([9, 0] if steps else [0, 9])


@pytest.mark.parametrize("steps", [["0", "3"], "0369", None, [0.5], [-3], [True]])
def test_priority_steps_that_are_no_numbers_are_refused(connect: Connect, steps: Any) -> None:
    with pytest.raises(ConfigurationError, match="priority_steps"):
        connect(priority_steps=steps).default_channel.queue_declare("q")


# --- taking


def test_messages_claimed_for_a_cancelled_consumer_go_back(channel: Any, connect: Connect) -> None:
    for number in range(5):
        publish(channel, number)
    source = connect()
    received = consume(source.default_channel)
    drain(source, received, 1)
    assert counts(channel) == (0, 5, 0)
    for tag in list(source.default_channel._consumers):
        source.default_channel.basic_cancel(tag)
    assert counts(channel) == (4, 1, 0)
    assert bodies(channel) == [1, 2, 3, 4]


def test_settled_messages_leave_nothing_on_the_server(channel: Any, redis_url: str) -> None:
    for number in range(3):
        publish(channel, number)
    get(channel).ack()
    get(channel).reject()
    assert bodies(channel) == [2]
    assert counts(channel) == (0, 0, 0)
    with server(redis_url) as client:
        assert not tracks(client)


def test_stray_value_on_a_queue_is_delivered_as_bytes_and_blocks_nothing(channel: Any, redis_url: str) -> None:
    with server(redis_url) as client:
        client.lpush("q", b"\xff no message", b"[1]", b'{"body": 1}')
    publish(channel, "good")
    messages = [get(channel) for _ in range(4)]
    assert [message.body for message in messages[:3]] == [b"\xff no message", b"[1]", b'{"body": 1}']
    assert messages[3].payload == "good"


# --- counting, purging, deleting


def test_bodies_that_nobody_asked_for_are_not_sent(channel: Any, redis_url: str) -> None:
    with server(redis_url) as client:
        publish(channel, "x" * 1000, headers={"quoted": '"', "id": "a"})
        client.lpush("q", b'{"body": "with \\"quotes\\"", "headers": {"id": "b"}, "properties": {}}')
        client.lpush("q", b'{"headers": {"id": "c"}, "body": "last", "properties": {}}')
        first, second, third = channel.peek("q", 3, bodies=False)
        assert (first["body"], first["headers"]["id"], first["headers"]["quoted"]) == ("", "a", '"')
        assert (second["body"], second["headers"]["id"]) == ('with "quotes"', "b")
        assert (third["body"], third["headers"]["id"]) == ("last", "c")


def test_consumers_that_vanished_long_ago_are_forgotten_when_another_one_comes(channel: Any, redis_url: str) -> None:
    with server(redis_url) as client:
        client.zadd("mindtrace.consumers", {f"dead{number}:q": number for number in range(10)})
        consume(channel)
        assert client.zcard("mindtrace.consumers") == 1


# --- exchanges


def test_fanout_of_kombu_stays_broadcast_to_those_who_listen(channel: Any, connect: Connect) -> None:
    exchange = Exchange("news", "fanout")
    sources = [connect(), connect()]
    boxes: list[list[Any]] = []
    for number, source in enumerate(sources):
        queue = Queue(f"news-{number}", exchange, auto_delete=True)(source.default_channel)
        queue.declare()
        box: list[Any] = []
        boxes.append(box)
        queue.consume(callback=box.append, no_ack=True, consumer_tag=f"c{number}")
        with pytest.raises(socket.timeout):
            source.drain_events(timeout=0.2)
    Producer(channel).publish({"n": 1}, exchange=exchange)
    for source, box in zip(sources, boxes, strict=True):
        drain(source, box, 1)
        assert box[0].payload == {"n": 1}
    assert counts(channel, "news-0") == (0, 0, 0)


# --- batches


def test_kombus_producer_publishes_in_batches(channel: Any) -> None:
    producer = Producer(channel, auto_declare=False)
    with producer.batch():
        for number in range(120):
            producer.publish(number, exchange="", routing_key="q", mandatory=True)
        producer.publish("late", exchange="", routing_key="q", delay=60)
    assert channel.queue_type("q") == "fifo"
    assert counts(channel) == (120, 0, 1)
    assert bodies(channel) == list(range(120))


def test_failing_batch_says_so_and_takes_no_more(channel: Any, redis_url: str) -> None:
    batch = channel.create_publish_batch(10)
    with server(redis_url) as client:
        client.set("q", "not a list")
    message = channel.prepare_message("x", properties={})
    batch.publish(message, exchange="", routing_key="q")
    with pytest.raises(BatchPublishError, match="WRONGTYPE"):
        batch.flush()
    with pytest.raises(BatchPublishError):
        batch.flush()


def test_scripts_that_the_server_forgot_are_sent_again(channel: Any, redis_url: str) -> None:
    producer = Producer(channel, auto_declare=False)

    def batch() -> None:
        with producer.batch():
            producer.publish(2, exchange="", routing_key="q")

    publish(channel, 1)
    batch()
    with server(redis_url) as client:
        client.script_flush()
    publish(channel, 3)
    with server(redis_url) as client:
        client.script_flush()
    batch()
    assert bodies(channel) == [1, 2, 3, 2]


# --- keys


def test_key_prefix_goes_before_every_key(connect: Connect, redis_url: str) -> None:
    prefix = 'si"te\\1\n/'
    source = connect(global_keyprefix=prefix)
    channel = source.default_channel
    declare(channel, "priority")
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("q", "x", "k")
    for number in range(4):
        publish(channel, number, priority=9)
    publish(channel, "routed", exchange="x", routing_key="k", priority=9)
    publish(channel, "late", delay=60)
    received = drain(source, consume(channel, prefetch=2), 2)
    channel.start(received[0].delivery_tag)
    with server(redis_url) as client:
        names = {name.decode() for name in client.keys("*")}
    assert names
    assert {name for name in names if not name.startswith(prefix)} == set()
    received[0].ack()
    assert counts(channel) == (3, 1, 1)
    source.release()
    stranger = connect().default_channel
    assert stranger.queue_type("q") is None


RECIPES: dict[str, Callable[[Any], Any]] = {
    "ping": lambda client: client.ping(),
    "llen": lambda client: client.llen("q"),
    "lrange": lambda client: len(client.lrange("q", 0, -1)),
    "exists": lambda client: client.exists("q", "other"),
    "info": lambda client: client.info()["redis_version"],
    "dbsize": lambda client: client.dbsize(),
    "pipeline": lambda client: client.pipeline().llen("q").llen("other").execute(),
    "execute_command": lambda client: client.execute_command("LLEN", "q"),
    "set": lambda client: (client.set("own", b"1"), client.get("own"), client.delete("own")),
    "scan": lambda client: sorted(key for key in client.scan_iter("*") if key in (b"q", b"prefix:q")),
    "lock": lambda client: client.lock("guard", timeout=5).acquire(blocking=False),
    "delete": lambda client: (client.delete("q"), client.delete("q")),
}


@pytest.mark.parametrize("prefix", ["", "prefix:"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_channels_client_answers_as_that_of_stock_kombu(redis_url: str, recipe: str, prefix: str) -> None:
    answers = []
    for stock in (True, False):
        with connection(redis_url, stock=stock, global_keyprefix=prefix) as source, server(redis_url) as other:
            channel = source.default_channel
            publish(channel, 1)
            publish(channel, 2)
            assert stock or channel.queue_declare("q", passive=True).message_count == 2
            answers.append(RECIPES[recipe](channel.client))
            other.flushdb()
    assert answers[0] == answers[1]


def test_a_channels_client_serves_other_threads_and_processes_and_goes_with_the_channel(redis_url: str) -> None:
    with connection(redis_url) as source, server(redis_url) as other:
        database = other.connection_pool.connection_kwargs["db"]
        channel = source.default_channel
        publish(channel, 1)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: channel.client.llen("q"), range(40))) == [1] * 40
        child = os.fork()
        if not child:
            try:
                os._exit(0 if channel.client.llen("q") == 1 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert channel.client.llen("q") == 1
        channel.close()
        wait_until(
            lambda: [one["db"] for one in other.client_list()].count(str(database)) <= 1, "its connections are closed"
        )


def test_cluster_is_refused_with_a_reason() -> None:
    with (
        RedisServer(arguments=["--cluster-enabled", "yes", "--cluster-port", str(free_port())]) as node,
        connection(node.url()) as source,
        pytest.raises(ConfigurationError, match="Redis Cluster"),
    ):
        source.channel()
