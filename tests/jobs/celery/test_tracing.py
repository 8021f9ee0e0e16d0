"""OpenTelemetry's Celery instrumentation follows a job from whoever publishes it to whoever runs it, retries included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from uuid import uuid4

import pytest
from celery import Celery
from celery._state import set_default_app
from celery.contrib.testing.worker import start_worker
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from mindtrace_jobs import BrokerUnavailableError, Consumer, Job, Orchestrator, RetryJob, RetryPolicy
from mindtrace_jobs.celery import JobContext, JobTask, install, job_task
from tests.jobs.celery.models import (
    DeedInput,
    DeedOutput,
    DeedSchema,
    DetectionInput,
    DetectionOutput,
    DetectionSchema,
)
from tests.jobs.servers import wait_until

PATIENCE = 30.0
QUEUE = "detection_jobs"


class Spans:
    """What an instrumented process exports."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    def of(self, job_id: str, kind: SpanKind) -> list[ReadableSpan]:
        """A job's ended spans of a kind, oldest first."""
        found = [
            span
            for span in self.exporter.get_finished_spans()
            if span.kind is kind and (span.attributes or {}).get("messaging.message.id") == job_id
        ]
        return sorted(found, key=lambda span: span.start_time or 0)

    def wait_for_runs(self, job_id: str, count: int = 1) -> list[ReadableSpan]:
        # The span ends after the result is there to be read.
        wait_until(lambda: len(self.of(job_id, SpanKind.CONSUMER)) == count, f"{count} run span(s) of {job_id}")
        return self.of(job_id, SpanKind.CONSUMER)


def published_in(spans: Sequence[ReadableSpan], parent: ReadableSpan | trace.Span) -> bool:
    """Whether all of them are children of one span, in its trace."""
    context = parent.get_span_context()
    assert context is not None
    return all(
        span.parent is not None
        and span.parent.span_id == context.span_id
        and span.context is not None
        and span.context.trace_id == context.trace_id
        for span in spans
    )


@pytest.fixture(scope="module")
def spans() -> Iterator[Spans]:
    """The spans of this process, instrumented."""
    spans = Spans()
    CeleryInstrumentor().instrument(tracer_provider=spans.provider)
    yield spans
    CeleryInstrumentor().uninstrument()


class Project:
    """An app with a worker in a thread of this process."""

    def __init__(self) -> None:
        name = str(uuid4())
        self.app = app = Celery(name, broker=f"memory:///{name}", backend="cache+memory://", set_as_current=False)
        app.conf.update(worker_hijack_root_logger=False, task_default_queue=QUEUE)
        install(app)

        @job_task(app, DetectionSchema)
        def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002 - what it is
            return DetectionOutput(labels=[input.image])

        @job_task(app, DeedSchema, retry_jitter=False)
        def deed(input: DeedInput, context: JobContext) -> DeedOutput:  # noqa: A002
            if context.retries < 2:
                raise RetryJob("once more", delay=0)
            return DeedOutput(attempt=context.attempt)

        self.detect: JobTask[DetectionInput, DetectionOutput] = detect
        self.deed: JobTask[DeedInput, DeedOutput] = deed
        self.orchestrator = Orchestrator.from_celery(app)


@pytest.fixture(scope="module")
def project(spans: Spans) -> Iterator[Project]:
    from celery._state import default_app

    project = Project()
    with ExitStack() as after:
        after.callback(set_default_app, default_app)  # a worker makes its app everybody's
        after.callback(project.app.close)
        after.callback(project.orchestrator.close)
        after.enter_context(
            start_worker(project.app, pool="threads", perform_ping_check=False, shutdown_timeout=PATIENCE)
        )
        yield project


def detection() -> Job[DetectionSchema]:
    return Job(payload=DetectionSchema(input=DetectionInput(image="a.png")))


WAYS: dict[str, Callable[[Project], str]] = {
    "publish_message": lambda project: project.orchestrator.publish_message(QUEUE, detection()),
    "submit": lambda project: project.orchestrator.submit(detection()).id,
    "publish_many": lambda project: project.orchestrator.publish_many(QUEUE, [detection()])[0],
    "task.submit": lambda project: project.detect.submit(DetectionInput(image="a.png")).id,
    "task.apply_async": lambda project: str(project.detect.apply_async((DetectionInput(image="a.png"),)).id),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_run_of_a_job_is_the_child_of_its_publishing(spans: Spans, project: Project, way: str) -> None:
    with spans.tracer.start_as_current_span("request") as request:
        job_id = WAYS[way](project)
    (run,) = spans.wait_for_runs(job_id)
    (published,) = spans.of(job_id, SpanKind.PRODUCER)
    assert (published.name, run.name) == ("apply_async/stack_detection", "run/stack_detection")
    assert published_in([published], request)
    assert published_in([run], published)


def test_a_retry_stays_in_the_trace_of_the_run_that_asked_for_it(spans: Spans, project: Project) -> None:
    handle = project.deed.submit(DeedInput())
    assert handle.result(PATIENCE) == DeedOutput(attempt=3)
    runs = spans.wait_for_runs(handle.id, 3)
    published = spans.of(handle.id, SpanKind.PRODUCER)
    assert len(published) == 3
    for attempt in range(3):
        assert published_in([runs[attempt]], published[attempt])
    for attempt in range(2):
        assert published_in([published[attempt + 1]], runs[attempt])


def test_jobs_published_together_are_siblings(spans: Spans, project: Project) -> None:
    jobs = [detection() for _ in range(3)]
    with spans.tracer.start_as_current_span("request") as request:
        project.orchestrator.publish_many(QUEUE, jobs)
        assert trace.get_current_span() is request
    for job in jobs:
        (run,) = spans.wait_for_runs(job.id)
        (published,) = spans.of(job.id, SpanKind.PRODUCER)
        assert published_in([published], request)
        assert published_in([run], published)


def test_a_publishing_that_fails_does_not_become_the_parent_of_what_follows(spans: Spans, project: Project) -> None:
    nobody = Orchestrator.from_url("redis://127.0.0.1:1", client_options={"connect_timeout": 0.5})
    with spans.tracer.start_as_current_span("request") as request, nobody:
        with pytest.raises(BrokerUnavailableError):
            nobody.publish_message(QUEUE, detection())
        assert trace.get_current_span() is request
        with pytest.raises(BrokerUnavailableError):
            nobody.publish_many(QUEUE, [detection(), detection()])
        assert trace.get_current_span() is request


def test_the_trace_travels_in_the_message_headers(spans: Spans, backend_url: str) -> None:
    jobs = [detection() for _ in range(3)]
    with Orchestrator.from_url(backend_url) as orchestrator:
        orchestrator.publish_message(QUEUE, jobs[0])
        orchestrator.publish_many(QUEUE, jobs[1:])
        for job in jobs:
            delivery = orchestrator.client.get(QUEUE, timeout=PATIENCE)
            assert delivery is not None
            (published,) = spans.of(job.id, SpanKind.PRODUCER)
            assert published.context is not None
            ids = f"{published.context.trace_id:032x}-{published.context.span_id:016x}"
            assert ids in delivery.message.headers["traceparent"]
            delivery.acknowledge()


def test_a_job_that_a_consumer_retries_keeps_its_trace_for_whoever_runs_it_next(spans: Spans, memory_url: str) -> None:
    def fail(job: Job[DetectionSchema]) -> None:
        raise LookupError("not now")

    with Orchestrator.from_url(memory_url) as orchestrator:
        orchestrator.publish_message(QUEUE, detection())
        Consumer(orchestrator, QUEUE, fail, retry=RetryPolicy(initial=0.0, jitter=0.0)).consume(num_messages=1)
        delivery = orchestrator.client.get(QUEUE, timeout=PATIENCE)
        assert delivery is not None
        assert delivery.message.headers["retries"] == 1
        (published,) = spans.of(delivery.message.headers["id"], SpanKind.PRODUCER)
        assert published.context is not None
        assert f"{published.context.trace_id:032x}" in delivery.message.headers["traceparent"]
        delivery.acknowledge()
