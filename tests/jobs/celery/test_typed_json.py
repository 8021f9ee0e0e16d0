"""Typed values in Kombu's own JSON, which plain Celery results are written in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from kombu.utils import json

from mindtrace_jobs import Job, JobInput, JobOutput, JobSchema, UnknownTypeError
from mindtrace_jobs.wire.typed_json import register_types
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema


class Open(JobOutput):
    """Holds what JSON cannot say."""

    anything: Any = None


@pytest.fixture(autouse=True)
def registered() -> None:
    register_types()


@pytest.mark.parametrize(
    "value",
    [
        DetectionOutput(labels=["x"], taken=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        Open(anything={"tuple": (1, 2), "set": {1}, "bytes": b"\xff", "span": timedelta(days=1, microseconds=2)}),
        Open(anything=[Decimal("1.00"), frozenset({"a"}), {1: "one"}]),
        Open(anything=DetectionInput(image="nested")),
        DetectionSchema(input=DetectionInput(image="x"), output=DetectionOutput(labels=[])),
        Job(payload=DetectionSchema(input=DetectionInput(image="x")), metadata={"a": [1]}),
        Job(payload=JobSchema(name="bare", input=DetectionInput(image="x"))),
    ],
)
def test_typed_values_come_back_as_they_went_in(value: Any) -> None:
    read = json.loads(json.dumps({"status": "SUCCESS", "result": [value]}))
    assert read == {"status": "SUCCESS", "result": [value]}
    assert type(read["result"][0]) is type(value)


def test_what_json_knew_before_is_written_as_it_was() -> None:
    value = {"when": datetime(2026, 1, 2, tzinfo=UTC), "sum": Decimal("1.5"), "data": b"x"}
    assert json.dumps(value) == (
        '{"when": {"__type__": "datetime", "__value__": "2026-01-02T00:00:00+00:00"}, '
        '"sum": {"__type__": "decimal", "__value__": "1.5"}, "data": {"__type__": "bytes", "__value__": "x"}}'
    )


def test_a_type_that_is_not_registered_here_says_so() -> None:
    class Local(JobInput):
        x: int

    text = json.dumps(Local(x=1)).replace("Local", "Elsewhere")
    with pytest.raises(UnknownTypeError, match="Elsewhere"):
        json.loads(text)
