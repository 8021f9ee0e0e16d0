"""The memory transport keeps the contract of the transports: exchanges, and delivery to consumers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Consumer, Exchange, Queue
from kombu.exceptions import ChannelError

from tests.jobs.memory_transport_kit import PATIENCE, Connect, bodies, counts, drain_all, get, own_broker, publish


@pytest.fixture
def connect() -> Iterator[Connect]:
    with own_broker() as connect:
        yield connect


@pytest.fixture
def channel(connect: Connect) -> Any:
    return connect().channel()


# --- exchanges


def test_direct_exchange_declared_by_another_connection_delivers_by_key(connect: Connect) -> None:
    first, second = connect().channel(), connect().channel()
    first.exchange_declare("x", "direct", durable=True)
    for queue, key in (("q1", "red"), ("q2", "blue"), ("q3", "red")):
        first.queue_declare(queue)
        first.queue_bind(queue, "x", key)
    publish(second, "hello", exchange="x", routing_key="red", mandatory=True)
    assert [bodies(second, queue) for queue in ("q1", "q2", "q3")] == [["hello"], [], ["hello"]]
    first.queue_unbind("q1", "x", "red")
    publish(second, "again", exchange="x", routing_key="red")
    assert [bodies(second, queue) for queue in ("q1", "q3")] == [[], ["again"]]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.*", ["a.b"], ["a", "a.b.c", "b.a", "aXb"]),
        ("a.#", ["a", "a.b", "a.b.c"], ["b", "ab", "b.a"]),
        ("#.a", ["a", "b.a", "c.b.a"], ["ba", "a.b"]),
        ("a.#.b", ["a.b", "a.x.b", "a.x.y.b"], ["a", "b", "a.bb", "axb"]),
        ("#", ["", "a", "a.b"], []),
        ("#.#", ["", "a", "a.b"], []),
        ("*.#.#.*", ["a.b", "a.b.c"], ["a", ""]),
        ("a+.b", ["a+.b"], ["aa.b"]),
        ("a", ["a"], ["a\n", "a.a", "aa"]),
    ],
)
def test_topic_patterns_mean_what_amqp_says(channel: Any, pattern: str, matching: list[str], others: list[str]) -> None:
    channel.exchange_declare("x", "topic")
    channel.queue_declare("q")
    channel.queue_bind("q", "x", pattern)
    for key in [*matching, *others]:
        publish(channel, key, exchange="x", routing_key=key)
    assert bodies(channel) == matching


@pytest.mark.parametrize("arguments", [None, {"x-job-exchange": True}])
def test_fanout_exchange_leaves_a_copy_in_every_bound_queue(channel: Any, arguments: dict[str, bool] | None) -> None:
    channel.exchange_declare("x", "fanout", arguments=arguments)
    for queue in ("q1", "q2"):
        channel.queue_declare(queue)
        channel.queue_bind(queue, "x", "")
    publish(channel, "news", exchange="x", routing_key="whatever", mandatory=True)
    first = get(channel, "q1")
    first.headers["mine"] = True
    first.requeue()
    assert "mine" not in get(channel, "q2").headers
    assert counts(channel, "q1") == (1, 0, 0)


def test_mandatory_message_that_no_queue_takes_is_refused(channel: Any) -> None:
    channel.exchange_declare("x", "direct")
    with pytest.raises(ChannelError, match="NO_ROUTE") as caught:
        publish(channel, "lost", exchange="x", routing_key="nobody", mandatory=True)
    assert caught.value.reply_code == 312
    with pytest.raises(ChannelError, match="no exchange 'y'") as caught:
        publish(channel, "lost", exchange="y", routing_key="nobody", mandatory=True)
    assert caught.value.reply_code == 404
    publish(channel, "dropped, as AMQP does", exchange="x", routing_key="nobody")


def test_mandatory_message_to_a_queue_arrives(channel: Any) -> None:
    publish(channel, "a", mandatory=True, immediate=True, timeout=1.0, confirm_timeout=1.0)
    assert bodies(channel) == ["a"]


def test_deleting_an_exchange_leaves_its_queues_and_forgets_its_bindings(channel: Any) -> None:
    channel.exchange_delete("unknown")
    channel.exchange_declare("x", "direct")
    channel.queue_declare("q")
    channel.queue_bind("q", "x", "key")
    channel.exchange_delete("x", if_unused=True)
    channel.exchange_declare("x", passive=True)
    channel.exchange_delete("x")
    assert channel.queue_type("q") == ""
    channel.exchange_declare("x", "direct")
    with pytest.raises(ChannelError, match="NO_ROUTE"):
        publish(channel, "a", exchange="x", routing_key="key", mandatory=True)
    channel.queue_bind("q", "x", "key")
    publish(channel, "b", exchange="x", routing_key="key", mandatory=True)
    assert bodies(channel) == ["b"]


def test_mistakes_with_exchanges_are_channel_errors(channel: Any) -> None:
    channel.exchange_declare("x", "direct")
    with pytest.raises(ChannelError, match="PRECONDITION_FAILED"):
        channel.exchange_declare("x", "topic")
    with pytest.raises(ChannelError, match="headers"):
        channel.exchange_declare("y", "headers")
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        channel.exchange_declare("y", passive=True)
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        channel.queue_bind("q", "y", "key")


def test_kombu_entities_declare_bind_and_deliver(connect: Connect) -> None:
    connection = connect()
    queue = Queue("videos", Exchange("media", type="topic"), routing_key="video.#")
    received: list[Any] = []

    def receive(body: Any, message: Any) -> None:
        received.append(body)
        message.ack()

    with Consumer(connection.channel(), [queue], callbacks=[receive]):
        publish(connect().channel(), "clip", exchange="media", routing_key="video.mp4", declare=[queue])
        connection.drain_events(timeout=PATIENCE)
    assert received == ["clip"]


# --- draining


def test_drain_events_without_time_delivers_what_is_ready_and_no_more(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    publish(channel, "a")
    received: list[Any] = []
    with Consumer(channel, [Queue("q")], on_message=received.append):
        connection.drain_events(timeout=0)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.02)
    assert [message.payload for message in received] == ["a"]


def test_prefetch_limits_what_a_channel_holds(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    for body in "abcd":
        publish(channel, body)
    received: list[Any] = []
    channel.basic_qos(0, 2, False)
    with Consumer(channel, [Queue("q")], on_message=received.append):
        drain_all(connection)
        assert len(received) == 2
        assert get(channel).payload == "c", "basic_get is not limited"
        received[0].ack()
        drain_all(connection)
        assert [message.payload for message in received] == ["a", "b", "d"]


def test_consumers_and_channels_of_one_connection_take_turns_and_get_their_own_messages(connect: Connect) -> None:
    connection = connect()
    channels = [connection.channel() for _ in range(2)]
    received: list[tuple[str, Any, Any]] = []
    for number, channel in enumerate(channels):
        for queue in ("q1", "q2"):
            tag = f"{number}{queue}"
            channel.basic_consume(
                queue,
                no_ack=False,
                callback=lambda message, tag=tag, channel=channel: received.append((tag, message, channel)),
                consumer_tag=tag,
            )
    for body in "abcd":
        publish(channels[0], body, "q1")
        publish(channels[0], body, "q2")
    drain_all(connection)
    assert all(message.channel is channel for _, message, channel in received)
    assert all(message.delivery_info["routing_key"] in tag for tag, message, _ in received)
    by_consumer = {tag: sum(1 for each, _, _ in received if each == tag) for tag, _, _ in received}
    assert by_consumer == {"0q1": 2, "0q2": 2, "1q1": 2, "1q2": 2}
    for _, message, _ in received:
        message.ack()
    assert counts(channels[0], "q1") == counts(channels[0], "q2") == (0, 0, 0)


def test_reused_consumer_tag_is_refused(channel: Any) -> None:
    channel.basic_consume("q", no_ack=False, callback=print, consumer_tag="c")
    with pytest.raises(ChannelError, match="consumer tag 'c'"):
        channel.basic_consume("q2", no_ack=False, callback=print, consumer_tag="c")
    channel.basic_cancel("c")
    channel.basic_cancel("c")


def test_listeners_of_one_channel_are_not_those_of_another(connect: Connect) -> None:
    one, other = connect().channel(), connect().channel()
    one.events["basic_return"].add(print)
    assert not other.events["basic_return"]


def test_cancelled_consumer_gets_nothing_more_and_keeps_what_it_holds(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    received: list[Any] = []
    consumer = Consumer(channel, [Queue("q")], on_message=received.append)
    consumer.consume()
    publish(channel, "a")
    connection.drain_events(timeout=PATIENCE)
    consumer.cancel()
    publish(channel, "b")
    drain_all(connection)
    assert counts(channel) == (1, 1, 0)
    received[0].ack()
    assert counts(channel) == (1, 0, 0)
