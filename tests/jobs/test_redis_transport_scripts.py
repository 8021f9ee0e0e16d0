"""The scripts lose nothing and stay within bounds, whatever lies on the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Producer
from kombu.exceptions import ChannelError
from redis.exceptions import ResponseError

from mindtrace_jobs import Consumer, Orchestrator
from mindtrace_jobs.testing.models import image_job
from mindtrace_jobs.transports.redis.leases import keeper
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
    user,
    vanish,
)
from tests.jobs.servers import RedisServer, wait_until


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
def client(redis_url: str) -> Iterator[Any]:
    """The server, seen from outside."""
    with server(redis_url) as one:
        yield one


# --- keys of another type


def test_message_that_a_queue_does_not_take_leaves_the_held_one_in_whose_place_it_is(
    connect: Connect, client: Any
) -> None:
    channel = connect().default_channel
    publish(channel, "old")
    held = get(channel)
    client.set("other", "a key of another type")

    def replace() -> None:
        message = channel.prepare_message('"new"', 0, "application/json", "utf-8", properties={})
        channel.replace(held.delivery_tag, message, "other")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        replace()
    assert counts(channel) == (0, 1, 0)
    assert channel.holds(held.delivery_tag)
    client.delete("other")
    replace()
    assert not tracks(client)
    assert get(channel, "other").payload == "new"


@pytest.mark.parametrize("key", ["b", "b\x06\x163", "b\x06\x16delayed"])
def test_a_queue_with_a_key_of_another_type_is_left_out_and_the_others_go_on(
    connect: Connect, client: Any, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = connect().default_channel
    publish(channel, 1, "a")
    publish(channel, 2, "b", delay=0.01, priority=3)
    waiting = client.zrange("b\x06\x16delayed", 0, -1, withscores=True)
    client.delete(key)
    client.set(key, "somebody else's")
    source = connect(safety_poll=0.05)
    received = consume(source.default_channel, ["a", "b"])
    drain(source, received, 1)[0].ack()
    publish(channel, 3, "a")
    drain(source, received, 2)[1].ack()
    assert [message.payload for message in received] == [1, 3]
    assert [record.message for record in caplog.records if "left out" in record.message] == [
        "queue 'b' is left out: a key of its holds something else than messages"
    ]
    client.delete(key)
    if key.endswith("delayed"):
        client.zadd(key, dict(waiting))
    drain(source, received, 3)[2].ack()
    assert received[2].payload == 2


def test_a_queue_with_a_key_of_another_type_keeps_no_lease_of_others(connect: Connect, client: Any) -> None:
    channel = connect(lease=3600).default_channel
    for queue in ("bad", "good"):
        publish(channel, queue, queue)
    # Received past the channel: nobody renews these leases.
    good, bad = channel.store.claim([("good", False), ("bad", False)], 2, 1).deliveries
    client.set("bad", "somebody else's")

    def restored(tag: str) -> bool:
        client.zadd("mindtrace.leases", dict.fromkeys((good.tag, bad.tag), 1), xx=True)
        channel.store.restore_expired(channel.store.wire)
        return not client.hexists("unacked", tag)

    wait_until(lambda: restored(good.tag), "the other message is back")
    assert bodies(channel, "good") == ["good"]
    assert client.hexists("unacked", bad.tag)
    client.delete("bad")
    wait_until(lambda: restored(bad.tag), "its message is back")
    assert bodies(channel, "bad") == ["bad"]


def test_a_claim_from_ten_thousand_queues_finds_what_is_in_the_last(connect: Connect) -> None:
    channel = connect().default_channel
    publish(channel, 1, "q9999")
    claim = channel.store.claim([(f"q{number}", False) for number in range(10_000)], 10, 10)
    assert [held.queue for held in claim.deliveries] == ["q9999"]


@pytest.mark.parametrize("key", ["unacked", "unacked_index", "mindtrace.leases"])
def test_message_that_cannot_be_recorded_stays_on_its_queue(connect: Connect, client: Any, key: str) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    client.set(key, "somebody else's")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        channel.basic_get("q")
    client.delete(key)
    assert bodies(channel) == [1]


@pytest.mark.parametrize("queue", ["unacked", "unacked_index", "mindtrace.leases", "_kombu.binding.x"])
def test_queue_is_not_called_as_a_key_of_the_transport(connect: Connect, client: Any, queue: str) -> None:
    channel = connect().default_channel
    with pytest.raises(ChannelError, match="PRECONDITION_FAILED"):
        channel.queue_declare(queue)
    with pytest.raises(ChannelError, match="PRECONDITION_FAILED"):
        publish(channel, 1, queue)
    assert not client.exists(queue)


def test_delayed_messages_of_a_queue_whose_key_is_no_list_stay_where_they_are(connect: Connect, client: Any) -> None:
    channel = connect().default_channel
    publish(channel, 1, delay=0.01)
    client.set("q", "somebody else's")
    wait_until(lambda: client.zcount("q\x06\x16delayed", "-inf", time.time()), "it is due")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        channel.basic_get("q")
    client.delete("q")
    assert bodies(channel) == [1]


def test_message_that_cannot_go_back_stays_held(connect: Connect, client: Any) -> None:
    channel = connect().default_channel
    publish(channel, 1)
    message = get(channel)
    client.set("q", "somebody else's")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        message.requeue()
    client.delete("q")
    assert counts(channel) == (0, 1, 0)
    message.requeue()
    assert bodies(channel) == [1]


def test_consumer_that_the_server_refuses_pauses_between_its_tries(redis_url: str, client: Any) -> None:
    with Orchestrator.from_url(redis_url) as admin, user(redis_url, "~*", "&*", "+@all", "-rpop") as url:
        admin.publish_message("q", image_job("one"))
        with Orchestrator.from_url(url) as orchestrator:
            before = client.info("stats")["total_connections_received"]
            Consumer(orchestrator, "q", lambda job: None).consume(timeout=1.0)
        assert client.info("stats")["total_connections_received"] - before < 40
        assert admin.queue_status("q") == 1


# --- size


def test_large_messages_are_sent_and_requeued_a_few_at_a_time() -> None:
    texts = [f"{number}".rjust(600_000) for number in range(12)]
    with RedisServer() as own, server(own.url()) as client, connection(own.url(), lease=3600) as source:
        channel = source.default_channel

        def take() -> list[Any]:
            return [get(channel) for _ in texts]

        def calls(work: Callable[[], object]) -> int:
            """How many scripts were run by it."""
            client.config_resetstat()
            work()
            stats = client.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

        def publish_all() -> None:
            producer = Producer(channel, auto_declare=False)
            with producer.batch():
                for text in texts:
                    producer.publish(text, exchange="", routing_key="q")

        assert calls(publish_all) >= 6
        # Received past the channel: nobody renews these leases.
        taken = channel.store.claim([("q", False)], len(texts), len(texts)).deliveries
        client.zadd("mindtrace.leases", {held.tag: 1 for held in taken}, xx=True)
        assert calls(lambda: channel.store.restore_expired(channel.store.wire)) >= 12
        taken = take()
        assert calls(channel.deliveries.requeue_all) >= 6
        assert [message.payload for message in take()] == texts


def test_deleting_a_queue_does_not_read_what_is_held_of_others(own_redis_server: RedisServer) -> None:
    with server(own_redis_server.url()) as client, connection(own_redis_server.url()) as source:
        channel = source.default_channel
        for _ in range(40):
            publish(channel, "x" * 1_000_000)
            get(channel)
        channel.queue_declare("other")
        channel.queue_delete("other")
        assert client.info("memory")["used_memory_lua"] < 20_000_000


@pytest.mark.parametrize("queue", ["q", "a:q", "[a-c]*?\\^", "\x06\x16"])
def test_what_is_held_and_who_consumes_is_counted_for_each_queue(connect: Connect, queue: str) -> None:
    others = ["q", "a:q", "b", "[a-c]*?\\^", "\x06\x16", "[a-c]*xx^"]
    source = connect()
    channel = source.default_channel
    for other in others:
        for _ in range(3 if other == queue else 2):
            publish(channel, 1, other)
    received = drain(source, consume(channel, others), 2 * len(others) + 1)
    received[0].ack()
    own = received[0].delivery_info["routing_key"] == queue
    assert channel.queue_stats(queue) == {"ready": 0, "unacknowledged": 3 - own, "delayed": 0, "consumers": 1}


def test_counts_of_thousands_of_deliveries_and_consumers_are_complete(connect: Connect, client: Any) -> None:
    channel = connect().default_channel
    far = time.time() + 3600
    names = {f"{number:032x}": far for number in range(3000)}
    client.zadd("mindtrace.leases", {f"{name}:{0:012d}:q": score for name, score in names.items()})
    client.zadd("mindtrace.consumers", {f"{name}:q": score for name, score in names.items()})
    client.zadd("mindtrace.consumers", {"0" * 32 + ":q": 1})
    assert channel.queue_stats("q") == {"ready": 0, "unacknowledged": 3000, "delayed": 0, "consumers": 2999}


def test_counting_ready_jobs_looks_at_no_delivery(own_redis_server: RedisServer) -> None:
    url = own_redis_server.url()
    with Orchestrator.from_url(url) as orchestrator, server(url) as client:
        orchestrator.publish_many("q", [image_job() for _ in range(3)])
        client.config_resetstat()
        assert orchestrator.queue_status("q") == 3
        assert not {"cmdstat_zrange", "cmdstat_zscan"} & set(client.info("commandstats"))


# --- routing


def fits(pattern: list[str], key: list[str]) -> bool:
    """AMQP's rule, word by word, without any thought of how long it takes."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(fits(pattern[1:], key[skipped:]) for skipped in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and fits(pattern[1:], key[1:])


def test_topics_match_as_amqp_has_it(connect: Connect) -> None:
    words = st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=6)
    channel = connect().default_channel
    channel.exchange_declare("x", "topic", durable=True)

    @given(pattern=words, key=st.lists(st.sampled_from("ab"), min_size=1, max_size=6))
    @settings(max_examples=200)
    def check(pattern: list[str], key: list[str]) -> None:
        channel.queue_bind("q", "x", ".".join(pattern))
        publish(channel, 1, exchange="x", routing_key=".".join(key))
        assert bodies(channel) == [1] * fits(pattern, key)
        channel.queue_unbind("q", "x", ".".join(pattern))

    check()


def test_no_pattern_keeps_the_server_busy(connect: Connect, client: Any) -> None:
    channel = connect(socket_timeout=5.0).default_channel
    channel.exchange_declare("x", "topic", durable=True)
    channel.queue_bind("q", "x", "#.a." * 30 + "b")
    publish(channel, 1, exchange="x", routing_key="a." * 100 + "a")
    assert bodies(channel) == []


# --- names


@pytest.mark.parametrize(
    "queue",
    [
        "\u00fc\u2192\U0001f600\u2028",
        "a:b:c",
        "nul\0in it",
        "new\nline",
        'quo"te\\back',
        "{tag} *?[x]",
        "%d %s",
        "x" * 255,
    ],
    ids=ascii,
)
def test_queue_may_be_called_anything(connect: Connect, client: Any, queue: str) -> None:
    ours, stock = connect(lease=3600).default_channel, connect(stock=True).default_channel
    declare(ours, "priority", queue)
    publish(stock, "by stock\0", queue)
    publish(ours, "ours\0", queue)
    publish(ours, "late\0", queue, delay=0.01)
    first = get(ours, queue)
    assert first.payload == "by stock\0"
    # Restored by the lease,
    vanish(ours, first.delivery_tag)
    assert counts(ours, queue)[1] == 0
    # given back to the front,
    again = get(ours, queue)
    assert (again.payload, again.headers["x-delivery-count"]) == ("by stock\0", 1)
    ours.requeue(again.delivery_tag)
    # restored by stock,
    tag = get(ours, queue).delivery_tag
    keeper.discard(ours.deliveries)
    client.zadd("unacked_index", {tag: 1}, xx=True)
    stock.qos.restore_by_tag(tag)
    # and taken by stock.
    assert get(stock, queue).payload == "by stock\0"
    wait_until(lambda: counts(ours, queue)[::2] == (2, 0), "the delayed one is due")
    held = get(ours, queue)
    ours.queue_delete(queue)
    assert not tracks(client)
    assert ours.queue_type(queue) is None
    held.requeue()
    assert ours.queue_type(queue) is None
