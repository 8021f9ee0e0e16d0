"""The contract of status and results."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.errors import (
    ConfigurationError,
    JobCancelledError,
    JobFailedError,
    JobNotFoundError,
    ResultTimeoutError,
)
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobSchema
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.routing import JobRouter
from mindtrace_jobs.testing.base import (
    PATIENCE,
    Conformance,
    keeps_results,
    receive_all,
    with_policy,
)
from mindtrace_jobs.testing.models import (
    ImageInput,
    ImageOutput,
    ImageSchema,
    image_job,
)
from mindtrace_jobs.testing.running import ONCE, detect


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
        assert (record.status, record.name, record.starts) == (ExecutionStatus.COMPLETED, "conformance_image", 1)
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
