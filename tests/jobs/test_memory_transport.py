"""The memory transport keeps the contract of the transports: queues and what is done with their messages."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Producer, Queue
from kombu.exceptions import ChannelError

from mindtrace_jobs.transports.memory import Transport
from mindtrace_jobs.transports.protocol import JobsChannel
from tests.jobs.memory_transport_kit import PATIENCE, Connect, bodies, counts, declare, get, own_broker, publish, until


@pytest.fixture
def connect() -> Iterator[Connect]:
    with own_broker() as connect:
        yield connect


@pytest.fixture
def channel(connect: Connect) -> Any:
    return connect().channel()


# --- which broker


def test_channel_offers_what_the_protocol_names(channel: Any) -> None:
    assert isinstance(channel, JobsChannel)


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


def test_connections_of_one_id_share_queues_and_those_of_another_do_not(connect: Connect) -> None:
    publish(connect().channel(), "here")
    with Connection("memory://", transport=Transport, transport_options={"broker_id": str(uuid4())}) as stranger:
        assert stranger.channel().queue_type("q") is None
    assert get(connect().channel()).payload == "here"


def test_messages_outlive_the_connection_that_published_them(connect: Connect) -> None:
    with connect() as publisher:
        publish(publisher.channel(), "kept")
    assert bodies(connect().channel()) == ["kept"]


# --- queue types


def test_first_declaration_of_a_queue_decides_its_type(channel: Any, connect: Connect) -> None:
    declare(channel, "stack")
    declare(connect().channel(), "priority")
    channel.queue_declare("q")
    assert connect().channel().queue_type("q") == "stack"


def test_queue_declared_without_a_type_is_plain(channel: Any) -> None:
    channel.queue_declare("q")
    assert channel.queue_type("q") == ""
    assert channel.queue_type("unknown") is None


def test_publishing_to_an_unknown_queue_declares_it_as_fifo(channel: Any) -> None:
    publish(channel, "first")
    assert channel.queue_type("q") == "fifo"


def test_unknown_queue_type_is_refused(channel: Any) -> None:
    with pytest.raises(ChannelError, match="lifo"):
        declare(channel, "lifo")
    assert channel.queue_type("q") is None


def test_passive_declaration_of_an_unknown_queue_is_a_404(channel: Any) -> None:
    with pytest.raises(ChannelError, match="no queue 'q'") as caught:
        channel.queue_declare("q", passive=True)
    assert caught.value.reply_code == 404
    channel.queue_declare("q")
    publish(channel, "one")
    assert channel.queue_declare("q", passive=True).message_count == 1


@pytest.mark.parametrize(
    ("queue_type", "expected"),
    [
        ("", ["a0", "b9", "c5", "d9", "e-", "f7"]),
        ("fifo", ["a0", "b9", "c5", "d9", "e-", "f7"]),
        ("priority", ["b9", "d9", "f7", "c5", "a0", "e-"]),
        ("stack", ["f7", "e-", "d9", "c5", "b9", "a0"]),
    ],
)
def test_queue_type_decides_the_order(channel: Any, queue_type: str, expected: list[str]) -> None:
    channel.queue_declare("q", arguments={"x-job-queue": queue_type} if queue_type else None)
    for body in ["a0", "b9", "c5", "d9", "e-", "f7"]:
        publish(channel, body, priority=None if body[1] == "-" else int(body[1]))
    peeked = [channel.Message(raw, channel=channel).payload for raw in channel.peek("q", 100)]
    assert peeked == expected
    assert bodies(channel) == expected


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


# --- delay


def test_delayed_message_is_held_back_and_then_delivered_without_its_delay(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    declare(channel, "fifo")
    due = time.monotonic() + 0.2
    publish(channel, "later", delay=0.2)
    publish(channel, "much later", delay=3600.0)
    assert counts(channel) == (0, 0, 2)
    assert channel.peek("q", 10) == []
    assert channel.basic_get("q") is None
    arrived: list[tuple[float, Any]] = []
    with Consumer(channel, [Queue("q")], on_message=lambda message: arrived.append((time.monotonic(), message))):
        connection.drain_events(timeout=PATIENCE)
    moment, message = arrived[0]
    assert moment >= due
    assert message.payload == "later"
    assert "delay" not in message.properties
    message.requeue()
    assert get(channel).payload == "later"
    assert counts(channel) == (0, 1, 1)


def test_delayed_messages_come_in_the_order_they_are_due(channel: Any) -> None:
    declare(channel, "fifo")
    for name, delay in (("third", 0.06), ("first", 0.02), ("second", 0.04)):
        publish(channel, name, delay=delay)
    until(lambda: counts(channel) == (3, 0, 0))
    assert bodies(channel) == ["first", "second", "third"]


def test_delay_of_zero_or_less_is_no_delay(channel: Any) -> None:
    publish(channel, "a", delay=0)
    publish(channel, "b", delay=-1.5)
    assert bodies(channel) == ["a", "b"]


def test_delayed_message_that_is_due_counts_as_ready(channel: Any) -> None:
    publish(channel, "soon", delay=0.02)
    until(lambda: counts(channel) == (1, 0, 0))
    assert channel.queue_declare("q", passive=True).message_count == 1


# --- counting and looking


def test_size_counts_ready_messages_only(channel: Any) -> None:
    for body in "abc":
        publish(channel, body)
    publish(channel, "d", delay=3600)
    held = get(channel)
    assert counts(channel) == (2, 1, 1)
    assert channel.queue_declare("q", passive=True).message_count == 2
    held.ack()
    assert counts(channel) == (2, 0, 1)


def test_consumers_of_every_connection_are_counted(connect: Connect) -> None:
    first, second = connect(), connect()
    one, other = first.channel(), second.channel()
    declare(one, "fifo")
    one.basic_consume("q", no_ack=False, callback=print, consumer_tag="a")
    other.basic_consume("q", no_ack=False, callback=print, consumer_tag="a")
    assert one.queue_stats("q")["consumers"] == 2
    one.basic_cancel("a")
    assert one.queue_stats("q")["consumers"] == 1
    second.release()
    assert one.queue_stats("q")["consumers"] == 0


def test_unknown_queue_has_nothing_in_it(channel: Any) -> None:
    assert channel.queue_stats("q") == {"ready": 0, "unacknowledged": 0, "delayed": 0, "consumers": 0}
    assert channel.peek("q", 5) == []
    assert channel.basic_get("q") is None
    assert channel.queue_purge("q") == 0
    assert channel.queue_type("q") is None


def test_peek_takes_nothing_and_what_it_shows_cannot_be_acknowledged(channel: Any) -> None:
    for body in "abc":
        publish(channel, body)
    raw = channel.peek("q", 2)
    seen = [channel.Message(each, channel=channel) for each in raw]
    assert [message.payload for message in seen] == ["a", "b"]
    raw[0]["headers"]["changed"] = True
    raw[0]["properties"]["delivery_info"]["changed"] = True
    seen[0].ack()
    assert counts(channel) == (3, 0, 0)
    taken = get(channel)
    assert "changed" not in taken.headers
    assert "changed" not in taken.delivery_info
    assert channel.peek("q", 0) == []


# --- take, acknowledge, give back


def test_message_is_held_until_it_is_acknowledged(channel: Any, connect: Connect) -> None:
    publish(channel, "once")
    message = get(channel)
    assert not message.delivery_info.get("redelivered")
    assert connect().channel().basic_get("q") is None
    message.ack()
    channel.close()
    assert counts(connect().channel()) == (0, 0, 0)


def test_message_taken_without_acknowledgement_is_gone(channel: Any, connect: Connect) -> None:
    publish(channel, "gone")
    message = get(channel, no_ack=True)
    assert counts(channel) == (0, 0, 0)
    message.ack()  # harmless
    channel.close()
    assert connect().channel().basic_get("q") is None


def test_requeued_message_is_the_next_and_says_so(channel: Any) -> None:
    for body in "ab":
        publish(channel, body)
    get(channel).requeue()
    again = get(channel)
    assert again.payload == "a"
    assert again.headers["redelivered"] is True
    assert again.properties["delivery_info"]["redelivered"] is True
    assert again.headers["x-delivery-count"] == 1
    again.requeue()
    assert get(channel).headers["x-delivery-count"] == 2


def test_rejected_message_is_dropped(channel: Any) -> None:
    publish(channel, "bad")
    get(channel).reject()
    assert counts(channel) == (0, 0, 0)


@pytest.mark.parametrize("queue_type", ["", "fifo", "stack", "priority"])
def test_closed_channel_puts_back_what_it_held_in_order(channel: Any, connect: Connect, queue_type: str) -> None:
    channel.queue_declare("q", arguments={"x-job-queue": queue_type})
    for body in "abcdef":
        publish(channel, body, priority=3)
    before = [raw["body"] for raw in channel.peek("q", 10)]
    holder = connect().channel()
    for _ in range(4):
        get(holder)
    holder.close()
    assert [raw["body"] for raw in channel.peek("q", 10)] == before


def test_released_connection_puts_back_what_it_held(channel: Any, connect: Connect) -> None:
    publish(channel, "a")
    other = connect()
    get(other.channel())
    other.release()
    assert bodies(channel) == ["a"]


def test_channel_that_is_dropped_without_being_closed_puts_back_what_it_held(channel: Any, connect: Connect) -> None:
    publish(channel, "a")
    lost = Connection("memory://", transport=Transport, transport_options=connect().transport_options)
    lost_channel = lost.channel()
    lost_channel.mark_started(get(lost_channel).delivery_tag)
    lost_channel.basic_consume("other", no_ack=False, callback=print, consumer_tag="c")
    del lost, lost_channel
    gc.collect()
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


def test_acknowledging_several_at_once_covers_the_earlier_ones(channel: Any) -> None:
    for body in "abcd":
        publish(channel, body)
    held = [get(channel) for _ in range(4)]
    held[2].ack(multiple=True)
    assert counts(channel) == (0, 1, 0)
    channel.basic_recover(requeue=True)
    assert bodies(channel) == ["d"]


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


def test_body_and_content_type_arrive_as_they_were(channel: Any) -> None:
    body = bytes(range(256))
    Producer(channel, auto_declare=False).publish(
        body, exchange="", routing_key="q", content_type="application/x-own", content_encoding="binary"
    )
    message = get(channel)
    assert (message.body, message.content_type, message.content_encoding) == (body, "application/x-own", "binary")


def test_body_encoding_option_of_kombu_still_works(connect: Connect) -> None:
    options = {**connect().transport_options, "body_encoding": "base64"}
    with Connection("memory://", transport=Transport, transport_options=options) as connection:
        channel = connection.channel()
        publish(channel, "text")
        assert channel.peek("q", 1)[0]["body"] != '"text"'
        assert get(connect().channel()).payload == "text"


# --- attempts


def test_only_a_started_delivery_whose_holder_vanished_counts_as_an_attempt(channel: Any, connect: Connect) -> None:
    for body in ("started", "held"):
        publish(channel, body)
    holder = connect().channel()
    first, _ = get(holder), get(holder)
    holder.mark_started(first.delivery_tag)
    holder.close()
    started, held = get(channel), get(channel)
    assert started.headers["x-attempts"] == 1
    assert "x-attempts" not in held.headers
    channel.mark_started(started.delivery_tag)
    started.requeue()
    again = get(channel)
    assert again.headers["x-attempts"] == 1, "given back alive: not an attempt that failed"
    assert again.headers["x-delivery-count"] == 2


def test_prefetched_message_that_is_given_back_keeps_its_count(connect: Connect) -> None:
    connection = connect()
    channel = connection.channel()
    for body in "ab":
        publish(channel, body)
    received: list[Any] = []
    with Consumer(channel, [Queue("q")], on_message=received.append):
        connection.drain_events(timeout=PATIENCE)
        connection.drain_events(timeout=PATIENCE)
    received[0].requeue()
    channel.close()
    other = connect().channel()
    for body in "ba":  # a went back to the front first, then b
        message = get(other)
        assert message.payload == body
        assert message.headers["redelivered"] is True
        assert "x-delivery-count" not in message.headers


def test_marking_an_unknown_delivery_changes_nothing(channel: Any) -> None:
    channel.mark_started("unknown")
    channel.basic_reject("unknown", requeue=True)
    channel.basic_ack("unknown")


# --- purge and delete


def test_purge_removes_ready_and_delayed_messages_and_spares_held_ones(channel: Any) -> None:
    for body in "abc":
        publish(channel, body)
    publish(channel, "d", delay=3600)
    held = get(channel)
    assert channel.queue_purge("q") == 3
    assert counts(channel) == (0, 1, 0)
    held.requeue()
    assert bodies(channel) == ["a"]


def test_deleted_queue_never_comes_back_with_old_messages(channel: Any, connect: Connect) -> None:
    other = connect().channel()
    declare(other, "stack")
    for body in "abc":
        publish(channel, body)
    publish(channel, "d", delay=3600)
    held = get(channel)
    other.queue_delete("q")
    assert channel.queue_type("q") is None
    declare(other, "fifo")
    held.requeue()
    channel.close()
    assert counts(other) == (0, 0, 0)
    assert other.queue_type("q") == "fifo"


def test_deleted_queue_loses_its_bindings(channel: Any) -> None:
    channel.exchange_declare("x", "direct")
    channel.queue_declare("q")
    channel.queue_bind("q", "x", "key")
    channel.queue_delete("q")
    publish(channel, "nowhere", exchange="x", routing_key="key")
    assert channel.queue_type("q") is None


def test_delete_can_be_limited_to_unused_or_empty_queues(channel: Any) -> None:
    publish(channel, "a")
    channel.queue_delete("q", if_empty=True)
    assert counts(channel) == (1, 0, 0)
    channel.basic_consume("q", no_ack=False, callback=print, consumer_tag="c")
    channel.queue_delete("q", if_unused=True)
    assert counts(channel) == (1, 0, 0)
    channel.basic_cancel("c")
    channel.queue_delete("q", if_unused=True)
    assert channel.queue_type("q") is None
    channel.queue_delete("q")


def test_auto_delete_queue_goes_with_its_last_consumer(channel: Any, connect: Connect) -> None:
    other = connect().channel()
    channel.queue_declare("q", auto_delete=True)
    for each in (channel, other):
        each.basic_consume("q", no_ack=False, callback=print, consumer_tag="c")
    channel.basic_cancel("c")
    assert channel.queue_type("q") == ""
    other.close()
    assert channel.queue_type("q") is None
