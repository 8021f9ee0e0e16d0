"""The Redis transport keeps the contract of the transports."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Exchange, Producer, Queue
from kombu.exceptions import BatchPublishError, ChannelError

from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.transports.protocol import JobsChannel
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


def test_channel_offers_what_the_protocol_names(channel: Any) -> None:
    assert isinstance(channel, JobsChannel)


# --- queue types


def test_first_declaration_of_a_queue_decides_its_type(channel: Any, connect: Connect) -> None:
    declare(channel, "stack")
    declare(connect().default_channel, "priority")
    channel.queue_declare("q")
    assert connect().default_channel.queue_type("q") == "stack"


def test_queue_declared_without_a_type_is_plain(channel: Any) -> None:
    channel.queue_declare("q")
    assert channel.queue_type("q") == ""


def test_unknown_type_is_refused(channel: Any) -> None:
    with pytest.raises(ChannelError, match="PRECONDITION_FAILED"):
        declare(channel, "heap")


def test_queue_that_vanishes_by_itself_leaves_no_record(channel: Any) -> None:
    channel.queue_declare("q", auto_delete=True)
    assert channel.queue_type("q") is None


def test_unknown_queue_has_no_type_and_is_not_found(channel: Any) -> None:
    assert channel.queue_type("q") is None
    with pytest.raises(ChannelError, match="no queue 'q'"):
        channel.queue_declare("q", passive=True)


def test_publishing_with_mandatory_declares_an_unknown_queue_as_fifo(channel: Any) -> None:
    publish(channel, 1, mandatory=True)
    assert channel.queue_type("q") == "fifo"


def test_publishing_as_celery_does_leaves_an_unknown_queue_plain_and_without_record(channel: Any) -> None:
    publish(channel, 1)
    assert channel.queue_type("q") == ""
    assert bodies(channel) == [1]
    assert channel.queue_type("q") is None


def test_mandatory_publish_does_not_change_a_queue_that_others_fill(channel: Any) -> None:
    publish(channel, 1)
    publish(channel, 2, mandatory=True)
    assert channel.queue_type("q") == ""


@pytest.mark.parametrize(
    ("queue_type", "order"),
    [("fifo", [0, 1, 2, 3, 4, 5]), ("priority", [2, 5, 1, 4, 0, 3]), ("stack", [5, 4, 3, 2, 1, 0])],
)
@pytest.mark.parametrize("how", ["get", "consume", "peek"])
def test_queue_hands_over_in_the_order_of_its_type(
    channel: Any, connect: Connect, queue_type: str, order: list[int], how: str
) -> None:
    declare(channel, queue_type)
    for number in range(6):
        publish(channel, number, priority=(0, 5, 9)[number % 3])
    if how == "get":
        assert bodies(channel) == order
    elif how == "peek":
        found = [channel.Message(raw, channel=channel).payload for raw in channel.peek("q", 10)]
        assert found == order
        assert [channel.Message(raw, channel=channel).payload for raw in channel.peek("q", 3)] == order[:3]
        assert counts(channel) == (6, 0, 0)
    else:
        source = connect()
        received = consume(source.default_channel)
        assert [message.payload for message in drain(source, received, 6)] == order


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


# --- delay


def test_delayed_message_is_held_back_until_it_is_due_and_wakes_a_consumer(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    publish(channel, "late", delay=0.4)
    publish(channel, "now")
    assert counts(channel) == (1, 0, 1)
    assert [channel.Message(raw, channel=channel).payload for raw in channel.peek("q", 10)] == ["now"]
    source = connect()
    received = consume(source.default_channel)
    drain(source, received, 1)
    assert [message.payload for message in received] == ["now"]
    assert counts(channel) == (0, 1, 1)
    drain(source, received, 2)
    assert received[1].payload == "late"
    assert "delay" not in received[1].properties
    received[1].requeue()
    assert [message.payload for message in drain(source, received, 3)] == ["now", "late", "late"]


def test_message_delayed_for_less_comes_first_even_if_the_consumer_waits_for_another(
    channel: Any, connect: Connect
) -> None:
    declare(channel, "fifo")
    publish(channel, "later", delay=60)
    source = connect()
    received = consume(source.default_channel)
    with pytest.raises(socket.timeout):
        source.drain_events(timeout=0.05)
    publish(channel, "sooner", delay=0.1)
    assert drain(source, received, 1)[0].payload == "sooner"


def test_delayed_messages_join_their_priority_when_they_are_due(channel: Any) -> None:
    declare(channel, "priority")
    for priority in (0, 9, 3):
        publish(channel, priority, priority=priority, delay=0.05)
    wait_until(lambda: counts(channel) == (3, 0, 0), "the messages are due")
    assert bodies(channel) == [9, 3, 0]


# --- taking and giving back


def test_message_stays_unacknowledged_until_it_is_acknowledged(channel: Any, redis_url: str) -> None:
    publish(channel, 1)
    message = get(channel)
    assert counts(channel) == (0, 1, 0)
    message.ack()
    assert counts(channel) == (0, 0, 0)
    with server(redis_url) as client:
        assert not tracks(client)


def test_get_without_acknowledgement_leaves_nothing_behind(channel: Any, redis_url: str) -> None:
    publish(channel, 1)
    assert bodies(channel) == [1]
    with server(redis_url) as client:
        assert not tracks(client)


@pytest.mark.parametrize("queue_type", ["fifo", "priority", "stack", ""])
def test_rejected_message_is_the_next_one_delivered(channel: Any, queue_type: str) -> None:
    declare(channel, queue_type)
    for number in range(3):
        publish(channel, number)
    first = get(channel)
    first.requeue()
    again = get(channel)
    assert again.payload == first.payload
    assert again.headers["redelivered"] is True
    assert again.delivery_info["redelivered"] is True
    assert again.headers["x-delivery-count"] == 1
    assert again.delivery_tag != first.delivery_tag


def test_rejected_without_requeue_is_gone(channel: Any) -> None:
    publish(channel, 1)
    get(channel).reject()
    assert counts(channel) == (0, 0, 0)


def test_prefetched_message_given_back_untouched_keeps_its_delivery_count(channel: Any, connect: Connect) -> None:
    publish(channel, 1)
    source = connect()
    message = drain(source, consume(source.default_channel), 1)[0]
    message.requeue()
    source.release()
    assert "x-delivery-count" not in get(channel).headers


@pytest.mark.parametrize("queue_type", ["fifo", "priority", "stack"])
def test_closing_a_channel_puts_everything_back_in_its_order(channel: Any, connect: Connect, queue_type: str) -> None:
    declare(channel, queue_type)
    for number in range(6):
        publish(channel, number, priority=number % 3 * 4)
    source = connect()
    taken = [message.payload for message in drain(source, consume(source.default_channel, prefetch=5), 3)]
    source.release()
    assert bodies(channel)[:3] == taken


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


def test_started_message_of_a_closed_channel_counts_an_attempt_and_others_do_not(
    channel: Any, connect: Connect
) -> None:
    for number in range(2):
        publish(channel, number)
    source = connect()
    started, _ = drain(source, consume(source.default_channel), 2)
    source.default_channel.mark_started(started.delivery_tag)
    source.release()
    assert [get(channel).headers.get("x-attempts") for _ in range(2)] == [1, None]


def test_started_message_that_is_rejected_alive_counts_no_attempt(channel: Any) -> None:
    publish(channel, 1)
    message = get(channel)
    channel.mark_started(message.delivery_tag)
    message.requeue()
    assert "x-attempts" not in get(channel).headers


def test_acknowledging_with_multiple_covers_what_came_before(channel: Any) -> None:
    for number in range(4):
        publish(channel, number)
    messages = [get(channel) for _ in range(4)]
    channel.basic_ack(messages[2].delivery_tag, multiple=True)
    assert counts(channel) == (0, 1, 0)
    messages[3].requeue()
    assert bodies(channel) == [3]


def test_acknowledgement_from_another_thread_returns_credit(channel: Any, connect: Connect) -> None:
    for number in range(2):
        publish(channel, number)
    source = connect()
    received = consume(source.default_channel, prefetch=1)
    drain(source, received, 1)
    thread = threading.Timer(0.1, received[0].ack)
    thread.start()
    drain(source, received, 2)
    thread.join()
    assert received[1].payload == 1


def test_prefetch_count_limits_what_is_held(channel: Any, connect: Connect) -> None:
    for number in range(10):
        publish(channel, number)
    source = connect()
    received = drain(source, consume(source.default_channel, prefetch=3), 3)
    with pytest.raises(socket.timeout):
        source.drain_events(timeout=0.05)
    assert counts(channel) == (7, 3, 0)
    received[0].ack()
    assert drain(source, received, 4)[3].payload == 3


def test_several_queues_are_consumed_in_turn(channel: Any, connect: Connect) -> None:
    for number in range(20):
        publish(channel, number, "a")
    for number in range(3):
        publish(channel, number, "b")
    source = connect()
    received = drain(source, consume(source.default_channel, ["a", "b"], prefetch=8), 8)
    assert [message.delivery_info["routing_key"] for message in received].count("b") == 3


def test_channels_of_one_connection_consume_one_queue_each_with_its_own_prefetch(
    channel: Any, connect: Connect
) -> None:
    for number in range(6):
        publish(channel, number)
    source = connect()
    mine, theirs = consume(source.channel(), prefetch=2), consume(source.channel(), prefetch=3)
    while len(mine) + len(theirs) < 5:
        source.drain_events(timeout=5)
    assert (len(mine), len(theirs)) == (2, 3)
    for message in mine + theirs:
        message.ack()
    assert counts(channel)[1] <= 1


def test_message_that_waits_is_delivered_with_a_timeout_of_zero(channel: Any, connect: Connect) -> None:
    publish(channel, 1)
    source = connect()
    received = consume(source.default_channel)
    source.drain_events(timeout=0)
    assert received[0].payload == 1
    with pytest.raises(socket.timeout):
        source.drain_events(timeout=0)


def test_stray_value_on_a_queue_is_delivered_as_bytes_and_blocks_nothing(channel: Any, redis_url: str) -> None:
    with server(redis_url) as client:
        client.lpush("q", b"\xff no message", b"[1]", b'{"body": 1}')
    publish(channel, "good")
    messages = [get(channel) for _ in range(4)]
    assert [message.body for message in messages[:3]] == [b"\xff no message", b"[1]", b'{"body": 1}']
    assert messages[3].payload == "good"


def test_message_is_kept_to_the_byte_by_taking_and_restoring(channel: Any, redis_url: str) -> None:
    big = {"empty": [], "none": {}, "big": 2**70, "small": 1e-300, "text": "\u2028ü"}
    publish(channel, big, headers={"list": [], "map": {}})
    message = get(channel)
    message.requeue()
    again = get(channel)
    assert again.payload == big
    assert again.headers["list"] == []
    assert again.headers["map"] == {}


# --- counting, purging, deleting


def test_consumers_are_counted_while_they_consume(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    source = connect()
    consume(source.default_channel)
    assert channel.queue_stats("q")["consumers"] == 1
    source.release()
    assert channel.queue_stats("q")["consumers"] == 0


def test_consumers_that_vanished_long_ago_are_forgotten_when_another_one_comes(channel: Any, redis_url: str) -> None:
    with server(redis_url) as client:
        client.zadd("mindtrace.consumers", {f"dead{number}:q": number for number in range(10)})
        consume(channel)
        assert client.zcard("mindtrace.consumers") == 1


def test_purge_removes_ready_and_delayed_and_not_what_is_held(channel: Any) -> None:
    for number in range(3):
        publish(channel, number)
    publish(channel, "late", delay=60)
    held = get(channel)
    assert channel.queue_purge("q") == 3
    assert counts(channel) == (0, 1, 0)
    held.requeue()
    assert bodies(channel) == [0]


def test_deleted_queue_does_not_come_back_with_its_messages(channel: Any, connect: Connect) -> None:
    declare(channel, "priority")
    for number in range(3):
        publish(channel, number, priority=number)
    publish(channel, "late", delay=60)
    source = connect()
    drain(source, consume(source.default_channel, prefetch=1), 1)
    connect().default_channel.queue_delete("q")
    assert channel.queue_type("q") is None
    source.release()
    assert channel.queue_type("q") is None
    declare(channel, "fifo")
    assert counts(channel) == (0, 0, 0)


def test_queue_in_use_is_not_deleted_if_that_is_asked_for(channel: Any, connect: Connect) -> None:
    publish(channel, 1, mandatory=True)
    channel.queue_delete("q", if_empty=True)
    assert channel.queue_type("q") == "fifo"
    source = connect()
    consume(source.default_channel)
    channel.queue_purge("q")
    channel.queue_delete("q", if_unused=True)
    assert channel.queue_type("q") == "fifo"
    source.release()
    channel.queue_delete("q", if_unused=True, if_empty=True)
    assert channel.queue_type("q") is None


# --- exchanges


@pytest.mark.parametrize(
    ("kind", "bound", "hits", "misses"),
    [
        ("direct", "a.b", ["a.b"], ["a", "a.b.c", ""]),
        ("topic", "logs.*.error", ["logs.x.error"], ["logs.error", "logs.x.y.error"]),
        ("topic", "logs.#", ["logs", "logs.x", "logs.x.y"], ["log", "xlogs.x"]),
        ("topic", "#.error", ["error", "a.error", "a.b.error"], ["error.a"]),
        ("topic", "#", ["", "a", "a.b"], []),
        ("fanout", "", ["", "anything"], []),
    ],
)
def test_exchange_declared_by_another_process_routes_as_amqp_does(
    channel: Any, connect: Connect, kind: str, bound: str, hits: list[str], misses: list[str]
) -> None:
    declare(channel, "fifo")
    channel.exchange_declare("x", kind, durable=True, arguments={"x-job-exchange": True})
    channel.queue_bind("q", "x", bound)
    stranger = connect().default_channel
    for key in hits:
        publish(stranger, key, exchange="x", routing_key=key, mandatory=True)
    for key in misses:
        publish(stranger, key, exchange="x", routing_key=key)
        with pytest.raises(ChannelError, match="NO_ROUTE") as error:
            publish(stranger, key, exchange="x", routing_key=key, mandatory=True)
        assert error.value.reply_code == 312
    assert bodies(channel) == hits


def test_each_bound_queue_gets_one_copy(channel: Any, connect: Connect) -> None:
    channel.exchange_declare("x", "topic", durable=True)
    for queue, patterns in {"a": ["k.*", "#"], "b": ["k.#"], "c": ["other"]}.items():
        declare(channel, "fifo", queue)
        for pattern in patterns:
            channel.queue_bind(queue, "x", pattern)
    publish(connect().default_channel, 1, exchange="x", routing_key="k.1", delay=0)
    assert [bodies(channel, queue) for queue in "abc"] == [[1], [1], []]


def test_unbound_queue_and_deleted_exchange_take_nothing_more(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    other = connect().default_channel
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("q", "x", "k")
    other.queue_unbind("q", "x", "k")
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish(channel, 1, exchange="x", routing_key="k", mandatory=True)
    channel.queue_bind("q", "x", "k")
    other.exchange_delete("x")
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish(channel, 1, exchange="x", routing_key="k", mandatory=True)
    assert channel.queue_type("q") == "fifo"
    other.exchange_delete("x")


def test_deleting_a_queue_elsewhere_takes_its_bindings_with_it(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("q", "x", "k")
    connect().default_channel.queue_delete("q")
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish(channel, 1, exchange="x", routing_key="k", mandatory=True)
    declare(channel, "fifo")
    channel.queue_bind("q", "x", "k")
    publish(channel, 1, exchange="x", routing_key="k", mandatory=True)
    assert bodies(channel) == [1]


def test_exchange_known_to_the_server_is_found_and_an_unknown_one_is_not(channel: Any, connect: Connect) -> None:
    channel.exchange_declare("x", "topic", durable=True)
    connect().default_channel.exchange_declare("x", passive=True)
    with pytest.raises(ChannelError, match="no exchange 'y'"):
        channel.exchange_declare("y", passive=True)
    with pytest.raises(ChannelError, match="no exchange 'y'"):
        channel.queue_bind("q", "y", "k")


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


def test_batch_publishes_everything_in_order_in_few_round_trips(channel: Any, redis_url: str) -> None:
    declare(channel, "priority", "p")
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("p", "x", "k")
    producer = Producer(channel, auto_declare=False)
    with producer.batch():
        for number in range(120):
            producer.publish(number, exchange="", routing_key="q", mandatory=True)
        producer.publish("low", exchange="x", routing_key="k", priority=0)
        producer.publish("high", exchange="", routing_key="p", priority=9)
        producer.publish("late", exchange="", routing_key="q", delay=60)
    assert channel.queue_type("q") == "fifo"
    assert counts(channel) == (120, 0, 1)
    assert bodies(channel) == list(range(120))
    assert bodies(channel, "p") == ["high", "low"]


def test_unroutable_message_of_a_batch_is_told(channel: Any) -> None:
    channel.exchange_declare("x", "direct", durable=True)
    producer = Producer(channel, auto_declare=False)

    def publish_both() -> None:
        with producer.batch():
            producer.publish(1, exchange="", routing_key="q")
            producer.publish(2, exchange="x", routing_key="nowhere", mandatory=True)

    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish_both()
    assert bodies(channel) == [1]


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
    channel.mark_started(received[0].delivery_tag)
    with server(redis_url) as client:
        names = {name.decode() for name in client.keys("*")}
    assert names
    assert {name for name in names if not name.startswith(prefix)} == set()
    received[0].ack()
    assert counts(channel) == (3, 1, 1)
    source.release()
    stranger = connect().default_channel
    assert stranger.queue_type("q") is None


def test_cluster_is_refused_with_a_reason() -> None:
    with (
        RedisServer(arguments=["--cluster-enabled", "yes", "--cluster-port", str(free_port())]) as node,
        connection(node.url()) as source,
        pytest.raises(ConfigurationError, match="Redis Cluster"),
    ):
        source.channel()
