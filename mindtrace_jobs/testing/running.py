"""The contract of Consumer."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from pydantic import ValidationError

from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.errors import (
    ConfigurationError,
    RejectJob,
    RetryJob,
)
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobOutput
from mindtrace_jobs.orchestrator import Orchestrator
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

    @pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError("3")])
    def test_a_handler_that_exits_or_is_cancelled_has_failed_and_the_next_job_runs(
        self, orchestrator: Orchestrator, queue: str, error: BaseException
    ) -> None:
        ran: list[str] = []

        def handle(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)
            if job.payload.input.url == "leave":
                raise error  # as a script that is called as a handler does, or asyncio.run

        orchestrator.publish_many(queue, [image_job("leave"), image_job("stay")])
        assert Consumer(orchestrator, queue, handle, retry=ONCE).consume_until_empty() == 2
        assert ran == ["leave", "stay"]
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.reason, letter.error_type, letter.error) == ("retries-exhausted", type(error).__name__, "3")

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
                delivery = source.next(PATIENCE)
                assert delivery is not None
                received = orchestrator.lifecycle.receive(delivery, policy.max_worker_losses)
                assert received is not None
                assert orchestrator.lifecycle.start(received)
        consumer = Consumer(orchestrator, queue, detect, retry=policy)
        consumer.consume(1, timeout=PATIENCE)
        [letter] = orchestrator.dead_letters.list(queue)
        assert (letter.id, letter.reason) == (handle.id, "worker-lost")
        assert orchestrator.queue_status(queue) == 0
        if keeps_results(orchestrator):
            assert handle.status() is ExecutionStatus.FAILED
