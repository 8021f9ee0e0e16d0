"""The contract of results, and of Consumer."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.errors import (
    ConfigurationError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    RejectJob,
    ResultTimeoutError,
    RetryJob,
)
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobOutput, JobSchema
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.retry import RetryPolicy
from mindtrace_jobs.routing import JobRouter
from mindtrace_jobs.testing.base import (
    PATIENCE,
    QUICK,
    Conformance,
    NewQueue,
    keeps_results,
    put_json,
    receive_all,
    wait_for_ready,
    wait_until,
    with_policy,
)
from mindtrace_jobs.testing.models import (
    ImageInput,
    ImageOutput,
    ImageSchema,
    TrainingInput,
    TrainingSchema,
    image_job,
    urls,
)

ONCE = RetryPolicy(max_retries=0)


def detect(job: Job[ImageSchema]) -> ImageOutput:
    """A handler that works, unless told otherwise."""
    if job.payload.input.url == "bad":
        raise ValueError("cannot read the image")
    return ImageOutput(objects=[job.payload.input.url])


class Detector(Consumer[ImageSchema]):
    """A consumer by subclassing."""

    schema = ImageSchema

    def run(self, job: Job[ImageSchema]) -> ImageOutput:
        return detect(job)


class ResultConformance(Conformance):
    """Status and results of submitted jobs, where they are kept."""

    def test_submit_routes_by_the_router(self, orchestrator: Orchestrator, queue: str) -> None:
        routed = with_policy(orchestrator, router=JobRouter(rules=[(ImageSchema.model_fields["name"].default, queue)]))
        job = image_job("a")
        assert routed.submit(job).id == job.id
        assert receive_all(routed, queue) == [job]

    def test_the_documented_names_go_to_the_documented_queues(self, orchestrator: Orchestrator) -> None:
        for name, queue in (
            ("vbrain_training", "vbrain_jobs"),
            ("object_detection", "detection_jobs"),
            ("conformance", "default_jobs"),
        ):
            job = Job(name=name, payload=JobSchema(name="conformance_routed", input=ImageInput(url=name)))
            orchestrator.submit(job)
            assert job.id in [received.id for received in receive_all(orchestrator, queue)]

    def test_an_unrouted_job_is_refused_and_not_recorded(self, orchestrator: Orchestrator) -> None:
        routed = with_policy(orchestrator, router=JobRouter(rules=[], default=None))
        job = image_job("a")
        with pytest.raises(ConfigurationError, match="conformance_image"):
            routed.submit(job)
        if keeps_results(orchestrator):
            with pytest.raises(JobNotFoundError):
                orchestrator.job_status(job.id)

    def test_a_submitted_job_reads_as_queued_and_has_no_result_yet(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        job = image_job("a")
        handle = orchestrator.submit(job, queue=queue)
        if not keeps_results(orchestrator):
            return
        assert handle.status() is ExecutionStatus.QUEUED
        assert other_orchestrator.job_status(job.id) is ExecutionStatus.QUEUED
        assert orchestrator.job_result(job.id) is None
        with pytest.raises(ResultTimeoutError) as caught:
            handle.result(timeout=0.01)
        assert isinstance(caught.value, TimeoutError)

    def test_an_id_never_seen_is_an_error_and_not_a_guess(self, orchestrator: Orchestrator, queue: str) -> None:
        if not keeps_results(orchestrator):
            return
        for ask in (orchestrator.job_status, orchestrator.job_result, orchestrator.cancel, orchestrator.job_record):
            with pytest.raises(JobNotFoundError, match=queue) as caught:
                ask(queue)
            assert isinstance(caught.value, KeyError)

    def test_a_published_job_is_not_recorded(self, orchestrator: Orchestrator, queue: str) -> None:
        job = image_job("a")
        orchestrator.publish_message(queue, job)
        Consumer(orchestrator, queue, detect).consume_until_empty()
        if keeps_results(orchestrator):
            with pytest.raises(JobNotFoundError):
                orchestrator.job_status(job.id)

    def test_a_published_job_is_recorded_where_tracking_is_on(self, orchestrator: Orchestrator, queue: str) -> None:
        tracking = with_policy(orchestrator, track=True)
        job = image_job("a")
        tracking.publish_message(queue, job)
        Consumer(tracking, queue, detect).consume_until_empty()
        if keeps_results(orchestrator):
            assert tracking.job_status(job.id) is ExecutionStatus.COMPLETED

    def test_a_completed_job_has_its_typed_output_times_and_worker(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        handle = orchestrator.submit(image_job("cat"), queue=queue)
        assert Consumer(orchestrator, queue, detect).consume_until_empty() == 1
        if not keeps_results(orchestrator):
            return
        output = handle.result(timeout=PATIENCE)
        assert output == ImageOutput(objects=["cat"])
        assert other_orchestrator.job_result(handle.id) == output
        record = handle.record()
        assert (record.status, record.name, record.attempts) == (ExecutionStatus.COMPLETED, "conformance_image", 1)
        assert record.queued_at is not None
        assert record.started_at is not None
        assert record.completed_at is not None
        assert record.queued_at <= record.started_at <= record.completed_at
        assert record.worker

    def test_a_running_job_reads_as_running(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue)
        with orchestrator.receiving(queue) as job:
            assert job is not None
            if keeps_results(orchestrator):
                assert handle.status() is ExecutionStatus.RUNNING
                assert not handle.cancel()

    def test_the_output_set_in_a_receiving_block_is_the_result(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue)
        with orchestrator.receiving(queue, schema=ImageSchema) as job:
            assert job is not None
            job.payload.output = ImageOutput(objects=["dog"])
        if keeps_results(orchestrator):
            assert handle.result() == ImageOutput(objects=["dog"])

    def test_a_job_without_output_completes_with_none(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue)
        Consumer(orchestrator, queue, lambda job: None).consume_until_empty()
        if keeps_results(orchestrator):
            assert handle.wait(timeout=PATIENCE).status is ExecutionStatus.COMPLETED
            assert handle.result() is None

    def test_a_failure_comes_back_with_its_type_and_message(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("bad"), queue=queue)
        Consumer(orchestrator, queue, detect, retry=ONCE).consume_until_empty()
        if not keeps_results(orchestrator):
            return
        assert handle.status() is ExecutionStatus.FAILED
        with pytest.raises(JobFailedError, match="cannot read the image") as caught:
            handle.result()
        assert (caught.value.job_id, caught.value.error_type) == (handle.id, "ValueError")
        with pytest.raises(JobFailedError):
            orchestrator.job_result(handle.id)

    def test_waiting_for_a_result_ends_when_another_thread_has_made_it(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue)
        worker = threading.Thread(target=lambda: Consumer(orchestrator, queue, detect).consume(1, timeout=PATIENCE))
        worker.start()
        if keeps_results(orchestrator):
            assert handle.result(timeout=PATIENCE) == ImageOutput(objects=["a"])
        worker.join(PATIENCE)
        assert not worker.is_alive()

    def test_a_saved_job_can_be_asked_for(self, orchestrator: Orchestrator, other_orchestrator: Orchestrator) -> None:
        if not keeps_results(orchestrator):
            return
        job = image_job("a")
        orchestrator.save(job)
        assert other_orchestrator.job_status(job.id) is ExecutionStatus.QUEUED
        job.payload.output = ImageOutput(objects=["x"])
        job.status = ExecutionStatus.COMPLETED
        orchestrator.save(job)
        assert other_orchestrator.job_status(job.id) is ExecutionStatus.COMPLETED
        assert other_orchestrator.job_result(job.id) == ImageOutput(objects=["x"])
        failed = image_job("b", status=ExecutionStatus.FAILED, error="broken")
        orchestrator.save(failed)
        with pytest.raises(JobFailedError, match="broken"):
            other_orchestrator.job_result(failed.id)

    def test_a_cancelled_job_is_not_run(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        cancelled = orchestrator.submit(image_job("cancelled"), queue=queue)
        orchestrator.submit(image_job("kept"), queue=queue)
        if not keeps_results(orchestrator):
            return
        assert other_orchestrator.cancel(cancelled.id)
        ran: list[str] = []

        def note(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)

        Consumer(orchestrator, queue, note).consume_until_empty()
        assert ran == ["kept"]
        assert cancelled.status() is ExecutionStatus.CANCELLED
        with pytest.raises(JobCancelledError):
            cancelled.result()
        assert not cancelled.cancel()
        assert orchestrator.dead_letters.count(queue) == 0

    def test_a_job_cancelled_while_it_lies_ready_in_a_consumer_is_not_run(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        handles = [orchestrator.submit(image_job(name), queue=queue) for name in "abc"]
        if not keeps_results(orchestrator):
            return
        ran: list[str] = []

        def cancel_the_second(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)
            if job.payload.input.url == "a":
                other_orchestrator.cancel(handles[1].id)

        assert Consumer(orchestrator, queue, cancel_the_second, prefetch=3).consume_until_empty() == 3
        assert ran == ["a", "c"]
        assert handles[1].status() is ExecutionStatus.CANCELLED

    def test_a_cancelled_job_is_not_received_by_hand(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue)
        if not keeps_results(orchestrator):
            return
        handle.cancel()
        assert orchestrator.receive_message(queue) is None
        assert orchestrator.queue_status(queue) == 0

    def test_a_submitted_job_that_expires_reads_as_failed(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue, expires=timedelta(seconds=-1))
        assert orchestrator.receive_message(queue) is None
        if keeps_results(orchestrator):
            with pytest.raises(JobFailedError, match="expired"):
                handle.result()


class ConsumerConformance(Conformance):
    """Consumer: take, run, acknowledge."""

    def test_a_handler_runs_every_job_in_order(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_many(queue, [image_job(str(number)) for number in range(20)])
        ran: list[str] = []

        def note(job: Job[ImageSchema]) -> ImageOutput:
            assert type(job.payload) is ImageSchema
            assert job.status is ExecutionStatus.RUNNING
            ran.append(job.payload.input.url)
            return detect(job)

        assert Consumer(orchestrator, [queue], note, prefetch=5).consume_until_empty() == 20
        assert ran == [str(number) for number in range(20)]
        assert orchestrator.queue_status(queue) == 0

    def test_a_subclass_runs_jobs_of_its_schema(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        orchestrator.publish_message(queue, Job(payload=TrainingSchema(input=TrainingInput(epochs=1))))
        orchestrator.publish_message(queue, image_job("b"))
        assert Detector(orchestrator, queue).consume_until_empty() == 3
        assert [letter.reason for letter in orchestrator.dead_letters.list(queue)] == ["invalid-input"]

    def test_a_consumer_without_work_to_do_is_refused(self, orchestrator: Orchestrator, queue: str) -> None:
        with pytest.raises(ConfigurationError):
            Consumer(orchestrator, queue)
        with pytest.raises(ConfigurationError):
            Consumer(orchestrator, [], detect).consume_until_empty()

    def test_what_would_dead_letter_every_job_is_refused(self, orchestrator: Orchestrator, queue: str) -> None:
        async def later(job: Job[ImageSchema]) -> ImageOutput:
            return detect(job)

        class Mistaken(Consumer[Any]):
            schema = ImageInput  # a schema is meant

            def run(self, job: Job[Any]) -> None: ...

        made: Any = Consumer  # no type checker looks on
        for mistake in (
            lambda: made(orchestrator, queue, later),
            lambda: made(orchestrator, queue, detect, schema=ImageInput),
            lambda: made(orchestrator.client, queue, detect),
            lambda: made(orchestrator, 5, detect),
            lambda: Mistaken(orchestrator, queue),
        ):
            with pytest.raises(ConfigurationError):
                mistake()

    def test_consume_stops_after_so_many(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_many(queue, [image_job(str(number)) for number in range(10)])
        consumer = Consumer(orchestrator, queue, detect, prefetch=10)
        assert consumer.consume(num_messages=3) == 3
        wait_for_ready(orchestrator, queue, 7)
        assert consumer.consume(num_messages=2) == 2
        assert urls(receive_all(orchestrator, queue)) == ["5", "6", "7", "8", "9"]

    def test_consume_stops_after_its_time(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        assert Consumer(orchestrator, queue, detect).consume(timeout=0.05) == 0

    def test_one_consumer_serves_several_queues(self, orchestrator: Orchestrator, new_queue: NewQueue) -> None:
        queues = [new_queue(), new_queue()]
        for queue in queues:
            orchestrator.publish_many(queue, [image_job(), image_job()])
        assert Consumer(orchestrator, queues, detect).consume_until_empty() == 4

    def test_a_consumer_waits_for_work_and_stops_when_told(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.declare_queue(queue)
        ran = threading.Event()

        def note(job: Job[ImageSchema]) -> None:
            ran.set()

        consumer = Consumer(orchestrator, queue, note)
        settled: list[int] = []
        worker = threading.Thread(target=lambda: settled.append(consumer.run_forever()))
        worker.start()
        other_orchestrator.publish_message(queue, image_job())
        assert ran.wait(PATIENCE)
        consumer.stop()
        worker.join(PATIENCE)
        assert settled == [1]

    def test_a_job_is_acknowledged_only_after_its_handler(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("a"))

        def interrupted(job: Job[ImageSchema]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Consumer(orchestrator, queue, interrupted).consume_until_empty()
        wait_for_ready(other_orchestrator, queue, 1)
        assert urls(receive_all(other_orchestrator, queue)) == ["a"]

    def test_a_failing_job_is_retried_with_growing_pauses_then_dead_lettered(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        policy = RetryPolicy(max_retries=2, initial=0.1, factor=3.0, jitter=0.0)
        starts: list[float] = []

        def fail(job: Job[ImageSchema]) -> None:
            starts.append(time.monotonic())
            raise ValueError("never works")

        job = image_job("a")
        orchestrator.publish_message(queue, job)
        assert Consumer(orchestrator, queue, fail, retry=policy).consume(3, timeout=PATIENCE) == 3
        assert starts[1] - starts[0] >= 0.1
        assert starts[2] - starts[1] >= 0.3
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.id, letter.name, letter.queue) == (job.id, "conformance_image", queue)
        assert (letter.reason, letter.error, letter.error_type) == ("retries-exhausted", "never works", "ValueError")
        assert letter.retries == 2
        assert letter.worker
        assert letter.at is not None
        assert letter.job() == job
        assert orchestrator.queue_status(queue) == 0

    def test_a_job_that_works_the_second_time_is_done(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("a"), queue=queue)
        tries: list[str] = []

        def second_time(job: Job[ImageSchema]) -> ImageOutput:
            tries.append(job.id)
            if len(tries) == 1:
                raise ConnectionError("camera")
            return ImageOutput(objects=["done"])

        assert Consumer(orchestrator, queue, second_time, retry=QUICK).consume(2, timeout=PATIENCE) == 2
        assert tries == [handle.id] * 2
        assert orchestrator.dead_letters.count(queue) == 0
        if keeps_results(orchestrator):
            assert handle.result() == ImageOutput(objects=["done"])
            assert handle.record().error is None

    def test_a_job_waiting_for_its_retry_reads_as_queued(self, orchestrator: Orchestrator, queue: str) -> None:
        handle = orchestrator.submit(image_job("bad"), queue=queue)
        policy = RetryPolicy(max_retries=1, initial=3600.0)
        assert Consumer(orchestrator, queue, detect, retry=policy).consume_until_empty() == 1
        assert orchestrator.queue_status(queue) == 0
        if keeps_results(orchestrator):
            assert handle.status() is ExecutionStatus.QUEUED

    def test_handlers_reject_and_choose_the_pause(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("later"))
        orchestrator.publish_message(queue, image_job("never"))
        ran: list[str] = []

        def choose(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)
            if ran.count("later") == 1 and ran[-1] == "later":
                raise RetryJob("busy", delay=0.05)
            if ran[-1] == "never":
                raise RejectJob("not mine")

        patient = RetryPolicy(max_retries=1, initial=3600.0)
        assert Consumer(orchestrator, queue, choose, retry=patient).consume(3, timeout=PATIENCE) == 3
        assert sorted(ran) == ["later", "later", "never"]
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.reason, letter.error) == ("rejected", "not mine")

    def test_a_handler_that_exits_has_failed_and_the_next_job_runs(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        ran: list[str] = []

        def handle(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)
            if job.payload.input.url == "leave":
                raise SystemExit(3)  # as a script that is called as a handler does

        orchestrator.publish_many(queue, [image_job("leave"), image_job("stay")])
        assert Consumer(orchestrator, queue, handle, retry=ONCE).consume_until_empty() == 2
        assert ran == ["leave", "stay"]
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.reason, letter.error_type, letter.error) == ("retries-exhausted", "SystemExit", "3")

    def test_an_output_of_another_type_is_dead_lettered_with_a_reason(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        class WrongOutput(JobOutput):
            number: int

        handle = orchestrator.submit(image_job("a"), queue=queue)
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, queue, lambda job: WrongOutput(number=1))
        assert consumer.consume_until_empty() == 1
        [letter] = orchestrator.dead_letters.list(queue)
        assert letter.reason == "invalid-output"
        assert "WrongOutput" in letter.error
        assert "ImageOutput" in letter.error
        if keeps_results(orchestrator):
            assert handle.status() is ExecutionStatus.FAILED

    def test_a_wrong_output_is_refused_as_it_is_assigned(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a"))
        job = orchestrator.receive_message(queue, schema=ImageSchema)
        assert job is not None
        with pytest.raises(ValidationError):
            job.payload.output = 7  # type: ignore[assignment]
        with pytest.raises(ValidationError):
            job.status = "nonsense"  # type: ignore[assignment]

    def test_invalid_input_is_dead_lettered_at_once_and_the_next_job_runs(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.declare_queue(queue)
        headers = {"lang": "py", "task": "conformance_image", "id": f"bad-{queue}"}
        put_json(orchestrator, queue, [[], {"url": 5, "threshold": "high"}, {}], headers)
        orchestrator.publish_message(queue, image_job("good"))
        ran: list[str] = []

        def note(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)

        assert Consumer(orchestrator, queue, note).consume_until_empty() == 2
        assert ran == ["good"]
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.id, letter.reason, letter.retries) == (f"bad-{queue}", "invalid-input", 0)
        assert "threshold" in letter.error
        assert "high" not in letter.error  # payloads are private

    def test_two_consumers_share_a_queue_and_run_each_job_once(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        jobs = [image_job(str(number)) for number in range(100)]
        orchestrator.publish_many(queue, jobs)
        ran: list[str] = []
        consumers: list[Consumer[ImageSchema]] = [
            Consumer(one, queue, lambda job: ran.append(job.id), prefetch=3)
            for one in (orchestrator, other_orchestrator)
        ]
        workers = [threading.Thread(target=consumer.run_forever) for consumer in consumers]
        for worker in workers:
            worker.start()
        wait_until(lambda: len(ran) >= len(jobs), "all jobs run")
        for consumer in consumers:
            consumer.stop()
        for worker in workers:
            worker.join(PATIENCE)
        assert sorted(ran) == sorted(job.id for job in jobs)

    def test_a_worker_that_vanishes_too_often_has_its_job_dead_lettered(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        policy = RetryPolicy(max_worker_losses=2)
        handle = orchestrator.submit(image_job("a"), queue=queue)
        for _ in range(policy.max_worker_losses):
            # A holder that starts the job and is gone without a word.
            with orchestrator.client.consume([queue]) as source:
                taken = None
                while taken is None:
                    delivery = source.next(PATIENCE)
                    assert delivery is not None
                    taken = orchestrator.intake.admit(delivery, policy=policy)
                orchestrator.settlement.begin(taken)
        consumer = Consumer(orchestrator, queue, detect, retry=policy)
        consumer.consume(1, timeout=PATIENCE)
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.id, letter.reason) == (handle.id, "worker-lost")
        assert orchestrator.queue_status(queue) == 0
        if keeps_results(orchestrator):
            assert handle.status() is ExecutionStatus.FAILED
