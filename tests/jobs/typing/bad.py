"""Uses that both type checkers must refuse, each on the line marked so. Checked, never run."""

from __future__ import annotations

from typing import Any

from mindtrace_jobs import ExecutionStatus, Job, JobInput, JobOutput, JobRouter, JobSchema
from mindtrace_jobs.celery import job_task


class DetectionInput(JobInput):
    image_url: str


class DetectionOutput(JobOutput):
    objects: list[str]


class OtherInput(JobInput):
    path: str


class OtherOutput(JobOutput):
    size: int


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    name: str = "typing_bad_detection"


class Wrong(JobSchema[DetectionOutput, DetectionOutput]):  # error
    name: str = "typing_bad_wrong"


job = Job(payload=DetectionSchema(input=DetectionInput(image_url="x")))

print(job.payload.input.image_ulr)  # error
print(job.payload.input.path)  # error
print(job.payload.inputs)  # error
print(job.payload.output.objects)  # error
job.payload.output = OtherOutput(size=1)  # error
job.payload.output = {"objects": []}  # error
job.payload.output = "done"  # error
job.payload.input = OtherInput(path="x")  # error
job.payload.input.image_url = 5  # error
job.status = "done"  # error
job.priority = "high"  # error
job.queue_name = "detection_jobs"  # error
print(job.queue_name)  # error
length: int = job.payload.input.image_url  # error

DetectionInput()  # error
DetectionInput(image_url=5)  # error
DetectionInput(image_url="x", width=5)  # error
DetectionSchema(input=OtherInput(path="x"))  # error
DetectionSchema(input=DetectionInput(image_url="x"), output=OtherOutput(size=1))  # error
DetectionOutput(objects="car")  # error
JobSchema(name="bare", input=DetectionOutput(objects=[]))  # error
JobSchema(name="bare", input=5)  # error
JobSchema(input=DetectionInput(image_url="x"))  # error

Job(payload=5)  # error
Job(payload=DetectionInput(image_url="x"))  # error
Job(entrypoint="train.py")  # error
Job(job_schema=job.payload)  # error
Job(payload=job.payload, backend_type="redis")  # error
Job(payload=job.payload, priority="high")  # error
Job(payload=job.payload, status="done")  # error

typed: Job[Wrong] = job  # error
JobRouter(types={str: "strings"})  # error
JobRouter(rules=[("*", 5)])  # error
JobRouter().route(5)  # error
final: str = ExecutionStatus.QUEUED.final  # error

app: Any = None


def detected(value: DetectionInput) -> DetectionOutput:
    return DetectionOutput(objects=[])


def sized(value: DetectionInput) -> OtherOutput:
    return OtherOutput(size=1)


async def sized_later(value: DetectionInput) -> OtherOutput:
    return OtherOutput(size=1)


job_task(app, DetectionSchema)(sized)  # error
job_task(app, DetectionSchema)(sized_later)  # error
job_task(app, DetectionSchema)(detected).submit(OtherInput(path="x"))  # error
