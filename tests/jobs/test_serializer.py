"""The "pydantic" serializer: whatever goes in comes back equal and of the same type, or is refused when it is sent."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import kombu.serialization
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.serialization import prepare_accept_content
from kombu.utils import json as kombu_json
from pydantic import BaseModel, Field, create_model

from mindtrace_jobs.errors import DecodeError, EncodeError
from mindtrace_jobs.jobs import Job, JobInput, JobSchema
from mindtrace_jobs.serializer import decode_job, dumps, encode_job, loads, parse, to_json
from mindtrace_jobs.serializer.plain import is_plain
from mindtrace_jobs.serializer.same import difference
from tests.jobs.everything import (
    ODD_ZONES,
    ZONES,
    Circle,
    Everything,
    EverythingSchema,
    Mood,
    Plain,
    Point,
    Result,
    Shape,
    account,
    anything,
    everything_fields,
    everything_inputs,
    plain_fields,
    plain_inputs,
    results,
    texts,
)

slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def travel(job: Job[Any]) -> Job[Any]:
    return decode_job(parse(to_json(encode_job(job)))["__value__"])


@slow
@given(plain_inputs | everything_inputs, st.none() | results)
def test_no_field_of_a_registered_schema_is_lost_or_changes_type(value: Plain, output: Result | None) -> None:
    job = Job(payload=EverythingSchema(input=value, output=output))
    assert account(travel(job)) == account(job)


def test_a_job_comes_back_equal_to_the_one_sent() -> None:
    job = Job(payload=JobSchema(name="bare", input=Circled(shape=Circle(radius=1.0))), priority=3, metadata={"a": [1]})
    assert travel(job) == job
    assert type(travel(job)) is Job


@pytest.mark.parametrize("zone", [*ZONES, *ODD_ZONES], ids=str)
def test_a_jobs_own_times_stay_the_same_instants(zone: Any) -> None:
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=zone)
    job = Job(payload=JobSchema(name="bare", input=Anything(value=1)), created_at=moment, started_at=moment)
    back = travel(job)
    assert [back.created_at.astimezone(UTC), back.completed_at] == [moment.astimezone(UTC), None]
    assert back.started_at == back.created_at


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (Decimal("1.0"), Decimal("1.00")),
        ([1], (1,)),
        ([1], [1, 2]),
        ({"a": 1}, {"a": True}),
        ({1: 2}, {True: 2}),
        ({1}, {True}),
        ({(1,)}, {(1.0,)}),
        ({1}, {1, 2}),
        (Mood.GOOD, "good"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))),
        (datetime(2026, 1, 1, fold=1), datetime(2026, 1, 1)),  # noqa: DTZ001
        (datetime(2026, 1, 1, 1, tzinfo=ZONES[1]), datetime(2026, 1, 1, tzinfo=UTC)),
        (time(1, tzinfo=ZONES[1]), time(1)),
        (time(1, fold=1), time(1)),
        (Circle(), Shape()),
        (Circle(radius=0.0), Circle(radius=-0.0)),
        (Point(1.0, Decimal(1)), Point(1.0, Decimal("1.0"))),
        (deque([1]), deque([1], maxlen=1)),
        (defaultdict(int), defaultdict(float)),
    ],
    ids=repr,
)
def test_values_that_python_calls_equal_are_told_apart(a: Any, b: Any) -> None:
    assert difference(a, b) is not None
    assert difference({"deep": [a]}, {"deep": [b]}) is not None
    assert difference(a, copy.deepcopy(a)) is None


@slow
@given(everything_inputs, st.none() | results)
def test_no_field_of_a_bare_schema_is_lost_or_changes_type(value: Everything, output: Result | None) -> None:
    job = Job(payload=JobSchema(name="bare", input=value, output=output))
    assert account(travel(job)) == account(job)


@slow
@given(anything)
def test_any_supported_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    # Inside a dict: the outermost tuple becomes a list.
    assert account(loads(dumps({"value": value}))) == account({"value": value})


def is_plain_field(name: str) -> bool:
    return name in plain_fields


@slow
@given(
    st.sets(st.sampled_from(sorted(set(everything_fields) - {"byAlias"})), min_size=1, max_size=6),
    st.booleans(),
    st.data(),
)
def test_random_models_come_back_by_the_plain_and_by_the_tagged_path(
    names: set[str], nested: bool, data: st.DataObject
) -> None:
    annotations = {name: Everything.model_fields[name] for name in sorted(names)}
    fields: dict[str, Any] = {name: (info.rebuild_annotation(), info.default) for name, info in annotations.items()}
    inner = create_model("Inner", __base__=BaseModel if nested else JobInput, **fields)
    values = {name: data.draw(everything_fields[name], label=name) for name in annotations}
    value: Any = inner(**values)
    if nested:
        outer: Any = create_model("Outer", __base__=JobInput, inner=(inner, ...), more=(list[inner], ...))  # type: ignore[valid-type]
        value = outer(inner=value, more=[value])
    assert account(loads(dumps({"value": value}))) == account({"value": value})
    if all(map(is_plain_field, names)) and not names & {"moment", "clock"}:
        assert is_plain(value)


@given(st.dictionaries(texts, st.recursive(st.none() | st.booleans() | st.floats() | texts | st.integers(), st.lists)))
@slow
def test_metadata_and_unknown_fields_come_back_as_they_were(metadata: dict[str, Any]) -> None:
    job = Job(payload=JobSchema(name="bare", input=Circled(shape=Circle(radius=1.0))), metadata=metadata)
    tree = encode_job(job)
    tree["__value__"] |= {"invented_later": metadata}
    tree["__value__"]["payload"]["__value__"]["input"]["__value__"][1] |= {"also_later": 7}
    back = decode_job(parse(to_json(tree))["__value__"])
    again = travel(back)
    assert account(again) == account(back)
    assert account(again.metadata) == account(metadata)
    assert account(again.model_extra) == account({"invented_later": metadata})
    assert again.payload.input.model_extra == {"also_later": 7}


class Circled(JobInput):
    shape: Shape


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4),  # noqa: DTZ001 - Kombu's JSON takes naive ones
        date(2026, 1, 2),
        time(1, 2, 3, 4),
        Decimal("1.50"),
        UUID(int=7),
        b"text",
        b"\xff\x00",
        {"a": [1, 2.5, None, True, "x"]},
    ],
    ids=repr,
)
def test_kombus_json_and_ours_read_each_other(value: Any) -> None:
    assert account(loads(kombu_json.dumps({"value": value}))) == account({"value": value})
    assert account(kombu_json.loads(dumps({"value": value}))) == account({"value": value})


@pytest.mark.parametrize("value", [Circle(radius=2.0, raw=b"\xff"), {"a": [Circle()]}, [1, (2, timedelta(3))], b"", {}])
def test_kombu_dispatches_to_it_by_name_and_by_content_type(value: Any) -> None:
    content_type, encoding, body = kombu.serialization.dumps(value, serializer="pydantic")
    back = kombu.serialization.loads(body, content_type, encoding, accept=prepare_accept_content(["pydantic"]))
    assert content_type == "application/x-mindtrace-pydantic"
    assert back == ([1, [2, timedelta(3)]] if isinstance(value, list) else value)


def test_kombu_maps_our_errors_to_its_own() -> None:
    with pytest.raises(kombu.exceptions.EncodeError):
        kombu.serialization.dumps(object(), serializer="pydantic")
    with pytest.raises(kombu.exceptions.DecodeError) as caught:
        kombu.serialization.loads(b"{", "application/x-mindtrace-pydantic", "utf-8")
    assert isinstance(caught.value.args[0], DecodeError)


@pytest.mark.parametrize("first", ["kombu", "mindtrace_jobs", "celery", "mindtrace_jobs.serializer", "celery.app.amqp"])
def test_the_entry_point_registers_it_whatever_is_imported_first(first: str) -> None:
    code = (
        f"import {first}\nimport kombu.serialization as s\nfrom tests.jobs.everything import Circle\n"
        "kind, encoding, body = s.dumps([Circle(radius=3)], serializer='pydantic')\n"
        "print(s.loads(body, kind, encoding)[0].radius)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, check=False, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3.0\n", "")


def nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return {"cycle": value}


@pytest.mark.parametrize(
    "make",
    [
        lambda: nest(199),
        lambda: nest(5000),
        lambda: {"n": 10**4300},
        lambda: {"x": "1" * 9000, "n": [-(10**9000)]},
        lambda: "\ud800",
        lambda: {"\ud800": 1},
        object,
        lambda: {"f": len},
        lambda: 1j,
        lambda: bytearray(b"x"),
        cyclic,
    ],
)
def test_what_could_not_be_read_back_is_refused_when_it_is_written(make: Callable[[], Any]) -> None:
    with pytest.raises(EncodeError):
        dumps(make())


@pytest.mark.parametrize("value", [{"n": 10**4299}, {"s": "9" * 20_000, "n": [10**4000] * 3}, nest(160)])
def test_what_is_just_within_the_readers_limits_passes(value: Any) -> None:
    assert loads(dumps(value)) == value


@pytest.mark.parametrize("depth", [10, 60, 100, 170, 250, 2000])
def test_a_deep_metadata_or_input_is_either_read_back_or_refused(depth: int) -> None:
    job = Job(payload=JobSchema(name="deep", input=Anything(value=nest(depth))))
    flat = Job(payload=JobSchema(name="deep", input=Anything(value=1)))
    flat.metadata["deep"] = nest(depth)
    for candidate in (job, flat):
        try:
            body = to_json([[encode_job(candidate)], {}, {}])
        except EncodeError:
            assert depth > 100
        else:
            assert loads(body)[0][0] == candidate


class Anything(JobInput):
    value: Any
    other: Any = None
    constrained: int = Field(default=1, ge=1)


def test_the_outermost_tuples_become_lists_as_celery_expects() -> None:
    assert loads(dumps(((1, (2,)), {"k": (3,)}, {}))) == [[1, (2,)], {"k": (3,)}, {}]
