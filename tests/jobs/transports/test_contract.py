"""Both transports keep the contract of ``JobsChannel``: one test for each of its sentences."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kombu import Consumer, Exchange, Producer, Queue
from kombu.exceptions import ChannelError
from kombu.utils.json import dumps

from mindtrace_jobs.transports.contract import EXCHANGE_ARGUMENT, JobsChannel, Record
from tests.jobs.servers import wait_until
from tests.jobs.transports.kit import (
    EMPTY,
    PATIENCE,
    Connect,
    Transport,
    bodies,
    connections_to,
    consume,
    counts,
    declare,
    drain,
    drain_all,
    get,
    peeked,
    publish,
    requeue,
    wait_for,
)

QUEUE_TYPES = ["", "fifo", "priority", "stack"]


def test_channel_offers_what_the_contract_names(channel: Any) -> None:
    assert isinstance(channel, JobsChannel)


def test_connections_to_one_broker_share_queues_and_messages_outlive_them(connect: Connect) -> None:
    with connect() as publisher:
        publish(publisher.default_channel, "kept", mandatory=True)
    assert bodies(connect().default_channel) == ["kept"]


def test_record_is_refused_by_a_channel_that_keeps_none(channel: Any) -> None:
    publish(channel, "a")
    tag = get(channel).delivery_tag
    record = Record("job", b"started", 60)
    if channel.keeps_records:
        assert channel.start(tag, record)
        return
    for verb in (channel.start, channel.acknowledge, channel.ack_nowait):
        with pytest.raises(NotImplementedError):
            verb(tag, record)
    assert counts(channel) == (0, 1, 0)


# --- queues: declaring, types


def test_declaring_a_queue_tells_its_name_and_how_many_messages_are_ready(channel: Any) -> None:
    assert tuple(channel.queue_declare("q")) == ("q", 0, 0)
    publish(channel, "ready")
    publish(channel, "late", delay=3600)
    assert channel.queue_declare("q", passive=True).message_count == 1
    one, other = channel.queue_declare().queue, channel.queue_declare().queue
    assert len({one, other, ""}) == 3


def test_first_declaration_of_a_queue_decides_its_type(channel: Any, connect: Connect) -> None:
    declare(channel, "stack")
    declare(connect().default_channel, "priority")
    channel.queue_declare("q")
    assert connect().default_channel.queue_type("q") == "stack"


def test_a_plain_queue_becomes_a_priority_queue_for_what_waits_in_it_too(channel: Any, connect: Connect) -> None:
    other = connect().default_channel
    other.queue_declare("q")
    for priority in (0, 9, 3):
        publish(other, priority, priority=priority)
    held = consume(other, prefetch=1)
    drain(other.connection.client, held, 1)
    declare(channel, "priority")
    declare(channel, "fifo")
    assert other.queue_type("q") == "priority"
    for priority in (6, 0):
        publish(other, priority, priority=priority)
    held[0].channel.requeue(held[0].delivery_tag)
    other.close()
    assert bodies(channel) == [9, 6, 3, 0, 0]


def test_queue_declared_without_a_type_is_plain_and_an_unknown_one_has_none(channel: Any) -> None:
    assert channel.queue_type("q") is None
    channel.queue_declare("q")
    assert channel.queue_type("q") == ""


def test_unknown_queue_type_is_refused(channel: Any) -> None:
    with pytest.raises(ChannelError, match="heap") as caught:
        declare(channel, "heap")
    assert caught.value.reply_code == 406
    assert channel.queue_type("q") is None


def test_passive_declaration_makes_nothing(channel: Any) -> None:
    with pytest.raises(ChannelError, match="no queue 'q'") as caught:
        channel.queue_declare("q", passive=True)
    assert caught.value.reply_code == 404
    assert channel.queue_type("q") is None


@pytest.mark.parametrize(
    ("queue_type", "order"),
    [("fifo", [0, 1, 2, 3, 4, 5]), ("priority", [2, 5, 1, 4, 0, 3]), ("stack", [5, 4, 3, 2, 1, 0])],
)
@pytest.mark.parametrize("how", ["get", "consume", "peek"])
def test_queue_delivers_in_the_order_of_its_type(
    channel: Any, connect: Connect, queue_type: str, order: list[int], how: str
) -> None:
    declare(channel, queue_type)
    for number in range(6):
        publish(channel, number, priority=(0, 5, 9)[number % 3])
    if how == "get":
        assert bodies(channel) == order
    elif how == "peek":
        assert peeked(channel) == order
    else:
        source = connect()
        assert [message.payload for message in drain(source, consume(source.default_channel), 6)] == order


def test_plain_queue_is_first_in_first_out(channel: Any) -> None:
    channel.queue_declare("q")
    for number in range(4):
        publish(channel, number)
    assert bodies(channel) == [0, 1, 2, 3]


# --- queues: counting, looking, purging, deleting


def test_unknown_queue_has_nothing_in_it(channel: Any) -> None:
    assert channel.queue_stats("q") == {"ready": 0, "unacknowledged": 0, "delayed": 0, "consumers": 0}
    assert channel.peek("q", 5) == []
    assert channel.basic_get("q") is None
    assert channel.queue_purge("q") == 0
    assert channel.queue_type("q") is None


def test_ready_unacknowledged_and_delayed_messages_are_counted_apart(channel: Any, connect: Connect) -> None:
    for body in "abc":
        publish(channel, body)
    publish(channel, "late", delay=3600)
    held = get(connect().default_channel)
    assert counts(channel) == (2, 1, 1)
    assert channel.queue_declare("q", passive=True).message_count == 2
    held.channel.acknowledge(held.delivery_tag)
    assert counts(channel) == (2, 0, 1)


def test_consumers_of_every_connection_are_counted_while_they_consume(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    first, second = connect(), connect()
    for source in (first, second):
        source.default_channel.basic_consume("q", no_ack=False, callback=print, consumer_tag="c")
    assert channel.queue_stats("q")["consumers"] == 2
    first.default_channel.basic_cancel("c")
    assert channel.queue_stats("q")["consumers"] == 1
    second.release()
    assert channel.queue_stats("q")["consumers"] == 0


def test_peek_shows_so_many_ready_messages_and_leaves_them(channel: Any) -> None:
    for body in "abc":
        publish(channel, body)
    publish(channel, "late", delay=3600)
    assert peeked(channel, 2) == ["a", "b"]
    assert peeked(channel) == ["a", "b", "c"]
    assert channel.peek("q", 0) == []
    assert counts(channel) == (3, 0, 1)


def test_peek_leaves_out_the_first_and_the_bodies(channel: Any) -> None:
    declare(channel, "priority")
    for number in range(12):
        publish(channel, str(number), priority=number % 10)
    everything = peeked(channel)
    assert sorted(everything, key=int) == [str(number) for number in range(12)]
    for offset in range(14):
        found = [channel.Message(raw, channel=channel).payload for raw in channel.peek("q", 4, offset)]
        assert found == everything[offset : offset + 4]
    heads = channel.peek("q", 3, 2, bodies=False)
    assert [raw["properties"]["priority"] for raw in heads] == [
        raw["properties"]["priority"] for raw in channel.peek("q", 3, 2)
    ]
    assert all(channel.Message(raw, channel=channel).headers is not None for raw in heads)


def test_peeked_message_cannot_be_acknowledged_nor_changed(channel: Any) -> None:
    publish(channel, "a")
    raw = channel.peek("q", 1)[0]
    channel.Message(raw, channel=channel).ack()
    raw["headers"]["changed"] = raw["properties"]["delivery_info"]["changed"] = True
    assert counts(channel) == (1, 0, 0)
    taken = get(channel)
    assert "changed" not in taken.headers
    assert "changed" not in taken.delivery_info


def test_purge_removes_ready_and_delayed_messages_and_spares_held_ones(channel: Any, connect: Connect) -> None:
    for body in "abc":
        publish(channel, body)
    publish(channel, "late", delay=3600)
    held = get(channel)
    assert connect().default_channel.queue_purge("q") == 3
    assert counts(channel) == (0, 1, 0)
    held.requeue()
    assert bodies(channel) == ["a"]


@pytest.mark.parametrize("how", ["requeue", "close"])
def test_deleted_queue_never_comes_back_with_its_messages(channel: Any, connect: Connect, how: str) -> None:
    declare(channel, "priority")
    for body in "abc":
        publish(channel, body)
    publish(channel, "late", delay=3600)
    source = connect()
    held = [get(source.channel()), *drain(source, consume(source.default_channel, prefetch=1), 1)]
    connect().default_channel.queue_delete("q")
    assert channel.queue_type("q") is None
    if how == "requeue":
        for message in held:
            message.requeue()
    source.release()
    assert channel.queue_type("q") is None
    declare(channel, "fifo")
    assert counts(channel) == EMPTY


def test_deleted_queue_loses_its_bindings(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("q", "x", "k")
    connect().default_channel.queue_delete("q")
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish(channel, 1, exchange="x", routing_key="k", mandatory=True)
    assert channel.queue_type("q") is None
    declare(channel, "fifo")
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish(channel, 1, exchange="x", routing_key="k", mandatory=True)
    channel.queue_bind("q", "x", "k")
    publish(channel, 1, exchange="x", routing_key="k", mandatory=True)
    assert bodies(channel) == [1]


@pytest.mark.parametrize("delay", [0, 3600])
def test_queue_with_messages_is_not_deleted_if_empty_is_asked_for(channel: Any, delay: int) -> None:
    declare(channel, "fifo")
    publish(channel, "a", delay=delay)
    channel.queue_delete("q", if_empty=True)
    assert channel.queue_type("q") == "fifo"
    channel.queue_purge("q")
    channel.queue_delete("q", if_empty=True)
    assert channel.queue_type("q") is None


def test_queue_with_consumers_is_not_deleted_if_unused_is_asked_for(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    source = connect()
    consume(source.default_channel)
    channel.queue_delete("q", if_unused=True)
    assert channel.queue_type("q") == "fifo"
    source.release()
    publish(channel, "a")
    channel.queue_delete("q", if_unused=True)
    assert channel.queue_type("q") is None


def test_deleting_an_unknown_queue_is_no_error(channel: Any) -> None:
    channel.queue_delete("q")
    channel.queue_delete("q", if_unused=True, if_empty=True)


# --- exchanges


@pytest.mark.parametrize(
    ("kind", "bound", "hits", "misses"),
    [
        ("direct", "a.b", ["a.b"], ["a", "a.b.c", ""]),
        ("topic", "a.*", ["a.b"], ["a", "a.b.c", "b.a", "aXb"]),
        ("topic", "logs.*.error", ["logs.x.error"], ["logs.error", "logs.x.y.error"]),
        ("topic", "a.#", ["a", "a.b", "a.b.c"], ["b", "ab", "b.a"]),
        ("topic", "logs.#", ["logs", "logs.x", "logs.x.y"], ["log", "xlogs.x"]),
        ("topic", "#.error", ["error", "a.error", "a.b.error"], ["error.a", "xerror"]),
        ("topic", "a.#.b", ["a.b", "a.x.b", "a.x.y.b"], ["a", "b", "a.bb", "axb"]),
        ("topic", "#", ["", "a", "a.b"], []),
        ("topic", "#.#", ["", "a", "a.b"], []),
        ("topic", "*.#.#.*", ["a.b", "a.b.c"], ["a", ""]),
        ("topic", "a+.b", ["a+.b"], ["aa.b"]),
        ("topic", "a", ["a"], ["a\n", "a.a", "aa"]),
        ("fanout", "", ["", "anything"], []),
    ],
)
def test_exchange_declared_by_another_connection_routes_as_amqp_does(
    channel: Any, connect: Connect, kind: str, bound: str, hits: list[str], misses: list[str]
) -> None:
    declare(channel, "fifo")
    channel.exchange_declare("x", kind, durable=True, arguments={EXCHANGE_ARGUMENT: True})
    channel.queue_bind("q", "x", bound)
    stranger = connect().default_channel
    for key in hits:
        publish(stranger, key, exchange="x", routing_key=key, mandatory=True)
    for key in misses:
        publish(stranger, "dropped, as AMQP does", exchange="x", routing_key=key)
        with pytest.raises(ChannelError, match="NO_ROUTE") as caught:
            publish(stranger, key, exchange="x", routing_key=key, mandatory=True)
        assert caught.value.reply_code == 312
    assert bodies(channel) == hits


def test_each_bound_queue_gets_one_copy_however_many_patterns_match(channel: Any, connect: Connect) -> None:
    channel.exchange_declare("x", "topic", durable=True)
    for queue, patterns in {"a": ["k.*", "#"], "b": ["k.#"], "c": ["other"]}.items():
        declare(channel, "fifo", queue)
        for pattern in patterns:
            channel.queue_bind(queue, "x", pattern)
    publish(connect().default_channel, 1, exchange="x", routing_key="k.1", delay=0)
    assert [bodies(channel, queue) for queue in "abc"] == [[1], [1], []]


def test_fanout_exchange_with_the_argument_leaves_a_copy_of_its_own_in_every_bound_queue(channel: Any) -> None:
    channel.exchange_declare("x", "fanout", durable=True, arguments={EXCHANGE_ARGUMENT: True})
    for queue in ("q1", "q2"):
        declare(channel, "fifo", queue)
        channel.queue_bind(queue, "x", "")
    publish(channel, "news", exchange="x", routing_key="whatever", mandatory=True)
    first = get(channel, "q1")
    first.headers["mine"] = True
    first.requeue()
    assert "mine" not in get(channel, "q2").headers
    assert counts(channel, "q1") == (1, 0, 0)


def test_exchange_known_to_the_broker_is_found_and_an_unknown_one_is_not(channel: Any, connect: Connect) -> None:
    channel.exchange_declare("x", "topic", durable=True)
    connect().default_channel.exchange_declare("x", passive=True)
    declare(channel, "fifo")
    with pytest.raises(ChannelError, match="no exchange 'y'") as caught:
        channel.exchange_declare("y", passive=True)
    assert caught.value.reply_code == 404
    with pytest.raises(ChannelError, match="no exchange 'y'") as caught:
        channel.queue_bind("q", "y", "k")
    assert caught.value.reply_code == 404


def test_mandatory_message_to_an_unknown_exchange_is_refused(channel: Any) -> None:
    with pytest.raises(ChannelError, match="no exchange 'y'") as caught:
        publish(channel, "lost", exchange="y", routing_key="k", mandatory=True)
    assert caught.value.reply_code == 404


def test_unbinding_ends_delivery_and_a_binding_that_is_not_there_is_no_error(channel: Any, connect: Connect) -> None:
    channel.exchange_declare("x", "direct", durable=True)
    for queue, key in (("q1", "red"), ("q2", "blue"), ("q3", "red")):
        declare(channel, "fifo", queue)
        channel.queue_bind(queue, "x", key)
    other = connect().default_channel
    other.queue_unbind("q1", "x", "red")
    other.queue_unbind("q1", "x", "red")
    publish(channel, "a", exchange="x", routing_key="red", mandatory=True)
    assert [bodies(channel, queue) for queue in ("q1", "q2", "q3")] == [[], [], ["a"]]


def test_deleting_an_exchange_forgets_its_bindings_and_leaves_its_queues(channel: Any, connect: Connect) -> None:
    channel.exchange_delete("x")
    declare(channel, "fifo")
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("q", "x", "k")
    connect().default_channel.exchange_delete("x")
    assert channel.queue_type("q") == "fifo"
    stranger = connect().default_channel
    stranger.exchange_declare("x", "direct", durable=True)
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish(stranger, "a", exchange="x", routing_key="k", mandatory=True)
    stranger.queue_bind("q", "x", "k")
    publish(stranger, "b", exchange="x", routing_key="k", mandatory=True)
    assert bodies(channel) == ["b"]


def test_kombu_entities_declare_bind_and_deliver(connect: Connect) -> None:
    source = connect()
    queue = Queue("videos", Exchange("media", type="topic"), routing_key="video.#")
    received: list[Any] = []
    with Consumer(source.default_channel, [queue], on_message=received.append):
        publish(connect().default_channel, "clip", exchange="media", routing_key="video.mp4", declare=[queue])
        drain(source, received, 1)
    assert received[0].payload == "clip"


# --- publishing


def test_publishing_makes_a_queue_that_is_not_there_and_leaves_the_type_of_one_that_is(channel: Any) -> None:
    publish(channel, 1, mandatory=True)
    assert channel.queue_type("q") == "fifo"
    declare(channel, "stack", "s")
    publish(channel, 2, "s", mandatory=True)
    assert channel.queue_type("s") == "stack"
    publish(channel, 3, "other")
    assert bodies(channel, "other") == [3]


def test_body_and_content_type_arrive_as_they_were(channel: Any) -> None:
    body = bytes(range(256))
    Producer(channel, auto_declare=False).publish(
        body, exchange="", routing_key="q", content_type="application/x-own", content_encoding="binary"
    )
    message = get(channel)
    assert (message.body, message.content_type, message.content_encoding) == (body, "application/x-own", "binary")


def test_options_of_amqp_that_mean_nothing_here_are_ignored(channel: Any) -> None:
    publish(channel, "a", mandatory=True, immediate=True, timeout=1.0, confirm_timeout=1.0)
    assert bodies(channel) == ["a"]


# --- delay


def test_delayed_message_is_held_back_and_wakes_a_consumer_when_it_is_due(channel: Any, connect: Connect) -> None:
    declare(channel, "fifo")
    due = time.monotonic() + 0.3
    publish(channel, "late", delay=0.3)
    publish(channel, "much later", delay=3600.0)
    publish(channel, "now")
    source = connect()
    received = drain(source, consume(source.default_channel), 1)
    assert received[0].payload == "now"
    drain(source, received, 2)
    assert time.monotonic() > due - 0.1  # the server's clock may be ahead
    assert received[1].payload == "late"
    assert "delay" not in received[1].properties
    assert counts(channel) == (0, 2, 1)


def test_message_that_is_held_back_is_not_ready(channel: Any) -> None:
    publish(channel, "late", delay=3600)
    assert channel.basic_get("q") is None
    assert channel.peek("q", 10) == []
    assert counts(channel) == (0, 0, 1)


def test_delayed_message_that_comes_back_is_not_delayed_again(channel: Any) -> None:
    publish(channel, "a", delay=0.01)
    wait_for(channel, (1, 0, 0))
    get(channel).requeue()
    assert get(channel).payload == "a"


def test_message_delayed_for_less_comes_first_even_if_the_consumer_waits_for_another(
    channel: Any, connect: Connect
) -> None:
    declare(channel, "fifo")
    publish(channel, "later", delay=3600)
    source = connect()
    received = consume(source.default_channel)
    with pytest.raises(TimeoutError):
        source.drain_events(timeout=0.05)
    publish(channel, "sooner", delay=0.1)
    assert drain(source, received, 1)[0].payload == "sooner"


def test_delayed_messages_come_in_the_order_they_are_due(channel: Any) -> None:
    declare(channel, "fifo")
    # So far apart that a busy machine does not come between them.
    for name, delay in (("third", 1.5), ("first", 0.5), ("second", 1.0)):
        publish(channel, name, delay=delay)
    wait_for(channel, (3, 0, 0))
    assert channel.queue_declare("q", passive=True).message_count == 3
    assert bodies(channel) == ["first", "second", "third"]


def test_delayed_messages_join_their_priority_when_they_are_due(channel: Any) -> None:
    declare(channel, "priority")
    for priority in (0, 9, 3):
        publish(channel, priority, priority=priority, delay=0.05)
    wait_for(channel, (3, 0, 0))
    assert bodies(channel) == [9, 3, 0]


def test_delay_of_zero_or_less_is_no_delay(channel: Any) -> None:
    publish(channel, "a", delay=0)
    publish(channel, "b", delay=-1.5)
    assert bodies(channel) == ["a", "b"]


def test_message_to_an_exchange_can_be_delayed(channel: Any) -> None:
    declare(channel, "fifo")
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("q", "x", "k")
    publish(channel, "late", exchange="x", routing_key="k", delay=3600)
    assert counts(channel) == (0, 0, 1)


# --- batches


def test_batch_publishes_everything_in_order(channel: Any) -> None:
    declare(channel, "priority", "p")
    channel.exchange_declare("x", "direct", durable=True)
    channel.queue_bind("p", "x", "k")
    batch = channel.create_publish_batch(50)

    def add(body: str, exchange: str = "", routing_key: str = "q", **properties: Any) -> None:
        prepared = message(channel, body, **properties)
        batch.publish(prepared, exchange=exchange, routing_key=routing_key, mandatory=True)

    for number in range(120):
        add(f"{number}")
    assert counts(channel)[0] >= 100, "it sends by itself"
    add('"low"', "x", "k", priority=0)
    add('"high"', "", "p", priority=9)
    add('"late"', delay=3600)
    batch.flush()
    assert channel.queue_type("q") == "fifo"
    assert counts(channel) == (120, 0, 1)
    assert bodies(channel) == list(range(120))
    assert bodies(channel, "p") == ["high", "low"]


def test_unroutable_message_of_a_batch_is_told_and_the_others_arrive(channel: Any) -> None:
    channel.exchange_declare("x", "direct", durable=True)
    batch = channel.create_publish_batch(10)
    batch.publish(message(channel, "1"), exchange="", routing_key="q")

    def publish_and_flush() -> None:
        batch.publish(message(channel, "2"), exchange="x", routing_key="nowhere", mandatory=True)
        batch.flush()

    with pytest.raises(ChannelError, match="NO_ROUTE") as caught:
        publish_and_flush()
    assert caught.value.reply_code == 312
    assert bodies(channel) == [1]


def message(channel: Any, body: str, priority: int = 0, **properties: Any) -> Any:
    """A message as a channel publishes it; ``body`` is JSON."""
    return channel.prepare_message(
        body, priority, content_type="application/json", content_encoding="utf-8", properties={**properties}
    )


# --- taking


def test_message_is_held_until_it_is_acknowledged(channel: Any, connect: Connect) -> None:
    publish(channel, "once")
    message = get(channel)
    assert not message.delivery_info.get("redelivered")
    other = connect().default_channel
    assert other.basic_get("q") is None
    message.ack()
    assert counts(channel) == EMPTY
    channel.close()
    assert counts(other) == EMPTY


def test_a_message_received_without_acknowledgement_is_gone(channel: Any, connect: Connect) -> None:
    for body in "ab":
        publish(channel, body)
    get(channel, no_ack=True)
    source = connect()
    drain(source, consume(source.default_channel, no_ack=True), 1)
    assert counts(channel) == EMPTY
    source.release()
    channel.close()
    assert connect().default_channel.basic_get("q") is None


def test_waiting_consumer_gets_a_message_that_is_published_later(connect: Connect) -> None:
    source = connect()
    received = consume(source.default_channel)
    with pytest.raises(TimeoutError):
        source.drain_events(timeout=0.02)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(drain, source, received, 1)
        publish(connect().default_channel, "wake up")
        done.result(PATIENCE)
    assert received[0].payload == "wake up"


def test_draining_without_time_delivers_what_is_ready(channel: Any, connect: Connect) -> None:
    publish(channel, "a")
    source = connect()
    received = consume(source.default_channel)
    source.drain_events(timeout=0)
    for timeout in (0, 0.02):
        with pytest.raises(TimeoutError):
            source.drain_events(timeout=timeout)
    assert [message.payload for message in received] == ["a"]


def test_prefetch_limits_what_a_channel_holds(channel: Any, connect: Connect) -> None:
    for number in range(10):
        publish(channel, number)
    source = connect()
    received = drain(source, consume(source.default_channel, prefetch=3), 3)
    with pytest.raises(TimeoutError):
        source.drain_events(timeout=0.05)
    assert counts(channel) == (7, 3, 0)
    get(source.default_channel).ack()  # is not limited
    received[0].ack()
    assert [message.payload for message in drain(source, received, 4)] == [0, 1, 2, 4]


def test_prefetch_of_zero_is_no_limit(channel: Any, connect: Connect) -> None:
    for number in range(300):
        publish(channel, number)
    source = connect()
    assert [message.payload for message in drain(source, consume(source.default_channel), 300)] == list(range(300))


def test_acknowledging_in_another_thread_makes_room(channel: Any, connect: Connect) -> None:
    for number in range(2):
        publish(channel, number)
    source = connect()
    received = drain(source, consume(source.default_channel, prefetch=1), 1)
    thread = threading.Timer(0.05, received[0].ack)
    thread.start()
    drain(source, received, 2)
    thread.join()
    assert received[1].payload == 1


def test_message_waits_for_another_consumer_while_one_is_full(channel: Any, connect: Connect) -> None:
    for number in range(2):
        publish(channel, number)
    full, free = connect(), connect()
    drain(full, consume(full.default_channel, prefetch=1), 1)
    assert drain(free, consume(free.default_channel, prefetch=1), 1)[0].payload == 1


def test_several_queues_are_consumed_in_turn(channel: Any, connect: Connect) -> None:
    for number in range(20):
        publish(channel, number, "a")
    for number in range(3):
        publish(channel, number, "b")
    source = connect()
    received = drain(source, consume(source.default_channel, "a", "b", prefetch=8), 8)
    assert [message.delivery_info["routing_key"] for message in received].count("b") == 3


def test_channels_of_one_connection_get_their_own_messages_each_up_to_its_prefetch(
    channel: Any, connect: Connect
) -> None:
    for number in range(6):
        publish(channel, number)
    source = connect()
    one, two = source.channel(), source.channel()
    mine, theirs = consume(one, prefetch=2), consume(two, prefetch=3)
    while len(mine) + len(theirs) < 5:
        source.drain_events(timeout=PATIENCE)
    assert (len(mine), len(theirs)) == (2, 3)
    assert {message.channel for message in mine} == {one}
    assert {message.channel for message in theirs} == {two}
    assert counts(channel) == (1, 5, 0)
    for message in mine + theirs:
        message.channel.acknowledge(message.delivery_tag)
    assert counts(channel)[1] <= 1, "room for the last one, which may be claimed already"


def test_cancelled_consumer_gets_nothing_more_and_what_it_was_delivered_stays_held(
    channel: Any, connect: Connect
) -> None:
    for number in range(5):
        publish(channel, number)
    source = connect()
    mine = source.default_channel
    received: list[Any] = []
    mine.basic_qos(0, 1, False)
    mine.basic_consume("q", no_ack=False, callback=received.append, consumer_tag="c")
    drain(source, received, 1)
    mine.basic_cancel("c")
    mine.basic_cancel("c")
    drain_all(source)
    assert counts(channel) == (4, 1, 0)
    received[0].ack()
    assert counts(mine) == (4, 0, 0)
    assert bodies(channel) == [1, 2, 3, 4]


# --- starting and losing


def test_only_a_started_message_whose_channel_is_closed_counts_a_loss(channel: Any, connect: Connect) -> None:
    for number in range(3):
        publish(channel, number)
    source = connect()
    mine = source.default_channel
    taken = [get(mine), *drain(source, consume(mine, prefetch=3), 2)]
    for started in taken[:2]:
        assert mine.start(started.delivery_tag) is True
    source.release()
    again = [get(channel) for _ in range(3)]
    assert [message.headers.get("x-attempts") for message in again] == [1, 1, None]
    channel.start(again[0].delivery_tag)
    channel.close()
    assert get(connect().default_channel).headers["x-attempts"] == 2


@pytest.mark.parametrize("again", [True, False])
def test_started_message_that_is_rejected_counts_no_loss(channel: Any, again: bool) -> None:
    for body in "ab":
        publish(channel, body)
    message = get(channel)
    channel.start(message.delivery_tag)
    message.reject(requeue=again)
    assert get(channel).payload == "b"
    assert not again or "x-attempts" not in get(channel).headers


def test_settling_what_is_not_held_is_ignored(channel: Any) -> None:
    publish(channel, "a")
    message = get(channel, no_ack=True)
    assert channel.start(message.delivery_tag) is True
    channel.basic_reject("unknown", requeue=True)
    channel.basic_ack("unknown")
    channel.release("unknown")
    assert counts(channel) == EMPTY


def test_message_is_held_from_its_delivery_until_it_is_settled(channel: Any) -> None:
    for number in range(5):
        publish(channel, number)
    assert not channel.holds("unknown")
    for settle in (
        channel.acknowledge,
        channel.ack_nowait,
        channel.basic_ack,
        channel.basic_reject,
        channel.release,
    ):
        tag = get(channel).delivery_tag
        assert channel.holds(tag)
        settle(tag)
        assert not channel.holds(tag), settle


@pytest.mark.parametrize("verb", ["acknowledge", "ack_nowait", "basic_ack"])
def test_acknowledged_message_is_gone(channel: Any, connect: Connect, verb: str) -> None:
    for number in range(2):
        publish(channel, number)
    source = connect()
    mine = source.default_channel
    taken = [get(mine), *drain(source, consume(mine, prefetch=2), 1)]
    mine.start(taken[0].delivery_tag)
    for message in taken:
        getattr(mine, verb)(message.delivery_tag)
    assert counts(mine) == EMPTY
    assert mine.lost_deliveries == set()
    source.release()
    assert counts(channel) == EMPTY


def test_acknowledging_with_multiple_covers_what_came_before(channel: Any) -> None:
    for number in range(4):
        publish(channel, number)
    taken = [get(channel) for _ in range(4)]
    taken[2].ack(multiple=True)
    assert counts(channel) == (0, 1, 0)
    taken[3].requeue()
    assert bodies(channel) == [3]


def test_rejected_message_is_dropped(channel: Any) -> None:
    publish(channel, "bad")
    get(channel).reject()
    assert counts(channel) == EMPTY


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_requeued_message_is_the_next_or_the_last_and_says_so(
    channel: Any, connect: Connect, queue_type: str, front: bool
) -> None:
    declare(channel, queue_type)
    for number in range(3):
        publish(channel, number)
    order = peeked(channel)
    for deliveries in (1, 2):
        first = get(channel)
        requeue(first, front=front)
        order = order if front else [*order[1:], order[0]]
        assert peeked(channel) == order
        if not front:
            continue
        again = get(connect().default_channel)
        assert again.payload == order[0]
        assert again.headers["redelivered"] is True
        assert again.properties["delivery_info"]["redelivered"] is True
        assert again.headers["x-delivery-count"] == 2 * deliveries - 1
        assert again.delivery_tag != first.delivery_tag
        requeue(again, front=True)
    assert bodies(channel) == order


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
def test_several_requeued_messages_keep_their_order(channel: Any, queue_type: str) -> None:
    declare(channel, queue_type)
    for number in range(5):
        publish(channel, number)
    order = peeked(channel)
    held = [get(channel) for _ in range(3)]
    for message in held:
        requeue(message, front=False)
    assert peeked(channel) == order[3:] + order[:3]
    held = [get(channel) for _ in range(3)]
    for message in reversed(held):
        requeue(message, front=True)
    assert bodies(channel) == order[3:] + order[:3]


def test_requeued_message_is_the_next_or_the_last_of_its_priority(channel: Any) -> None:
    declare(channel, "priority")
    publish(channel, "low", priority=0)
    publish(channel, "lower", priority=0)
    low = get(channel)
    publish(channel, "high", priority=9)
    requeue(low, front=True)
    assert peeked(channel) == ["high", "low", "lower"]
    requeue(get(channel), front=False)
    get(channel).ack()
    requeue(get(channel), front=False)
    assert bodies(channel) == ["lower", "low"]


@pytest.mark.parametrize("how", ["requeue", "close"])
def test_only_a_prefetched_message_that_was_not_started_keeps_its_count(
    channel: Any, connect: Connect, how: str
) -> None:
    for body in ("prefetched", "started"):
        publish(channel, body)
    source = connect()
    mine = source.default_channel
    prefetched, started = drain(source, consume(mine, prefetch=2), 2)
    mine.start(started.delivery_tag)
    if how == "requeue":
        mine.basic_qos(0, 1, False)
        requeue(started, front=True)
        requeue(prefetched, front=True)
    source.release()
    again = [get(channel), get(channel)]
    assert [message.payload for message in again] == ["prefetched", "started"]
    assert [message.headers["redelivered"] for message in again] == [True, True]
    assert [message.headers.get("x-delivery-count") for message in again] == [None, 1]


def test_requeued_message_is_what_was_published(channel: Any) -> None:
    body = {"empty": [], "none": {}, "big": 2**70, "small": 1e-300, "text": "\u2028ü"}
    headers = {"color": "red", "list": [], "map": {}}
    publish(channel, body, headers=headers, priority=3)
    headers["color"] = "blue"
    get(channel).requeue()
    again = get(channel)
    assert again.payload == body
    assert {name: again.headers[name] for name in headers} == {"color": "red", "list": [], "map": {}}
    assert again.properties["priority"] == 3
    assert again.delivery_info["routing_key"] == "q"


# --- replaced


def in_place(
    channel: Any, body: Any, *, queue: str = "other", delay: float = 0.0, priority: int = 0, **held: Any
) -> None:
    """Put a message in the place of a held one."""
    properties = {"delay": delay} if delay else {}
    message = channel.prepare_message(
        dumps(body), priority, "application/json", "utf-8", headers={"new": True}, properties=properties
    )
    channel.replace(held["message"].delivery_tag, message, queue)


def test_replaced_message_is_forgotten_and_the_other_is_in_its_queue(channel: Any) -> None:
    publish(channel, "old")
    in_place(channel, {"new": "ü"}, message=get(channel))
    assert channel.queue_type("other") == "fifo"
    new = get(channel, "other")
    assert (new.payload, new.headers, new.delivery_info["routing_key"]) == ({"new": "ü"}, {"new": True}, "other")
    assert counts(channel) == (0, 0, 0)
    assert not channel.lost_deliveries


def test_consumer_whose_message_was_replaced_gets_the_next(channel: Any) -> None:
    for body in ("old", "next"):
        publish(channel, body)
    received = consume(channel, prefetch=1)
    source = channel.connection.client
    in_place(channel, "new", message=drain(source, received, 1)[0])
    assert drain(source, received, 2)[1].payload == "next"
    assert counts(channel) == (0, 1, 0)


def test_message_in_the_place_of_another_may_be_delayed_and_has_its_priority(channel: Any) -> None:
    declare(channel, "priority")
    for body in ("a", "b", "c"):
        publish(channel, body)
    in_place(channel, "late", queue="q", delay=3600, message=get(channel))
    in_place(channel, "low", queue="q", priority=0, message=get(channel))
    in_place(channel, "high", queue="q", priority=9, message=get(channel))
    assert counts(channel) == (2, 0, 1)
    assert bodies(channel) == ["high", "low"]


def test_message_that_somebody_else_has_by_now_is_not_replaced(connect: Connect) -> None:
    late, again = take_back(connect)
    in_place(late.channel, "new", message=late)
    assert late.channel.lost_deliveries == {late.delivery_tag}
    assert counts(late.channel) == (0, 1, 0)
    assert counts(late.channel, "other") == (0, 0, 0)
    again.ack()


# --- taken back, closed


def take_back(connect: Connect) -> tuple[Any, Any]:
    """Take a message, start and release it, and take it again elsewhere; both deliveries."""
    mine, other = (connect(lease=2.0).default_channel for _ in range(2))
    publish(mine, "a")
    first = get(mine)
    mine.start(first.delivery_tag)
    mine.release(first.delivery_tag)
    taken: list[Any] = []

    def back() -> bool:
        taken.append(other.basic_get("q"))
        return taken[-1] is not None

    wait_until(back, "it is back")
    return first, taken[-1]


def test_released_message_comes_back_as_if_its_holder_had_vanished(connect: Connect) -> None:
    first, again = take_back(connect)
    assert again.payload == "a"
    assert again.delivery_tag != first.delivery_tag
    assert again.headers["redelivered"] is True
    assert again.headers["x-attempts"] == 1
    assert again.headers["x-delivery-count"] == 1


@pytest.mark.parametrize("verb", ["acknowledge", "ack_nowait", "basic_ack"])
def test_late_acknowledgement_is_reported_and_touches_nobody_elses_delivery(
    connect: Connect, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    late, again = take_back(connect)
    getattr(late.channel, verb)(late.delivery_tag)
    assert counts(late.channel) == (0, 1, 0)
    assert late.channel.lost_deliveries == {late.delivery_tag}
    assert late.delivery_tag in caplog.text
    again.requeue()
    assert bodies(again.channel) == ["a"]


def test_late_reject_does_not_double_the_message(connect: Connect) -> None:
    late, again = take_back(connect)
    late.requeue()
    assert counts(again.channel) == (0, 1, 0)


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
@pytest.mark.parametrize("how", ["get", "consume"])
def test_closed_channel_puts_back_what_it_held_in_the_original_order(
    channel: Any, connect: Connect, queue_type: str, how: str
) -> None:
    declare(channel, queue_type)
    for number in range(6):
        publish(channel, number, priority=number % 3 * 4 if queue_type == "priority" else 0)
    before = peeked(channel)
    source = connect()
    mine = source.default_channel
    if how == "get":
        for _ in range(4):
            get(mine)
    else:
        drain(source, consume(mine, prefetch=4), 4)
    assert counts(channel) == (2, 4, 0)
    mine.close()
    assert counts(channel) == (6, 0, 0)
    assert channel.queue_stats("q")["consumers"] == 0
    assert peeked(channel) == before


def test_released_connection_puts_back_what_its_channels_held(channel: Any, connect: Connect) -> None:
    for body in "ab":
        publish(channel, body)
    source = connect()
    get(source.channel())
    get(source.default_channel)
    source.release()
    assert sorted(bodies(channel)) == ["a", "b"]


@pytest.mark.parametrize("how", ["requeue", "close"])
def test_message_that_comes_back_wakes_a_waiting_consumer(channel: Any, connect: Connect, how: str) -> None:
    publish(channel, "again")
    held, source = get(connect().default_channel), connect()
    received = consume(source.default_channel)
    with pytest.raises(TimeoutError):
        source.drain_events(timeout=0.02)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(drain, source, received, 1)
        (held.requeue if how == "requeue" else held.channel.close)()
        done.result(PATIENCE)
    assert received[0].payload == "again"


def test_brokers_of_different_urls_are_strangers(channel: Any, transport: Transport) -> None:
    publish(channel, "here", mandatory=True)
    other = {"memory": f"{transport.url}-other", "redis": f"{transport.url.rpartition('/')[0]}/15"}[transport.name]
    with connections_to(other) as connect:
        assert connect().default_channel.queue_type("q") is None
