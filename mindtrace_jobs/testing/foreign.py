"""The contract of messages from elsewhere, and of what cannot be read."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.errors import (
    DecodeError,
    InvalidInputError,
    UnknownTypeError,
)
from mindtrace_jobs.jobs import Job
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.base import (
    PATIENCE,
    QUICK,
    Conformance,
    put_json,
    put_raw,
    receive_all,
    wait_for_ready,
)
from mindtrace_jobs.testing.models import ImageInput, ImageSchema, image_job, urls
from mindtrace_jobs.wire.message import Message


class ForeignMessageConformance(Conformance):
    """Messages that this package did not write, and messages that nobody can read."""

    _FOREIGN: ClassVar[dict[str, tuple[Any, dict[str, Any]]]] = {
        "keywords of a Celery task": (
            [[], {"url": "a.png", "threshold": 0.75}, {}],
            {"lang": "py", "task": "conformance_image", "id": "celery-1"},
        ),
        "positions of a Celery task": (
            [["a.png", 0.75], {}, {}],
            {"lang": "py", "task": "conformance_image", "id": "celery-2"},
        ),
        "one object of a Celery task": (
            [[{"url": "a.png", "threshold": 0.75}], {}, {}],
            {"lang": "py", "task": "conformance_image", "id": "celery-3"},
        ),
        "Celery's protocol 1": (
            {"task": "conformance_image", "id": "celery-4", "args": [], "kwargs": {"url": "a.png", "threshold": 0.75}},
            {},
        ),
        "a legacy job": (
            {
                "id": "legacy-1",
                "name": "conformance_image",
                "job_schema": {"name": "conformance_image", "input": {"url": "a.png", "threshold": 0.75}},
                "backend_type": "redis",
                "queue_name": "images",
                "routing_key": "image",
            },
            {},
        ),
        "an upstream job": (
            {
                "id": "upstream-1",
                "name": "conformance_image",
                "schema_name": "conformance_image",
                "payload": {"url": "a.png", "threshold": 0.75},
                "status": "queued",
                "output": {},
                "error": None,
                "created_at": "2024-01-01T00:00:00",
                "priority": None,
                "entrypoint": None,
            },
            {},
        ),
    }

    @pytest.mark.parametrize("shape", _FOREIGN)
    def test_a_foreign_message_comes_out_typed(self, orchestrator: Orchestrator, queue: str, shape: str) -> None:
        body, headers = self._FOREIGN[shape]
        orchestrator.declare_queue(queue)
        put_json(orchestrator, queue, body, headers)
        wait_for_ready(orchestrator, queue, 1)
        job = orchestrator.receive_message(queue, schema=ImageSchema)
        assert job is not None
        assert job.payload.input == ImageInput(url="a.png", threshold=0.75)
        assert job.id == (headers or body)["id"]

    @pytest.mark.parametrize("shape", _FOREIGN)
    def test_a_foreign_message_is_run(self, orchestrator: Orchestrator, queue: str, shape: str) -> None:
        body, headers = self._FOREIGN[shape]
        orchestrator.declare_queue(queue)
        put_json(orchestrator, queue, body, headers)
        ran: list[ImageInput] = []
        Consumer(orchestrator, queue, lambda job: ran.append(job.payload.input)).consume(1, timeout=PATIENCE)
        assert ran == [ImageInput(url="a.png", threshold=0.75)]

    def test_a_packed_foreign_message_can_be_read_at_every_retry_and_as_a_dead_letter(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.declare_queue(queue)
        task = {"lang": "py", "task": "conformance_image", "id": "packed"}
        put_json(orchestrator, queue, [[], {"url": "a.png"}, {}], task, compression="zlib")
        ran: list[str] = []

        def fail(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)
            raise ValueError("no")

        assert Consumer(orchestrator, queue, fail, retry=QUICK).consume(QUICK.max_retries + 1, timeout=PATIENCE) == 3
        assert ran == ["a.png"] * 3
        orchestrator.dead_letters.replay(queue)
        job = orchestrator.receive_message(queue, schema=ImageSchema)
        assert job is not None
        assert job.payload.input.url == "a.png"

    _TASK: ClassVar[dict[str, Any]] = {"lang": "py", "task": "conformance_image", "id": "poison"}
    _POISON: ClassVar[dict[str, tuple[Message, type[DecodeError], str]]] = {
        "garbage": (Message(b"\x00\xff{[", dict(_TASK)), DecodeError, "undecodable"),
        "an empty body": (Message(b"", dict(_TASK)), DecodeError, "undecodable"),
        "JSON that is no task body": (Message(b'"hello"', dict(_TASK), "application/json"), DecodeError, "undecodable"),
        "a refused content type": (
            Message(b"\x80\x04N.", dict(_TASK), "application/x-python-serialize", "binary"),
            DecodeError,
            "undecodable",
        ),
        "an unknown schema": (
            Message(b"[[], {}, {}]", {**_TASK, "task": "nobody_knows_me"}, "application/json"),
            UnknownTypeError,
            "unknown-type",
        ),
        "no headers": (Message(b"[[], {}, {}]", {}, "application/json"), UnknownTypeError, "unknown-type"),
        "a missing field": (
            Message(b'[[], {"threshold": 1}, {}]', dict(_TASK), "application/json"),
            InvalidInputError,
            "invalid-input",
        ),
        "a body that cannot be unpacked": (
            Message(b"garbage", {**_TASK, "compression": "application/x-gzip"}, "application/json"),
            DecodeError,
            "undecodable",
        ),
        "an unknown compression": (
            Message(b"garbage", {**_TASK, "compression": "nobody-knows-it"}, "application/json"),
            DecodeError,
            "undecodable",
        ),
        "an eta that is no time": (
            Message(json.dumps([[], {"url": "x"}, {}]).encode(), {**_TASK, "eta": "soon"}, "application/json"),
            DecodeError,
            "undecodable",
        ),
    }

    @pytest.mark.parametrize("poison", _POISON)
    def test_poison_raises_a_named_error_is_dead_lettered_and_holds_up_nobody(
        self, orchestrator: Orchestrator, queue: str, poison: str
    ) -> None:
        message, error, reason = self._POISON[poison]
        orchestrator.declare_queue(queue)
        put_raw(orchestrator, queue, message)
        orchestrator.publish_message(queue, image_job("behind"))
        with pytest.raises(error) as caught:
            orchestrator.receive_message(queue)
        assert type(caught.value) is error
        assert urls(receive_all(orchestrator, queue)) == ["behind"]
        [letter] = orchestrator.dead_letters.list(queue)
        assert letter.reason == reason
        assert letter.body == message.body
        assert letter.content_type == message.content_type
        assert letter.id == message.headers.get("id")

    def test_a_dead_letter_that_cannot_be_read_still_says_so(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        message, error, _ = self._POISON["garbage"]
        put_raw(orchestrator, queue, message)
        with pytest.raises(error):
            orchestrator.receive_message(queue)
        with pytest.raises(error):
            orchestrator.dead_letters.show(queue, "poison").job()

    def test_a_consumer_goes_on_behind_every_poison(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        for message, _, _ in self._POISON.values():
            put_raw(orchestrator, queue, message)
        orchestrator.publish_message(queue, image_job("behind"))
        ran: list[str] = []
        consumer: Consumer[ImageSchema] = Consumer(
            orchestrator, queue, lambda job: ran.append(job.payload.input.url), prefetch=4
        )
        assert consumer.consume(len(self._POISON) + 1, timeout=PATIENCE) == len(self._POISON) + 1
        assert ran == ["behind"]
        assert sorted(letter.reason for letter in orchestrator.dead_letters.list(queue)) == sorted(
            reason for _, _, reason in self._POISON.values()
        )

    def test_receiving_keeps_poison_too(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        message, error, reason = self._POISON["garbage"]
        put_raw(orchestrator, queue, message)
        with pytest.raises(error), orchestrator.receiving(queue):
            pass
        assert [letter.reason for letter in orchestrator.dead_letters.list(queue)] == [reason]

    def test_poison_that_is_replayed_is_dead_lettered_again(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        message, error, _ = self._POISON["garbage"]
        put_raw(orchestrator, queue, message)
        for _ in range(2):
            with pytest.raises(error):
                orchestrator.receive_message(queue)
            [letter] = orchestrator.dead_letters.list(queue)
            assert letter.body == message.body
            assert list(orchestrator.dead_letters.replay(queue)) == ["poison"]

    def test_poison_in_a_dead_letter_queue_stays_there(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        message, error, _ = self._POISON["garbage"]
        put_raw(orchestrator, queue, message)
        with pytest.raises(error):
            orchestrator.receive_message(queue)
        with pytest.raises(error):
            orchestrator.receive_message(f"{queue}.dlq")
        assert len(orchestrator.dead_letters.list(queue)) == 1
