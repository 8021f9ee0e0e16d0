"""RabbitMQ's delay queues: delays are late by little and never early, and no job is lost on its way through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import kombu
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mindtrace_jobs import Consumer, Orchestrator, RetryJob, RetryPolicy
from mindtrace_jobs.clients.delay_queues import _DIGITS, _LONGEST, _all_waits, _pattern, _waits
from mindtrace_jobs.testing.base import PATIENCE, receive_all, wait_for_ready, wait_until
from mindtrace_jobs.testing.models import ImageSchema, image_job, urls
from tests.jobs.servers import RabbitMQServer

ALL_WAITS = list(_all_waits())
MILLISECONDS = st.floats(0.0001, 10.0 * _LONGEST)


@given(MILLISECONDS)
def test_a_delay_is_never_early_and_at_most_one_percent_late(milliseconds: float) -> None:
    wanted = min(milliseconds, _LONGEST)
    assert wanted <= sum(_waits(milliseconds)) <= max(1.0, wanted * 1.01 + 1)


@given(MILLISECONDS)
@example(0.2)
@example(999.5)
@example(_LONGEST)
def test_every_queue_of_a_delay_is_one_that_cleaning_looks_for(milliseconds: float) -> None:
    waits = _waits(milliseconds)
    assert 1 <= len(waits) <= _DIGITS
    assert set(waits) <= set(ALL_WAITS)


@given(MILLISECONDS)
def test_each_exchange_hands_a_delayed_message_to_one_queue(milliseconds: float) -> None:
    waits = _waits(milliseconds)
    for to_come, wait in enumerate(reversed(waits)):
        assert [other for other in ALL_WAITS if topic_matches(_pattern(to_come, other).split("."), waits)] == [wait]


def topic_matches(pattern: Sequence[str], words: Sequence[object]) -> bool:
    """As AMQP 0-9-1 says, 3.1.3.3: ``*`` is one word, ``#`` any number."""
    if not pattern or not words:
        return not words and set(pattern) <= {"#"}
    if pattern[0] == "#":
        return topic_matches(pattern[1:], words) or topic_matches(pattern, words[1:])
    return pattern[0] in ("*", str(words[0])) and topic_matches(pattern[1:], words[1:])


@pytest.fixture
def orchestrator(rabbitmq_url: str) -> Iterator[Orchestrator]:
    with Orchestrator.from_url(rabbitmq_url) as orchestrator:
        yield orchestrator


def test_delayed_jobs_keep_their_priorities_and_are_cleaned_whatever_these_are(orchestrator: Orchestrator) -> None:
    orchestrator.declare_queue("q", "priority")
    for priority in (None, 3, 9):
        orchestrator.publish_message("q", image_job(str(priority), priority=priority), delay=0.123)
    wait_for_ready(orchestrator, "q", 3)
    assert urls(receive_all(orchestrator, "q")) == ["9", "3", "None"]
    for priority in (3, 9):
        orchestrator.publish_message("q", image_job(priority=priority), delay=3600)
    assert orchestrator.clean_queue("q") == 2


def test_jobs_of_one_delay_keep_their_order(orchestrator: Orchestrator) -> None:
    names = [str(number) for number in range(50)]
    for name in names:
        orchestrator.publish_message("q", image_job(name), delay=0.555)
    wait_for_ready(orchestrator, "q", len(names))
    assert urls(receive_all(orchestrator, "q")) == names


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_longest_names_have_delays_too(orchestrator: Orchestrator, letter: str) -> None:
    queue = letter * (230 // len(letter.encode()))
    orchestrator.declare_queue(queue)
    assert orchestrator.clean_queue(queue) == 0
    orchestrator.publish_message(queue, image_job("soon"), delay=0.011)
    received = orchestrator.receive_message(queue, timeout=PATIENCE)
    assert received is not None
    orchestrator.publish_message(queue, image_job("late"), delay=30 * 86_400)
    assert orchestrator.clean_queue(queue) == 1
    orchestrator.delete_queue(queue)


def test_a_retry_waits_in_the_same_queues_each_time(orchestrator: Orchestrator) -> None:
    # RabbitMQ drops a message that comes to a queue a second time without having been received in between.
    def busy(_job: object) -> None:
        tries.append(1)
        raise RetryJob("busy", delay=0.011)

    tries: list[int] = []
    orchestrator.publish_message("q", image_job(), delay=0.011)
    consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", busy, retry=RetryPolicy(max_retries=3))
    consumer.consume(num_messages=4, timeout=PATIENCE)
    assert len(tries) == 4
    assert len(orchestrator.dead_letters.list("q")) == 1


@pytest.fixture
def impatient(rabbitmq_server: RabbitMQServer) -> Iterator[tuple[Orchestrator, Any]]:
    """On a node that offers a refused message again after a second, and not after three minutes; and a channel there."""
    rabbitmq_server.rabbitmqctl(
        "eval", "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 1000)."
    )
    url = rabbitmq_server.url(rabbitmq_server.add_vhost())
    with Orchestrator.from_url(url) as orchestrator, kombu.Connection(url) as connection:
        yield orchestrator, connection.default_channel


def publish_delayed(orchestrator: Orchestrator, name: str, seconds: float) -> None:
    """Publish a job with this very delay: that of ``delay=`` counts from an instant before, and may wait elsewhere."""
    exchange, key = orchestrator.client.delay_route("q", seconds) or ("", "")
    orchestrator.publish_message("", image_job(name), exchange=exchange, routing_key=key)


def test_what_a_full_queue_refuses_comes_when_there_is_room(impatient: tuple[Orchestrator, Any]) -> None:
    orchestrator, channel = impatient
    small = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("q", durable=True, auto_delete=False, arguments=small)
    names = ["a", "b", "c"]
    for name in names:
        publish_delayed(orchestrator, name, 0.111)
    for waiting in ("q.delay.2.100", "q.delay.1.10", "q.delay.0.1"):
        wait_until_empty(channel, waiting)
    wait_for_ready(orchestrator, "q", 1)
    received = [orchestrator.receive_message("q", timeout=PATIENCE) for _ in names]
    assert sorted(urls([job for job in received if job is not None])) == names


def test_delayed_jobs_outlive_the_queue_they_go_to(impatient: tuple[Orchestrator, Any]) -> None:
    orchestrator, channel = impatient
    publish_delayed(orchestrator, "kept", 0.3)
    channel.queue_delete("q")
    wait_until_empty(channel, "q.delay.0.300")
    orchestrator.declare_queue("q")
    received = orchestrator.receive_message("q", timeout=PATIENCE)
    assert received is not None


def wait_until_empty(channel: Any, queue: str) -> None:
    wait_until(lambda: channel.queue_declare(queue, passive=True).message_count == 0, f"no message waits in {queue}")
