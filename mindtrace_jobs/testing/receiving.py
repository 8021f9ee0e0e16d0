"""The contract of taking jobs by hand: acknowledged when done, retried or dead-lettered when not, never early."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from mindtrace_jobs.clients import Capability
from mindtrace_jobs.errors import ConfigurationError, InvalidPayloadError, RejectJob, RetryJob
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import ExecutionStatus
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.base import PATIENCE, QUICK, Conformance, can, receive_all, wait_for_ready, with_policy
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, TrainingSchema, image_job, urls


class ReceivingConformance(Conformance):
    """``receiving``, delays and expiry, and what comes back."""

    # --- receiving

    def test_a_block_that_ends_well_acknowledges(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        with orchestrator.receiving(queue, schema=ImageSchema) as job:
            assert job is not None
            assert job.status is ExecutionStatus.RUNNING
            assert job.payload.input.url == "a"
            assert orchestrator.receive_message(queue) is None
            job.payload.output = ImageOutput(objects=["cat"])
        assert orchestrator.receive_message(queue) is None
        assert orchestrator.queue_info(queue).dead_lettered == 0

    def test_receiving_gives_none_when_there_is_nothing(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        with orchestrator.receiving(queue) as job:
            assert job is None
        with orchestrator.receiving(queue, timeout=0.05) as job:
            assert job is None

    def test_a_block_that_fails_has_its_job_retried_then_dead_lettered(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        retrying = with_policy(orchestrator)
        for _ in range(QUICK.max_retries + 1):
            with pytest.raises(ZeroDivisionError), retrying.receiving(queue, timeout=PATIENCE) as job:  # noqa: PT012 - the block is what is tested
                assert job is not None
                _ = 1 / 0
        [letter] = retrying.dead_letters.list(queue)
        assert (letter.reason, letter.error_type, letter.retries) == (
            "retries-exhausted",
            "ZeroDivisionError",
            QUICK.max_retries,
        )
        assert retrying.receive_message(queue) is None

    def test_a_rejected_job_is_dead_lettered_at_once(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        with pytest.raises(RejectJob), orchestrator.receiving(queue):
            raise RejectJob("no such image")
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.reason, letter.error, letter.retries) == ("rejected", "no such image", 0)

    def test_a_job_that_asks_for_a_pause_gets_it(self, orchestrator: Orchestrator, queue: str) -> None:
        patient = with_policy(orchestrator, RetryPolicy(max_retries=1, initial=3600.0))
        orchestrator.publish_message(queue, image_job("a"))
        start = time.monotonic()
        with pytest.raises(RetryJob), patient.receiving(queue):
            raise RetryJob("busy", delay=0.2)
        with patient.receiving(queue, timeout=PATIENCE) as job:
            assert job is not None
            assert time.monotonic() - start >= 0.2
            assert urls([job]) == ["a"]

    def test_an_interrupted_block_requeues_its_job_in_front(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_many(queue, [image_job("a"), image_job("b")])
        with pytest.raises(KeyboardInterrupt), orchestrator.receiving(queue):
            raise KeyboardInterrupt
        assert urls(receive_all(orchestrator, queue)) == ["a", "b"]

    def test_a_received_job_is_nobody_elses(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        with orchestrator.receiving(queue) as job:
            assert job is not None
            assert other_orchestrator.receive_message(queue) is None
            assert other_orchestrator.queue_status(queue) == 0

    def test_receiving_of_another_schema_dead_letters_and_raises(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_many(queue, [image_job("bad"), image_job("good")])
        with pytest.raises(InvalidPayloadError), orchestrator.receiving(queue, schema=TrainingSchema):
            pass
        assert urls(receive_all(orchestrator, queue)) == ["good"]
        assert orchestrator.queue_info(queue).dead_lettered == 1

    # --- what a holder leaves behind

    def test_what_a_vanished_holder_held_comes_back_in_order(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_many(queue, [image_job(name) for name in "abc"])
        with orchestrator.client.consume([queue], prefetch=3) as source:
            held = [source.next(PATIENCE) for _ in range(3)]
            assert None not in held
        wait_for_ready(orchestrator, queue, 3)
        assert urls(receive_all(orchestrator, queue)) == ["a", "b", "c"]

    def test_started_work_that_vanished_is_counted_or_at_least_flagged(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        with orchestrator.client.consume([queue]) as source:
            delivery = source.next(PATIENCE)
            assert delivery is not None
            assert (delivery.losses, delivery.redelivered) == (0, False)
            delivery.start()
        wait_for_ready(orchestrator, queue, 1)
        delivery = orchestrator.client.get(queue, PATIENCE)
        assert delivery is not None
        assert delivery.redelivered
        assert delivery.losses == (1 if can(orchestrator, Capability.COUNTS_LOSSES) else 0)
        delivery.acknowledge()

    def test_work_that_never_started_does_not_count(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        for _ in range(5):
            with orchestrator.client.consume([queue]) as source:
                assert source.next(PATIENCE) is not None
            wait_for_ready(orchestrator, queue, 1)
        delivery = orchestrator.client.get(queue, PATIENCE)
        assert delivery is not None
        assert (delivery.losses, delivery.started_before()) == (0, 0)
        delivery.acknowledge()

    # --- time

    def test_a_delayed_job_is_never_early(self, orchestrator: Orchestrator, queue: str) -> None:
        start = time.monotonic()
        orchestrator.publish_message(queue, image_job("late"), delay=0.3)
        orchestrator.publish_message(queue, image_job("now"))
        jobs = [orchestrator.receive_message(queue, timeout=PATIENCE)]
        jobs.append(orchestrator.receive_message(queue, timeout=PATIENCE))
        assert time.monotonic() - start >= 0.3
        assert [job and job.payload.input.url for job in jobs] == ["now", "late"]

    def test_a_job_with_an_eta_is_never_early(self, orchestrator: Orchestrator, queue: str) -> None:
        eta = datetime.now(UTC) + timedelta(seconds=0.3)
        orchestrator.publish_message(queue, image_job("late"), eta=eta)
        job = orchestrator.receive_message(queue, timeout=PATIENCE)
        assert datetime.now(UTC) >= eta
        assert job is not None
        assert urls([job]) == ["late"]

    def test_a_shorter_delay_is_not_held_up_by_a_longer_one(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("slow"), delay=3600)
        orchestrator.publish_message(queue, image_job("quick"), delay=0.05)
        job = orchestrator.receive_message(queue, timeout=PATIENCE)
        assert job is not None
        assert urls([job]) == ["quick"]

    def test_a_delay_may_last_years(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"), delay=10 * 365 * 86_400)
        orchestrator.publish_message(queue, image_job("b"), eta=datetime(9999, 1, 1, tzinfo=UTC))
        orchestrator.publish_message(queue, image_job("now"))
        assert urls(receive_all(orchestrator, queue)) == ["now"]

    def test_an_eta_in_the_past_is_now(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"), eta=datetime(2020, 1, 1, tzinfo=UTC))
        assert urls(receive_all(orchestrator, queue)) == ["a"]

    def test_eta_and_delay_together_or_a_naive_time_are_refused(self, orchestrator: Orchestrator, queue: str) -> None:
        now = datetime.now(UTC)
        with pytest.raises(ConfigurationError):
            orchestrator.publish_message(queue, image_job(), eta=now, delay=1)
        with pytest.raises(ConfigurationError):
            orchestrator.publish_message(queue, image_job(), eta=now.replace(tzinfo=None))

    def test_an_expired_job_is_dead_lettered_and_the_next_is_delivered(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        past = datetime.now(UTC) - timedelta(seconds=1)
        stale = image_job("stale")
        orchestrator.publish_message(queue, stale, expires=past)
        orchestrator.publish_message(queue, image_job("fresh"), expires=timedelta(hours=1))
        assert urls(receive_all(orchestrator, queue)) == ["fresh"]
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.id, letter.reason) == (stale.id, "expired")
