"""The jobs that the conformance tests send."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema


class ImageInput(JobInput, tag="conformance.image-input"):
    """Input of most test jobs."""

    url: str
    threshold: float = 0.5


class ImageOutput(JobOutput, tag="conformance.image-output"):
    """Output of most test jobs."""

    objects: list[str] = Field(default_factory=list)


class ImageSchema(JobSchema[ImageInput, ImageOutput]):
    """Schema of most test jobs."""

    name: str = "conformance_image"


class TrainingInput(JobInput, tag="conformance.training-input"):
    """Input of a second kind of job."""

    epochs: int


class TrainingSchema(JobSchema[TrainingInput, JobOutput]):
    """A second kind of job."""

    name: str = "conformance_training"


class Colour(Enum):
    """An enumeration whose values are not its names."""

    RED = 1
    BLUE = "blue"


class Box(BaseModel):
    """A plain model inside an input."""

    left: int
    label: str = ""


class Circle(BaseModel):
    """The other side of a union."""

    radius: float


class EverythingInput(JobInput, tag="conformance.everything-input"):
    """A field of every kind that must come out as it went in."""

    text: str
    number: int
    ratio: float
    flag: bool
    raw: bytes
    moment: datetime
    day: date
    clock: time
    span: timedelta
    price: Decimal
    key: UUID
    colour: Colour
    box: Box
    boxes: list[Box]
    shape: Box | Circle
    table: dict[str, list[int]]
    nothing: str | None
    anything: Any


class EverythingSchema(JobSchema[EverythingInput, JobOutput]):
    """Schema of the job that holds everything."""

    name: str = "conformance_everything"


def image_job(url: str = "a.png", **fields: Any) -> Job[ImageSchema]:
    """A job of ImageSchema; ``fields`` are the job's."""
    return Job[ImageSchema](payload=ImageSchema(input=ImageInput(url=url)), **fields)


def everything_job() -> Job[EverythingSchema]:
    """A job that holds a value of every kind."""
    fields = EverythingInput(
        text="line\nbreak \U0001f600 \x00",
        number=2**70,
        ratio=float("inf"),
        flag=True,
        raw=b"\x00\xff not text",
        moment=datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        day=date(2024, 2, 29),
        clock=time(12, 30, 1),
        span=timedelta(days=3, microseconds=1),
        price=Decimal("0.10"),
        key=UUID("12345678-1234-5678-1234-567812345678"),
        colour=Colour.BLUE,
        box=Box(left=-1),
        boxes=[Box(left=1, label="x"), Box(left=2)],
        shape=Circle(radius=0.5),
        table={"a": [1, 2], "": []},
        nothing=None,
        anything=[Decimal("1.0"), b"\xfe", {"k": UUID(int=7)}],
    )
    return Job[EverythingSchema](payload=EverythingSchema(input=fields), metadata={"from": ["test", 1, None]})


def urls(jobs: list[Job[Any]]) -> list[str]:
    """What tells image jobs apart."""
    return [job.payload.input.url for job in jobs]
