"""Encode and decode of one typed job, as a ratio to plain Pydantic over Kombu's JSON.

The yardstick is what a careful user writes without this package: the same fields as plain Pydantic models, SerializeAsAny
where a subclass may stand, ``model_dump``, ``kombu.utils.json`` and ``model_validate``. Both sides produce and read the
three-part task body. Rounds are interleaved, so that whatever else the machine does hits both sides alike; only the ratio
of the medians means something.

    python benchmarks/codec.py [--rounds 15] [--number 2000]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from kombu.utils import json as kombu_json
from pydantic import AwareDatetime, BaseModel, Field, SerializeAsAny

from mindtrace_jobs.jobs import ExecutionStatus, Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.serializer import decode_job, dumps, encode_job, loads, parse, to_json

#: What both sides together may cost, as a share of the yardstick.
AIM = 0.7


class Box(BaseModel):
    """Ours."""

    label: str
    left: float
    top: float
    score: float


class DetectionInput(JobInput):
    """Ours."""

    image_url: str
    threshold: float = 0.5
    classes: list[str] = Field(default_factory=list)
    taken_at: datetime | None = None


class DetectionOutput(JobOutput):
    """Ours."""

    boxes: list[Box]
    confidence: float


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    """Ours."""

    name: str = "codec_detection"


class PlainInput(BaseModel):
    """The yardstick's."""

    image_url: str
    threshold: float = 0.5
    classes: list[str] = Field(default_factory=list)
    taken_at: datetime | None = None


class PlainOutput(BaseModel):
    """The yardstick's."""

    boxes: list[Box]
    confidence: float


class PlainSchema(BaseModel):
    """The yardstick's."""

    name: str
    input: SerializeAsAny[PlainInput]
    output: SerializeAsAny[PlainOutput] | None = None


class PlainJob(BaseModel):
    """The yardstick's."""

    id: str = Field(default_factory=lambda: str(uuid4()), min_length=1, max_length=255)
    payload: PlainSchema
    name: str = Field(min_length=1)
    entrypoint: str | None = None
    priority: int | None = Field(default=None, ge=0, le=9)
    metadata: dict[str, str] = {}
    status: ExecutionStatus = ExecutionStatus.QUEUED
    error: str | None = None
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--number", type=int, default=2000)
    options = parser.parse_args()
    encode_ratio, decode_ratio, ratio, figures = measure(options.rounds, options.number)
    for name, microseconds in figures.items():
        print(f"{name:>14}: {microseconds:6.1f} us")
    print(f"ratio: encode {encode_ratio:.2f}, decode {decode_ratio:.2f}, both {ratio:.2f} (aim: at most {AIM})")


def measure(rounds: int, number: int) -> tuple[float, float, float, dict[str, float]]:
    """Ratios (encode, decode, both) of medians, and the medians in microseconds."""
    when = datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=UTC)
    values = {"image_url": "s3://bucket/image.jpg", "threshold": 0.25, "classes": ["car", "person"], "taken_at": when}
    job: Job[DetectionSchema] = Job(
        payload=DetectionSchema(input=DetectionInput.model_validate(values)), entrypoint="detect.py", priority=5
    )
    plain = PlainJob.model_validate(job.model_dump(exclude={"payload"}) | {"payload": job.payload.model_dump()})
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

    def ours_encode() -> bytes:
        return to_json([[encode_job(job)], {}, embed])

    def ours_decode() -> object:
        return decode_job(parse(ours)[0][0]["__value__"])

    def theirs_encode() -> bytes:
        text: str = kombu_json.dumps([[plain.model_dump()], {}, embed])
        return text.encode()

    def theirs_decode() -> object:
        return PlainJob.model_validate(kombu_json.loads(theirs)[0][0])

    ours, theirs = ours_encode(), theirs_encode()
    if ours_decode() != job or loads(dumps(job)) != job or theirs_decode() != plain:
        raise SystemExit("a job did not come back as it went in")
    sides: dict[str, Callable[[], object]] = {
        "ours encode": ours_encode,
        "ours decode": ours_decode,
        "theirs encode": theirs_encode,
        "theirs decode": theirs_decode,
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            start = time.perf_counter()
            for _ in range(number):
                call()
            taken[name].append((time.perf_counter() - start) / number * 1e6)
    median = {name: statistics.median(times) for name, times in taken.items()}
    encode_ratio = median["ours encode"] / median["theirs encode"]
    decode_ratio = median["ours decode"] / median["theirs decode"]
    both = (median["ours encode"] + median["ours decode"]) / (median["theirs encode"] + median["theirs decode"])
    return encode_ratio, decode_ratio, both, median


if __name__ == "__main__":
    main()
