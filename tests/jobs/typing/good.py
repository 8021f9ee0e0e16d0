"""Uses that both type checkers must accept. Checked, never run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, assert_type

from mindtrace_jobs import ExecutionStatus, Job, JobInput, JobOutput, JobRouter, JobSchema, RetryPolicy, register_model
from mindtrace_jobs.celery import AsyncJobTask, JobTask, job_task
from mindtrace_jobs.wire.message import decode, encode


class DetectionInput(JobInput):
    image_url: str
    threshold: float = 0.5


class CropInput(DetectionInput):
    width: int = 1


class DetectionOutput(JobOutput):
    objects: list[str]
    confidence: float


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    name: str = "typing_detection"


schema = DetectionSchema(input=DetectionInput(image_url="s3://bucket/image.jpg"))
job = Job(payload=schema, entrypoint="detect.py", priority=5, metadata={"camera": 1, "tags": ["a", None]})

assert_type(job, Job[DetectionSchema])
assert_type(job.payload.input, DetectionInput)
assert_type(job.payload.input.image_url, str)
assert_type(job.payload.output, DetectionOutput | None)
assert_type(job.created_at, datetime)

job.payload.output = DetectionOutput(objects=["car"], confidence=0.9)
job.payload.output = None
job.status = ExecutionStatus.COMPLETED
job.started_at = datetime.now(UTC)
job.priority = None
job.payload.input = CropInput(image_url="x")

bare = Job(payload=JobSchema(name="vbrain_training", input=DetectionInput(image_url="x"), output=None))
assert_type(bare.payload.input, DetectionInput)
assert_type(bare.payload.input.threshold, float)

named: Job[DetectionSchema] = Job(
    id="detection_001",
    name="object_detection",
    payload=DetectionSchema(input=DetectionInput(image_url="x"), output=None),
)


def process(value: DetectionInput) -> DetectionOutput:
    return DetectionOutput(objects=[value.image_url], confidence=value.threshold)


def report(done: Job[DetectionSchema]) -> list[str]:
    output = done.payload.output
    if output is None:
        return []
    assert_type(output.objects, list[str])
    return output.objects


def anything(some: Job) -> JobInput:
    return some.payload.input


process(job.payload.input)
anything(job)
anything(named)

converted = Job[DetectionSchema].from_legacy({"job_schema": schema})
assert_type(converted.payload.input, DetectionInput)

sent = encode(job, delay=5)
received: Job[Any] = decode(sent.body, sent.headers, sent.content_type, DetectionSchema)

router = JobRouter(types={DetectionInput: "images"})
queue: str = router.route(job)
seconds: float = RetryPolicy(max_retries=1).delay(0)
register_model(DetectionInput, "typing.detection")

app: Any = None


@job_task(app, DetectionSchema, max_retries=5)
def detect(value: DetectionInput) -> DetectionOutput | None:
    return process(value)


@job_task(app, DetectionSchema)
async def detect_later(value: DetectionInput) -> DetectionOutput:
    return process(value)


assert_type(detect, JobTask[DetectionInput, DetectionOutput])
assert_type(detect(schema.input), DetectionOutput)
assert_type(detect.submit(schema.input).result(), DetectionOutput | None)
assert_type(detect_later, AsyncJobTask[DetectionInput, DetectionOutput])
assert_type(detect_later.submit(job).result(), DetectionOutput | None)


async def call() -> DetectionOutput:
    return await detect_later(schema.input)
