"""The typed jobs and the plain task of these tests, as functions: ``worker_app.py`` makes tasks of them."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from celery import current_app

from mindtrace_jobs import JobInput, JobOutput, JobSchema
from mindtrace_jobs.celery import JobContext


class MeasureInput(JobInput):
    samples: list[float]
    taken: datetime | None = None


class MeasureOutput(JobOutput):
    mean: float
    taken: datetime | None = None


class MeasureSchema(JobSchema[MeasureInput, MeasureOutput]):
    name: str = "nodes_measure"


class ShipmentInput(JobInput):
    """A job with an effect: it notes its begin and its end in ``ledger``, and waits in between until it is let go."""

    ledger: str


class ShipmentOutput(JobOutput):
    attempt: int


class ShipmentSchema(JobSchema[ShipmentInput, ShipmentOutput]):
    name: str = "nodes_shipment"


def gate(ledger: str) -> str:
    """The key that lets a shipment go on."""
    return f"{ledger}.go"


def measure(input: MeasureInput) -> MeasureOutput:  # noqa: A002 - what it is
    return MeasureOutput(mean=sum(input.samples) / len(input.samples), taken=input.taken)


def ship(input: ShipmentInput, context: JobContext) -> ShipmentOutput:  # noqa: A002
    # The result backend is the one place that worker and test both reach, in whatever container the worker is.
    redis: Any = current_app.backend.client
    redis.rpush(input.ledger, f"begin {context.attempt}")
    deadline = time.monotonic() + 60
    while not redis.exists(gate(input.ledger)) and time.monotonic() < deadline:
        time.sleep(0.01)
    redis.rpush(input.ledger, f"end {context.attempt}")
    return ShipmentOutput(attempt=context.attempt)


def add(x: float, y: float) -> float:
    return x + y
