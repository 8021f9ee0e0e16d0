"""What is the memory transport's own; what it shares with others is in ``transports/test_contract.py``."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import ChannelError

from mindtrace_jobs.transports.memory import Transport
from tests.jobs.transports.kit import (
    Connect,
    bodies,
    connections_to,
    consume,
    counts,
    declare,
    drain_all,
    get,
    peeked,
    publish,
    wait_for,
)


@pytest.fixture
def connect(memory_url: str) -> Iterator[Connect]:
    """Opens connections to one empty broker."""
    with connections_to(memory_url) as connect:
        yield connect


@pytest.fixture
def channel(connect: Connect) -> Any:
    return connect().channel()


# --- which broker


@pytest.mark.parametrize(
    ("url", "options", "broker_id"),
    [
        ("memory://", {}, "default"),
        ("memory:///", {}, "default"),
        ("memory://localhost//", {}, "default"),
        ("memory:///cameras", {}, "cameras"),
        ("memory://cameras", {}, "cameras"),
        ("memory://site/cameras", {}, "site/cameras"),
        ("memory://cameras", {"broker_id": "other"}, "other"),
    ],
)
def test_url_or_option_names_the_broker(url: str, options: dict[str, str], broker_id: str) -> None:
    with Connection(url, transport=Transport, transport_options=options) as connection:
        assert connection.transport.broker.broker_id == broker_id


# --- queues


def test_publishing_to_an_unknown_queue_declares_it_as_fifo(channel: Any) -> None:
    publish(channel, "first")
    assert channel.queue_type("q") == "fifo"


def test_plain_queue_ignores_priorities(channel: Any) -> None:
    channel.queue_declare("q")
    for body in ("a0", "b9", "c5"):
        publish(channel, body, priority=int(body[1]))
    assert peeked(channel) == bodies(channel) == ["a0", "b9", "c5"]


@pytest.mark.parametrize(("priority", "level"), [(42, 9), (-3, 0), ("7", 7), ("high", 0), (None, 0), (float("inf"), 0)])
def test_odd_priority_counts_as_the_nearest_that_exists(channel: Any, priority: Any, level: int) -> None:
    declare(channel, "priority")
    message = channel.prepare_message("odd")
    message["properties"]["priority"] = priority
    channel.basic_publish(message, "", "q")
    for each in range(10):
        publish(channel, str(each), priority=each)
    expected = [str(each) for each in range(9, -1, -1)]
    expected.insert(9 - level, "odd")
    assert [raw["body"].strip('"') for raw in channel.peek("q", 100)] == expected


def test_auto_delete_queue_goes_with_its_last_consumer(channel: Any, connect: Connect) -> None:
    other = connect().channel()
    channel.queue_declare("q", auto_delete=True)
    for each in (channel, other):
        each.basic_consume("q", no_ack=False, callback=print, consumer_tag="c")
    channel.basic_cancel("c")
    assert channel.queue_type("q") == ""
    other.close()
    assert channel.queue_type("q") is None


def test_declaring_a_queue_tells_how_many_consumers_it_has(channel: Any) -> None:
    consume(channel, "q")
    assert channel.queue_declare("q").consumer_count == 1


# --- exchanges


def test_fanout_exchange_leaves_a_copy_in_every_bound_queue_also_without_the_argument(channel: Any) -> None:
    channel.exchange_declare("x", "fanout")
    for queue in ("q1", "q2"):
        channel.queue_declare(queue)
        channel.queue_bind(queue, "x", "")
    publish(channel, "news", exchange="x", routing_key="whatever", mandatory=True)
    first = get(channel, "q1")
    first.headers["mine"] = True
    first.requeue()
    assert "mine" not in get(channel, "q2").headers
    assert counts(channel, "q1") == (1, 0, 0)


def test_exchange_of_another_or_of_no_known_type_is_refused(channel: Any) -> None:
    channel.exchange_declare("x", "direct")
    for name, kind in (("x", "topic"), ("y", "headers")):
        with pytest.raises(ChannelError, match=f"PRECONDITION_FAILED.*{name if name == 'x' else kind}") as caught:
            channel.exchange_declare(name, kind)
        assert caught.value.reply_code == 406


def test_exchange_with_bindings_is_not_deleted_if_unused_is_asked_for(channel: Any) -> None:
    channel.exchange_declare("x", "direct")
    channel.queue_declare("q")
    channel.queue_bind("q", "x", "key")
    channel.exchange_delete("x", if_unused=True)
    channel.exchange_declare("x", passive=True)
    channel.queue_unbind("q", "x", "key")
    channel.exchange_delete("x", if_unused=True)
    with pytest.raises(ChannelError, match="NOT_FOUND"):
        channel.exchange_declare("x", passive=True)


# --- messages


def test_holder_and_publisher_cannot_change_what_is_queued(channel: Any) -> None:
    headers = {"color": "red"}
    body = bytearray(b"bytes")
    message = channel.prepare_message(body, headers=headers)
    channel.basic_publish(message, "", "q")
    headers["color"] = "blue"
    body[:] = b"other"
    message["properties"]["priority"] = 9
    held = get(channel)
    held.headers["color"] = "green"
    held.properties["priority"] = 8
    held.delivery_info["routing_key"] = "elsewhere"
    held.requeue()
    again = get(channel)
    assert (again.headers["color"], again.properties["priority"], again.body) == ("red", 0, b"bytes")
    assert again.delivery_info["routing_key"] == "q"


def test_body_encoding_option_of_kombu_still_works(connect: Connect) -> None:
    channel = connect(body_encoding="base64").channel()
    publish(channel, "text")
    assert channel.peek("q", 1)[0]["body"] != '"text"'
    assert get(connect().channel()).payload == "text"


def test_recovering_requeues_everything_held_and_counts_no_loss(channel: Any) -> None:
    for body in "abcd":
        publish(channel, body)
    taken = [get(channel) for _ in range(3)]
    channel.start(taken[0].delivery_tag)
    with pytest.raises(NotImplementedError):
        channel.basic_recover(requeue=False)
    channel.basic_recover(requeue=True)
    assert peeked(channel) == ["a", "b", "c", "d"]
    assert "x-attempts" not in get(channel).headers


def test_channel_that_is_dropped_without_being_closed_puts_back_what_it_held(channel: Any, memory_url: str) -> None:
    publish(channel, "a")
    with connections_to(memory_url) as connect:
        lost = Connection(connect().as_uri())
    lost_channel = lost.channel()
    lost_channel.start(get(lost_channel).delivery_tag)
    consume(lost_channel, "other")
    del lost, lost_channel
    gc.collect()
    wait_for(channel, (1, 0, 0))
    again = get(channel)
    assert again.payload == "a"
    assert again.headers["x-attempts"] == 1
    assert channel.queue_stats("other")["consumers"] == 0


def test_acknowledging_after_the_channel_was_closed_is_reported_and_touches_nobody(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = connect().channel(), connect().channel()
    publish(first, "a")
    late = get(first)
    first.close()
    other = get(second)
    late.ack()
    assert "will run again" in caplog.text
    assert first.lost_deliveries == {late.delivery_tag}
    assert counts(second) == (0, 1, 0)
    other.requeue()
    assert bodies(second) == ["a"]


# --- consumers


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


def test_kombus_view_of_the_prefetch_count_is_the_brokers(channel: Any) -> None:
    channel.qos.prefetch_count = 1
    received = consume(channel, "q", prefetch=channel.qos.prefetch_count)
    publish(channel, "a")
    assert channel.qos.can_consume()
    drain_all(channel.connection.client)
    assert not channel.qos.can_consume()
    channel.qos.reject(received[0].delivery_tag, requeue=True)
    drain_all(channel.connection.client)
    channel.qos.ack(received[1].delivery_tag)
    assert counts(channel) == (0, 0, 0)


def test_reused_consumer_tag_is_refused(channel: Any) -> None:
    channel.basic_consume("q", no_ack=False, callback=print, consumer_tag="c")
    with pytest.raises(ChannelError, match="consumer tag 'c'"):
        channel.basic_consume("q2", no_ack=False, callback=print, consumer_tag="c")


def test_listeners_of_one_channel_are_not_those_of_another(connect: Connect) -> None:
    one, other = connect().channel(), connect().channel()
    one.events["basic_return"].add(print)
    assert not other.events["basic_return"]
