"""The contract of dead letters, and of opening and closing."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.errors import (
    ClosedError,
    DecodeError,
    JobNotFoundError,
    RejectJob,
)
from mindtrace_jobs.execution.dead_letters import DeadLetter
from mindtrace_jobs.jobs import ExecutionStatus, Job
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.base import (
    PATIENCE,
    Conformance,
    keeps_results,
    put_json,
    put_raw,
    receive_all,
    wait_until,
    with_policy,
)
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, everything_job, image_job, urls
from mindtrace_jobs.wire.headers import LOSSES
from mindtrace_jobs.wire.message import encode


def _reject(job: Job[Any]) -> None:
    raise RejectJob("not today")


def _bury(orchestrator: Orchestrator, queue: str, *jobs: Job[Any]) -> None:
    before = orchestrator.dead_letters.count(queue)
    orchestrator.publish_many(queue, jobs)
    assert Consumer(orchestrator, queue, _reject).consume_until_empty() == len(jobs)
    wait_until(lambda: orchestrator.dead_letters.count(queue) == before + len(jobs), "dead letters counted")


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

    def test_dead_letters_are_listed_without_their_bodies(self, orchestrator: Orchestrator, queue: str) -> None:
        jobs = [image_job(name) for name in "abc"]
        _bury(orchestrator, queue, *jobs)
        letters = orchestrator.dead_letters.list(queue, bodies=False)
        assert _ids(letters) == [job.id for job in jobs]
        assert [(letter.name, letter.reason) for letter in letters] == [("conformance_image", "rejected")] * 3
        for letter in letters:
            if not letter.body:
                with pytest.raises(DecodeError, match="no body"):
                    letter.job()

    def test_one_of_many_dead_letters_is_shown(self, orchestrator: Orchestrator, queue: str) -> None:
        jobs = [image_job(str(number)) for number in range(45)]
        _bury(orchestrator, queue, *jobs)
        for job in (jobs[0], jobs[20], jobs[44]):
            assert orchestrator.dead_letters.show(queue, job.id).job() == job
        assert _ids(orchestrator.dead_letters.list(queue)) == [job.id for job in jobs]

    def test_dead_letters_have_the_ids_and_names_that_only_their_bodies_tell(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        bodies: dict[str, Any] = {
            "protocol-1": {"task": "nobody", "id": "protocol-1", "args": [], "kwargs": {}},
            "legacy": {"id": "legacy", "job_schema": {"name": "nobody", "input": {}}},
            "upstream": {"id": "upstream", "schema_name": "nobody", "payload": {}},
        }
        orchestrator.declare_queue(queue)
        for body in bodies.values():
            put_json(orchestrator, queue, body)
            with pytest.raises(DecodeError):
                orchestrator.receive_message(queue, timeout=PATIENCE)
        for letters in (orchestrator.dead_letters.list(queue), orchestrator.dead_letters.list(queue, bodies=False)):
            assert [(letter.id, letter.name) for letter in letters] == [(job_id, "nobody") for job_id in bodies]
        assert orchestrator.dead_letters.show(queue, "legacy").name == "nobody"
        assert orchestrator.dead_letters.replay(queue, "upstream") == ["upstream"]
        assert _ids(orchestrator.dead_letters.list(queue)) == ["protocol-1", "legacy"]

    def test_one_unreadable_dead_letter_does_not_hide_the_others(self, orchestrator: Orchestrator, queue: str) -> None:
        first, last = image_job("first"), image_job("last")
        _bury(orchestrator, queue, first)
        message = encode(image_job("odd"))
        for changed in (
            {"id": ["x"], "task": {"a": 1}, "x-dead-letter": "gone"},
            {"x-dead-letter": {"reason": [1], "error": 5, "at": "soon", "queue": None, "losses": "many", "id": 5}},
            {"id": "", "task": None, "x-dead-letter": {"at": {}, "worker": ["w"]}},
        ):
            put_raw(orchestrator, f"{queue}.dlq", replace(message, headers={**message.headers, **changed}))
        put_raw(orchestrator, f"{queue}.dlq", replace(message, body=b"\xff", headers={}))
        wait_until(lambda: orchestrator.dead_letters.count(queue) == 5, "dead letters counted")
        _bury(orchestrator, queue, last)
        dead = orchestrator.dead_letters
        for letters in (dead.list(queue), dead.list(queue, bodies=False)):
            assert len(letters) == 6
            assert (letters[0].id, letters[-1].id) == (first.id, last.id)
        assert dead.show(queue, last.id).job() == last
        assert dead.replay(queue, last.id) == [last.id]
        wait_until(lambda: dead.count(queue) == 5, "five dead letters left")
        assert len(dead.replay(queue)) == 5

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
            with pytest.raises(type(error)), orchestrator.receiving(f"{queue}.dlq", timeout=PATIENCE) as dead:  # noqa: PT012 - the block is what is tested
                assert dead is not None
                raise error
            [letter] = orchestrator.dead_letters.list(queue)
            assert (letter.id, letter.queue, letter.error) == (job.id, queue, str(error))
        assert _ids(orchestrator.dead_letters.list(f"{queue}.dlq")) == [job.id]
        assert orchestrator.dead_letters.replay(f"{queue}.dlq") == [job.id]
        assert receive_all(orchestrator, queue) == [job]

    def test_a_dead_letter_whose_worker_vanished_can_be_received(self, orchestrator: Orchestrator, queue: str) -> None:
        lost = encode(image_job("a"))
        orchestrator.client.publish(replace(lost, headers={**lost.headers, LOSSES: 99}), queue=f"{queue}.dlq")
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

    @pytest.mark.parametrize("stream", [False, True])
    def test_closing_ends_the_wait_of_another_thread(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str, stream: bool
    ) -> None:
        orchestrator.declare_queue(queue)
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                if stream:
                    with other_orchestrator.client.consume([queue]) as source:
                        source.next()
                else:
                    other_orchestrator.receive_message(queue, timeout=PATIENCE * 10)
            except ClosedError as error:
                raised.append(error)

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        wait_until(lambda: orchestrator.queue_info(queue).consumers != 0, "the other one waits")
        other_orchestrator.close()
        waiter.join(PATIENCE)
        assert len(raised) == 1
        orchestrator.publish_message(queue, image_job("kept"))
        assert urls(receive_all(orchestrator, queue)) == ["kept"]

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
