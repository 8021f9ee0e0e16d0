"""Whatever stands on a queue's key is a job, a dead letter or a named error, and nothing waits behind it for ever."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport import virtual

from mindtrace_jobs import Consumer, Job, JobsError, Orchestrator
from mindtrace_jobs.clients.kombu_messages import message_of
from mindtrace_jobs.testing.models import ImageSchema, image_job
from mindtrace_jobs.transports.packed import packed_class
from mindtrace_jobs.transports.redis import messages
from mindtrace_jobs.transports.redis.channel import Channel
from mindtrace_jobs.wire.message import encode
from tests.jobs.envelopes import hostile_envelopes

BEHIND = 5
PATIENCE = 60.0

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)
_ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "body": _JSON,
        "headers": _JSON | st.dictionaries(st.sampled_from(["id", "task", "compression"]), _JSON),
        "content-type": _JSON,
        "content-encoding": _JSON,
        "properties": _JSON
        | st.fixed_dictionaries({}, optional={"body_encoding": _JSON, "delivery_info": _JSON, "priority": _JSON}),
    },
)


class Decoder(Channel):
    """A channel without a server."""

    def __init__(self) -> None:
        """Connect to nothing."""

    def close(self) -> None:
        """Nothing to do."""

    __del__ = close


@given(raw=_ENVELOPES.map(lambda tree: json.dumps(tree).encode()) | st.binary())
def test_any_bytes_are_a_message_that_can_be_read_requeued_and_published_again(raw: bytes) -> None:
    payload = messages.load(raw, "tag", "q")
    raw_message: Any = packed_class(virtual.Message)(payload, channel=Decoder())
    message = message_of(raw_message)
    assert isinstance(message.body, bytes)
    assert (type(message.content_type), type(message.content_encoding)) == (str, str)
    again = messages.requeued(payload, delivered=True, lost=True)
    assert messages.load(again.encode(), "tag", "q")["headers"]["redelivered"] is True
    assert 0 <= messages.priority(payload) <= 9


@pytest.fixture
def orchestrator(redis_url: str) -> Any:
    with Orchestrator.from_url(redis_url) as orchestrator:
        orchestrator.declare_queue("q")
        found = list(hostile_envelopes(encode(image_job("hostile"), tracked=True)))
        with redis.Redis.from_url(redis_url) as client:
            client.lpush("q", *found)
        for number in range(BEHIND):
            orchestrator.publish_message("q", image_job(f"behind{number}"))
        yield orchestrator


def test_messages_received_by_hand_are_jobs_or_errors_of_ours(orchestrator: Orchestrator) -> None:
    urls: list[str] = []
    while orchestrator.queue_status("q"):
        with suppress(JobsError):
            job = orchestrator.receive_message("q", schema=ImageSchema)
            assert job is not None
            urls.append(job.payload.input.url)
    assert urls[-BEHIND:] == [f"behind{number}" for number in range(BEHIND)]
    assert orchestrator.queue_info("q").unacknowledged == 0


def test_a_consumer_runs_what_waits_behind(orchestrator: Orchestrator) -> None:
    urls: list[str] = []

    def note(job: Job[ImageSchema]) -> None:
        urls.append(job.payload.input.url)
        if urls[-1] == f"behind{BEHIND - 1}":
            consumer.stop()

    consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", note, schema=ImageSchema, prefetch=10)
    consumer.consume(timeout=PATIENCE)
    assert urls[-BEHIND:] == [f"behind{number}" for number in range(BEHIND)]
    info = orchestrator.queue_info("q")
    assert (info.ready, info.unacknowledged) == (0, 0)
    letters = orchestrator.dead_letters.list("q", 1000)
    assert len(letters) == orchestrator.dead_letters.count("q")
    assert len(letters) + len(urls) == len(list(hostile_envelopes(encode(image_job("x"))))) + BEHIND
