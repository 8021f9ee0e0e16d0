"""The lifecycle carried out in memory: odd headers, failures around a job, and records that are written late."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from celery import Celery

from mindtrace_jobs import (
    Consumer,
    ExecutionStatus,
    InvalidInputError,
    Job,
    JobRecord,
    LocalClient,
    Orchestrator,
    PublishError,
    RejectJob,
    RetryPolicy,
)
from mindtrace_jobs.celery import install, job_task
from mindtrace_jobs.clients.delivery import ChannelDelivery
from mindtrace_jobs.testing.base import PATIENCE
from mindtrace_jobs.testing.models import ImageInput, ImageOutput, ImageSchema, image_job
from mindtrace_jobs.wire.message import encode

ONCE = RetryPolicy(max_retries=0)


@pytest.fixture
def orchestrator(memory_url: str) -> Any:
    with Orchestrator.from_url(memory_url) as orchestrator:
        yield orchestrator


def detect(job: Job[ImageSchema]) -> ImageOutput:
    return ImageOutput(objects=[job.payload.input.url])


@pytest.mark.parametrize(
    "headers",
    [
        {"eta": "9999-12-31T23:59:59.999999+00:00"},
        {"eta": 5},
        {"id": "\ud800", "x-job-tracked": True},
        {"id": 7, "x-job-tracked": True},
        {"task": "\ud800", "x-job-tracked": True},
        {"retries": "many"},
        {"retries": -5},
        {"x-attempts": [1]},
        {"x-attempts": -1},
        {"x-job-queued-at": "yesterday"},
        {"expires": {"at": 1}},
    ],
    ids=repr,
)
def test_no_header_ends_a_consumer_or_holds_up_what_is_behind(
    orchestrator: Orchestrator, headers: dict[str, Any]
) -> None:
    message = encode(image_job("odd"), tracked=True)
    orchestrator.client.publish(dataclasses.replace(message, headers={**message.headers, **headers}), queue="q")
    behind = orchestrator.submit(image_job("behind"), queue="q")
    consumer = Consumer(orchestrator, "q", detect, retry=ONCE)
    consumer.consume_until_empty()
    assert behind.status() is ExecutionStatus.COMPLETED
    assert orchestrator.queue_status("q") == 0


def test_a_failure_around_a_job_is_a_failure_of_the_job(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = orchestrator.submit(image_job("a"), queue="q")

    def broken(*_: Any, **__: Any) -> None:
        raise LookupError("of this package's own making")

    monkeypatch.setattr(orchestrator.lifecycle, "start", broken)
    assert Consumer(orchestrator, "q", detect, retry=ONCE).consume_until_empty() == 1
    [letter] = orchestrator.dead_letters.list("q")
    assert (letter.id, letter.error_type) == (handle.id, "LookupError")
    assert handle.status() is ExecutionStatus.FAILED


def test_a_replay_that_fails_leaves_the_record_as_it_was(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: Job[ImageSchema]) -> None:
        raise RejectJob("not mine")

    handle = orchestrator.submit(image_job("a"), queue="q")
    Consumer(orchestrator, "q", refuse).consume_until_empty()
    before = handle.record()
    with monkeypatch.context() as patched:

        def full(*_: Any, **__: Any) -> None:
            raise PublishError("the queue is full")

        patched.setattr(ChannelDelivery, "replace", full)
        with pytest.raises(PublishError):
            orchestrator.dead_letters.replay("q")
    assert handle.record() == before
    assert orchestrator.dead_letters.count("q") == 1


def test_a_record_survives_its_way_through_json() -> None:
    record = JobRecord[Any].model_validate({"id": "a", "status": "failed", "starts": 3, "retries": 2, "error": "x"})
    assert record.retries == 2
    assert JobRecord[Any].model_validate_json(record.model_dump_json()) == record
    assert JobRecord[Any].model_validate(record.model_dump()).retries == 2


def test_a_letter_with_an_odd_content_type_hides_no_other(orchestrator: Orchestrator) -> None:
    message = encode(image_job("odd"))
    odd: Any = 5
    orchestrator.client.publish(dataclasses.replace(message, content_type=odd), queue="q.dlq")
    orchestrator.client.publish(encode(image_job("other")), queue="q.dlq")
    assert len(orchestrator.dead_letters.list("q")) == 2


def test_a_dead_letter_is_read_by_hand_whatever_its_times_say(orchestrator: Orchestrator) -> None:
    message = encode(image_job("odd"))
    orchestrator.client.publish(
        dataclasses.replace(message, headers={**message.headers, "eta": "soon", "expires": 1}), queue="q.dlq"
    )
    job = orchestrator.receive_message("q.dlq", timeout=PATIENCE)
    assert job is not None


def test_results_of_a_job_task_can_be_pickled(redis_url: str) -> None:
    app = Celery("pickled", broker="memory://pickled", backend=redis_url)
    install(app)

    @job_task(app, ImageSchema)
    def look(input: ImageInput) -> ImageOutput:  # noqa: A002
        raise NotImplementedError

    result = look.AsyncResult("x")
    assert pickle.loads(pickle.dumps(result)).id == "x"
    with pytest.raises(InvalidInputError):
        look.submit(5)  # type: ignore[arg-type]
    app.close()


def test_a_job_tasks_own_async_result_raises_what_the_job_raised(redis_url: str) -> None:
    app = Celery("raised", broker="memory://raised", backend=redis_url)
    install(app)

    @job_task(app, ImageSchema)
    def look(input: ImageInput) -> ImageOutput:  # noqa: A002
        raise NotImplementedError

    app.backend.store_result("x", LookupError("nothing there"), "FAILURE")
    with pytest.raises(LookupError, match="nothing there"):
        look.AsyncResult("x").get(timeout=PATIENCE)
    app.close()


def test_while_the_results_are_away_jobs_run_once_and_hold_up_nobody(memory_url: str) -> None:
    ran: list[str] = []

    def note(job: Job[ImageSchema]) -> None:
        ran.append(job.payload.input.url)

    with Orchestrator(
        LocalClient(memory_url.removeprefix("memory://"), result_backend="redis://127.0.0.1:1/0"), track=True
    ) as orchestrator:
        orchestrator.publish_many("q", [image_job("a"), image_job("b")])
        assert Consumer(orchestrator, "q", note).consume(2, timeout=PATIENCE) == 2
        assert ran == ["a", "b"]
        assert orchestrator.queue_status("q") == 0
