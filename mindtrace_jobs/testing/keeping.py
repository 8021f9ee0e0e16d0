"""The contract of dead letters, of messages from elsewhere, and of what cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.deadletter import DeadLetter
from mindtrace_jobs.errors import (
    ClosedError,
    DecodeError,
    InvalidPayloadError,
    JobNotFoundError,
    RejectJob,
    UnknownTypeError,
)
from mindtrace_jobs.jobs import ExecutionStatus, Job
from mindtrace_jobs.message import ATTEMPTS, Message, encode
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.base import (
    PATIENCE,
    QUICK,
    Conformance,
    keeps_results,
    put_json,
    put_raw,
    receive_all,
    wait_for_ready,
    wait_until,
    with_policy,
)
from mindtrace_jobs.testing.models import ImageInput, ImageOutput, ImageSchema, everything_job, image_job, urls


def _reject(job: Job[Any]) -> None:
    raise RejectJob("not today")


def _bury(orchestrator: Orchestrator, queue: str, *jobs: Job[Any]) -> None:
    orchestrator.publish_many(queue, jobs)
    assert Consumer(orchestrator, queue, _reject).consume_until_empty() == len(jobs)
    wait_until(lambda: orchestrator.dead_letters.count(queue) == len(jobs), "dead letters counted")


def _ids(letters: list[DeadLetter]) -> list[str | None]:
    return [letter.id for letter in letters]


class DeadLetterConformance(Conformance):
    """What cannot be run is kept, can be looked at and replayed."""

    def test_a_queue_without_dead_letters_has_none(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        dead = orchestrator.dead_letters
        assert (dead.list(queue), dead.count(queue), dead.purge(queue), dead.replay(queue)) == ([], 0, 0, [])
        with pytest.raises(JobNotFoundError):
            dead.show(queue, "nobody")

    def test_dead_letters_are_listed_without_being_removed(self, orchestrator: Orchestrator, queue: str) -> None:
        jobs = [image_job(name) for name in "abc"]
        _bury(orchestrator, queue, *jobs)
        for _ in range(2):
            assert _ids(orchestrator.dead_letters.list(queue)) == [job.id for job in jobs]
        assert _ids(orchestrator.dead_letters.list(queue, limit=2)) == [job.id for job in jobs[:2]]
        wait_until(lambda: orchestrator.dead_letters.count(queue) == 3, "three dead letters counted")

    def test_a_dead_letter_shows_why_and_holds_the_original(self, orchestrator: Orchestrator, queue: str) -> None:
        job = everything_job()
        original = encode(job)
        _bury(orchestrator, queue, job)
        letter = orchestrator.dead_letters.show(queue, job.id)
        assert (letter.reason, letter.error, letter.error_type) == ("rejected", "not today", "RejectJob")
        assert letter.body == original.body
        assert letter.content_type == original.content_type
        assert letter.headers == original.headers
        assert letter.job() == job
        with pytest.raises(JobNotFoundError):
            orchestrator.dead_letters.show(queue, "nobody")

    def test_one_dead_letter_is_replayed_and_the_others_stay_in_order(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        jobs = [image_job(name) for name in "abcd"]
        _bury(orchestrator, queue, *jobs)
        assert orchestrator.dead_letters.replay(queue, jobs[2].id) == [jobs[2].id]
        assert receive_all(orchestrator, queue) == [jobs[2]]
        assert _ids(orchestrator.dead_letters.list(queue)) == [job.id for job in (jobs[0], jobs[1], jobs[3])]

    def test_some_dead_letters_are_replayed(self, orchestrator: Orchestrator, queue: str) -> None:
        jobs = [image_job(name) for name in "abcd"]
        _bury(orchestrator, queue, *jobs)
        assert sorted(map(str, orchestrator.dead_letters.replay(queue, {jobs[0].id, jobs[3].id}))) == sorted(
            [jobs[0].id, jobs[3].id]
        )
        assert receive_all(orchestrator, queue) == [jobs[0], jobs[3]]
        assert orchestrator.dead_letters.replay(queue, limit=1) == [jobs[1].id]
        wait_until(lambda: orchestrator.dead_letters.count(queue) == 1, "one dead letter left")

    def test_all_dead_letters_are_replayed_as_they_were(self, orchestrator: Orchestrator, queue: str) -> None:
        jobs = [image_job("a"), everything_job()]
        _bury(orchestrator, queue, *jobs)
        assert orchestrator.dead_letters.replay(queue) == [job.id for job in jobs]
        assert orchestrator.dead_letters.count(queue) == 0
        delivery = orchestrator.client.get(queue, PATIENCE)
        assert delivery is not None
        original = encode(jobs[0])
        assert delivery.message.body == original.body
        assert delivery.message.headers == original.headers
        delivery.requeue()
        assert receive_all(orchestrator, queue) == jobs

    def test_an_id_that_is_not_there_is_named_and_the_others_are_replayed(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        job = image_job("a")
        _bury(orchestrator, queue, job)
        with pytest.raises(JobNotFoundError, match="nobody"):
            orchestrator.dead_letters.replay(queue, [job.id, "nobody"])
        assert receive_all(orchestrator, queue) == [job]

    def test_an_expired_job_runs_when_it_is_replayed(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"), expires=timedelta(seconds=-1))
        assert orchestrator.receive_message(queue) is None
        orchestrator.dead_letters.replay(queue)
        assert urls(receive_all(orchestrator, queue)) == ["a"]

    def test_a_dead_letter_that_fails_by_hand_stays_where_it_is(self, orchestrator: Orchestrator, queue: str) -> None:
        job = image_job("a")
        _bury(orchestrator, queue, job)
        for error in (RejectJob("still not"), ZeroDivisionError("nor now")):
            with pytest.raises(type(error)), orchestrator.receiving(f"{queue}.dlq", timeout=PATIENCE) as dead:
                assert dead is not None
                raise error
            [letter] = orchestrator.dead_letters.list(queue)
            assert (letter.id, letter.queue, letter.error) == (job.id, queue, str(error))
        assert orchestrator.dead_letters.list(f"{queue}.dlq") == [letter]
        assert orchestrator.dead_letters.replay(f"{queue}.dlq") == [job.id]
        assert receive_all(orchestrator, queue) == [job]

    def test_a_dead_letter_whose_worker_vanished_can_be_taken_by_hand(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        lost = encode(image_job("a"))
        orchestrator.client.publish(replace(lost, headers={**lost.headers, ATTEMPTS: 99}), queue=f"{queue}.dlq")
        with orchestrator.receiving(f"{queue}.dlq", timeout=PATIENCE) as dead:
            assert dead is not None
        assert orchestrator.dead_letters.count(queue) == 0

    def test_a_replayed_submitted_job_has_a_status_again(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue)
        Consumer(orchestrator, queue, _reject).consume_until_empty()
        orchestrator.dead_letters.replay(queue)
        done: Consumer[ImageSchema] = Consumer(orchestrator, queue, lambda job: ImageOutput(objects=["second"]))
        assert done.consume_until_empty() == 1
        if keeps_results(orchestrator):
            assert handle.status() is ExecutionStatus.COMPLETED
            assert handle.result() == ImageOutput(objects=["second"])

    def test_purged_dead_letters_are_gone(self, orchestrator: Orchestrator, queue: str) -> None:
        _bury(orchestrator, queue, image_job(), image_job())
        assert orchestrator.dead_letters.purge(queue) == 2
        assert orchestrator.dead_letters.list(queue) == []

    def test_a_bounded_dead_letter_queue_drops_its_oldest(self, orchestrator: Orchestrator, queue: str) -> None:
        bounded = with_policy(orchestrator, dead_letter_limit=2)
        jobs = [image_job(name) for name in "abc"]
        for job in jobs:
            bounded.publish_message(queue, job)
            Consumer(bounded, queue, _reject).consume_until_empty()
        assert _ids(bounded.dead_letters.list(queue)) == [job.id for job in jobs[1:]]

    def test_dead_letters_outlive_their_queue(self, orchestrator: Orchestrator, queue: str) -> None:
        job = image_job()
        _bury(orchestrator, queue, job)
        orchestrator.delete_queue(queue)
        assert _ids(orchestrator.dead_letters.list(queue)) == [job.id]

    def test_a_dead_letter_can_be_received_like_a_job(self, orchestrator: Orchestrator, queue: str) -> None:
        job = image_job("a")
        _bury(orchestrator, queue, job)
        assert orchestrator.receive_message(f"{queue}.dlq") == job


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
            InvalidPayloadError,
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
    def test_poison_raises_a_named_error_is_kept_and_holds_up_nobody(
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

    def test_poison_that_is_replayed_is_kept_again(self, orchestrator: Orchestrator, queue: str) -> None:
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


class LifeConformance(Conformance):
    """Opening and closing."""

    def test_a_closed_orchestrator_says_so(self, other_orchestrator: Orchestrator, queue: str) -> None:
        other_orchestrator.publish_message(queue, image_job())
        other_orchestrator.close()
        other_orchestrator.close()  # again is no error
        for verb in (
            lambda: other_orchestrator.declare_queue(queue),
            lambda: other_orchestrator.publish_message(queue, image_job()),
            lambda: other_orchestrator.publish_many(queue, [image_job()]),
            lambda: other_orchestrator.receive_message(queue),
            lambda: other_orchestrator.queue_status(queue),
            lambda: other_orchestrator.clean_queue(queue),
            lambda: other_orchestrator.dead_letters.list(queue),
            lambda: Consumer(other_orchestrator, queue, lambda job: None).consume_until_empty(),
        ):
            with pytest.raises(ClosedError):
                verb()

    def test_closing_one_leaves_the_other_working(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        other_orchestrator.publish_message(queue, image_job("a"))
        other_orchestrator.close()
        assert urls(receive_all(orchestrator, queue)) == ["a"]

    def test_a_context_manager_closes_at_its_end(self, other_orchestrator: Orchestrator, queue: str) -> None:
        with other_orchestrator as entered:
            assert entered is other_orchestrator
            entered.publish_message(queue, image_job())
        with pytest.raises(ClosedError):
            other_orchestrator.queue_status(queue)

    def test_a_client_that_was_handed_in_can_stay_open(self, orchestrator: Orchestrator, queue: str) -> None:
        with with_policy(orchestrator) as borrowed:
            borrowed.publish_message(queue, image_job("a"))
        assert urls(receive_all(orchestrator, queue)) == ["a"]
