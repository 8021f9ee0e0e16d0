"""The typed jobs of the stack. Producers import this file; it needs no Celery."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mindtrace_jobs import JobInput, JobOutput, JobSchema


class DetectionInput(JobInput):
    image: str
    threshold: float = 0.5
    taken: datetime | None = None


class DetectionOutput(JobOutput):
    labels: list[str]
    taken: datetime | None = None


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    name: str = "stack_detection"


class SummaryInput(JobInput):
    labels: list[str]


class SummaryOutput(JobOutput):
    text: str


class SummarySchema(JobSchema[SummaryInput, SummaryOutput]):
    name: str = "stack_summary_detection"


class DeedInput(JobInput):
    """What a job is to do, and where to write that it began and that it ended."""

    deed: Literal[
        "work", "fail", "reject", "retry", "wrong output", "hang", "wait", "block", "fork", "kill", "steps", "catch"
    ] = "work"
    path: str = ""
    seconds: float = 0.0


class DeedOutput(JobOutput):
    attempt: int


class DeedSchema(JobSchema[DeedInput, DeedOutput]):
    name: str = "stack_deed_detection"


class AwaitInput(JobInput):
    """What a coroutine is to do, and where to write that it was cleaned up after."""

    act: Literal["meet", "report", "hang", "give up", "retry"]
    path: str = ""
    #: Who meets waits until so many are there.
    people: int = 1


class AwaitOutput(JobOutput):
    text: str
    #: The process and its event loop.
    loop: str


class AwaitSchema(JobSchema[AwaitInput, AwaitOutput]):
    name: str = "stack_await_detection"


SecretDeed = Literal[
    "work",
    "print",
    "wait",
    "until cancelled",
    "fail",
    "reject",
    "retry",
    "retry for ever",
    "retry on error",
    "wrong output",
    "invalid output",
]


class SecretInput(JobInput):
    """Data that nobody who watches may see, and what becomes of the job."""

    secret: str
    deed: SecretDeed = "work"
    path: str = ""


class SecretOutput(JobOutput):
    secret: str


class OtherOutput(JobOutput):
    secret: str


class SecretSchema(JobSchema[SecretInput, SecretOutput]):
    name: str = "watched_detection"
