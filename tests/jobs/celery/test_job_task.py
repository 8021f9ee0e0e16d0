"""A job task in one process: called directly, eagerly, and as it publishes."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from mindtrace_jobs import ConfigurationError, Job, JobInput, JobOutput, JobSchema, Orchestrator
from mindtrace_jobs.celery import (
    InvalidInputError,
    InvalidOutputError,
    JobContext,
    JobTask,
    install,
    job_task,
    typed_chain,
)
from tests.jobs.celery.models import (
    DeedSchema,
    DetectionInput,
    DetectionOutput,
    DetectionSchema,
    SummaryInput,
    SummaryOutput,
)
from tests.jobs.celery.models import SummarySchema as Summary

RESULTS = "mindtrace_jobs.results.memory:MemoryBackend+memory://local/job-task"


@pytest.fixture
def app(memory_url: str) -> Any:
    app = Celery("eager", broker=memory_url, backend=RESULTS, set_as_current=False)
    install(app)
    return app


@pytest.fixture
def detect(app: Any) -> JobTask[DetectionInput, DetectionOutput]:
    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
        return DetectionOutput(labels=[input.image])

    return detect


@pytest.fixture
def summarize(app: Any) -> JobTask[SummaryInput, SummaryOutput]:
    @job_task(app, Summary)
    def summarize(input: SummaryInput, job: Job[Any], context: JobContext) -> SummaryOutput:  # noqa: A002
        context.progress(1, 2)
        context.log.warning("seen", extra={"more": 1})
        return SummaryOutput(text=f"{job.payload.name} {context.attempt} {context.cancelled}")

    return summarize


def test_it_is_called_directly_as_the_function_it_is(detect: Any, summarize: Any) -> None:
    assert detect(DetectionInput(image="x")) == DetectionOutput(labels=["x"])
    assert summarize(SummaryInput(labels=[])) == SummaryOutput(text="stack_summary_detection 1 False")


def test_a_test_may_bring_its_own_context(summarize: Any) -> None:
    job = Job(payload=Summary(input=SummaryInput(labels=[])))
    context = JobContext(job, retries=2)
    assert summarize(job.payload.input, job=job, context=context).text.endswith("3 False")
    assert context.last_progress is not None
    assert context.last_progress.current == 1


def test_progress_is_reported_to_nobody_where_no_results_are_kept(memory_url: str) -> None:
    app = Celery("resultless", broker=memory_url, set_as_current=False)
    install(app)

    @job_task(app, Summary)
    def summarize(input: SummaryInput, context: JobContext) -> SummaryOutput:  # noqa: A002
        context.progress(1, 2)
        return SummaryOutput(text=f"{context.last_progress} {context.cancelled}")

    text = summarize.apply(args=[SummaryInput(labels=[])]).get().text
    assert text == "current=1.0 total=2.0 message='' False"


def test_log_records_name_the_job(summarize: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        summarize.apply(args=[SummaryInput(labels=[])], task_id="the-id")
    record: Any = next(record for record in caplog.records if record.message == "seen")
    assert (record.job_id, record.job_name, record.attempt, record.more) == ("the-id", "stack_summary_detection", 1, 1)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([DetectionInput(image="x")], {}),
        ([DetectionSchema(input=DetectionInput(image="x"))], {}),
        ([Job(payload=DetectionSchema(input=DetectionInput(image="x")))], {}),
        ([{"image": "x"}], {}),
        (["x"], {}),
        (["x", 0.25], {}),
        ([], {"image": "x", "threshold": 1}),
        ([], {"input": {"image": "x"}}),
        ([], {"input": DetectionInput(image="x")}),
    ],
)
def test_arguments_of_every_shape_become_one_typed_job(detect: Any, app: Any, args: list[Any], kwargs: Any) -> None:
    result = detect.apply_async(args, kwargs)
    job = Orchestrator.from_celery(app).receive_message("detection_jobs", schema=DetectionSchema)
    assert job is not None
    assert job.id == result.id
    assert job.payload.input.image == "x"


def test_what_does_not_fit_is_refused_where_it_is_published(detect: Any, app: Any) -> None:
    with pytest.raises(InvalidInputError, match="image"):
        detect.delay(threshold=2)
    with pytest.raises(InvalidInputError, match="DetectionSchema"):
        detect.delay(Job(payload=Summary(input=SummaryInput(labels=[]))))
    assert not Orchestrator.from_celery(app).client.exists("detection_jobs")


def test_the_message_shows_monitors_the_job_and_not_its_data(detect: Any, app: Any) -> None:
    detect.delay(image="secret.png")
    delivery = Orchestrator.from_celery(app).client.get("detection_jobs")
    assert delivery is not None
    headers = delivery.message.headers
    assert headers["argsrepr"] == f"(<DetectionSchema job {headers['id']}>,)"
    assert headers["kwargsrepr"] == "{}"
    delivery.requeue()


@pytest.mark.parametrize("expires", [60, datetime(2030, 1, 1, tzinfo=UTC), "2030-01-01T00:00:00+00:00"])
def test_the_broker_is_not_asked_to_delete_expired_jobs(detect: Any, app: Any, expires: Any) -> None:
    detect.apply_async((DetectionInput(image="x"),), expires=expires)
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("detection_jobs")
        assert message.headers["expires"]
        assert "expiration" not in message.properties
        message.ack()


def test_output_is_validated(app: Any) -> None:
    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput):  # type: ignore[no-untyped-def]  # noqa: A002, ANN202
        return {"labels": 3}

    with pytest.raises(InvalidOutputError, match="returned dict, not DetectionOutput") as failure:
        detect.apply(args=[DetectionInput(image="x")], throw=True)
    assert failure.value.errors[0]["type"] == "list_type"


def test_signatures_that_a_worker_cannot_serve_are_refused_when_they_are_defined(app: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes no input"):

        @job_task(app, DetectionSchema)
        def nothing() -> DetectionOutput:
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match="'more'"):

        @job_task(app, DetectionSchema)
        def greedy(input: DetectionInput, more: int) -> DetectionOutput:  # noqa: A002
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match="annotated SummaryInput"):

        @job_task(app, DetectionSchema)
        def other(input: SummaryInput) -> DetectionOutput:  # noqa: A002
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match="annotated SummaryOutput"):

        @job_task(app, DetectionSchema)  # type: ignore[arg-type]
        def returns(input: DetectionInput) -> SummaryOutput:  # noqa: A002
            raise NotImplementedError

    with pytest.raises(ConfigurationError, match="no name"):
        job_task(app, JobSchema[DetectionInput, DetectionOutput])


def test_a_class_may_be_the_task(app: Any) -> None:
    class Detect(JobTask[DetectionInput, DetectionOutput]):
        schema = DetectionSchema

        def run(self, input: DetectionInput, context: JobContext) -> DetectionOutput:  # noqa: A002
            return DetectionOutput(labels=[input.image, str(context.attempt)])

    task = app.register_task(Detect())
    assert task.name == "stack_detection"
    assert task.apply(args=[{"image": "x"}]).get() == DetectionOutput(labels=["x", "1"])


def test_it_acknowledges_late_whatever_the_app_does(memory_url: str) -> None:
    app = Celery("early", broker=memory_url, set_as_current=False)
    app.conf.update(
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_acks_on_failure_or_timeout=False,
        task_serializer="json",
        task_retry_on_worker_lost=True,
    )
    install(app)

    @job_task(app, DetectionSchema, time_limit=7, rate_limit="5/s")
    def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
        return DetectionOutput(labels=[])

    task = app.tasks["stack_detection"]
    assert (task.acks_late, task.reject_on_worker_lost, task.acks_on_failure, task.acks_on_timeout) == (True,) * 4
    assert (task.serializer, task.retry_on_worker_lost, task.time_limit, task.rate_limit) == (
        "pydantic",
        False,
        7,
        "5/s",
    )


def test_submitting_eagerly_gives_a_handle_with_the_result(detect: Any, app: Any) -> None:
    app.conf.update(task_always_eager=True, task_store_eager_result=True)
    assert detect.submit(DetectionInput(image="x")).result(1) == DetectionOutput(labels=["x"])


def test_a_submission_that_cannot_be_published_leaves_no_record(detect: Any, app: Any) -> None:
    app.conf.task_create_missing_queues = False
    with pytest.raises(Exception, match="missing"):
        detect.submit(DetectionInput(image="x"), task_id="never", queue="no such queue")
    assert AsyncResult("never", app=app).state == "PENDING"


def test_a_chain_that_cannot_work_is_refused_when_it_is_built(app: Any, detect: Any, summarize: Any) -> None:
    class CountInput(JobInput):
        labels: int

    class CountSchema(JobSchema[CountInput, JobOutput]):
        name: str = "count_for_chain"

    @job_task(app, CountSchema)
    def counting(input: CountInput) -> JobOutput:  # noqa: A002
        return JobOutput()

    assert typed_chain(detect.s(DetectionInput(image="x")), summarize).tasks
    with pytest.raises(ConfigurationError, match="image is required"):
        typed_chain(summarize, detect)
    with pytest.raises(ConfigurationError, match="labels"):
        typed_chain(detect, counting)
    with pytest.raises(ConfigurationError, match="no job task"):
        typed_chain(detect, app.tasks["celery.accumulate"])


def test_a_worker_without_the_install_is_told_so(memory_url: str) -> None:
    from mindtrace_jobs.celery import cancel

    with pytest.raises(ConfigurationError, match="install"):
        cancel(Celery("none", broker=memory_url, set_as_current=False), "id")


def test_another_schema_of_the_same_name_is_not_run(detect: Any) -> None:
    assert DeedSchema.model_fields["name"].default != detect.name
