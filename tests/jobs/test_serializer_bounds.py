# ruff: noqa: RUF012 - Pydantic copies mutable defaults
"""What reading a payload costs is bounded, and what is said of it holds none of its data."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from traceback import format_exception
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json

from mindtrace_jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.errors import DecodeError, EncodeError, InvalidInputError
from mindtrace_jobs.serializer import dumps, loads
from mindtrace_jobs.wire import message

#: Python's hash of an integer is the integer modulo this (``sys.hash_info.modulus``).
MODULUS = 2**61 - 1
#: Items that take a set some seconds; one that is checked, a few milliseconds.
MANY = 20_000
SECRET = "s3cr3t"


class Shape(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: int = 0


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: int = 0


class Point(BaseModel, frozen=True):
    x: int
    y: int


class BoundsInput(JobInput):
    numbers: list[int] = []
    unique: set[int] = set()
    frozen: frozenset[UUID] = frozenset()
    points: set[Point] = set()
    by_number: dict[int, str] = {}
    by_name: dict[str, int] = {}
    either: set[int] | list[str] | None = None
    ratio: Fraction | None = None
    whole: int = 0
    shape: Annotated[Shape | Square, Field(discriminator="kind")] = Shape()
    nested: dict[str, dict[str, int]] = {}
    identity: UUID | None = None
    even: Annotated[int, AfterValidator(lambda value: value if value % 2 == 0 else int("x"))] = 0
    anything: Any = None


class BoundsSchema(JobSchema[BoundsInput, JobOutput]):
    name: str = "bounds"


def read(**fields: Any) -> BoundsInput:
    body = json.dumps([[], fields, {}]).encode()
    found: BoundsInput = message.decode(body, {"task": "bounds", "id": "1"}, "application/json").payload.input
    return found


def refused(**fields: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as error:
        read(**fields)
    return error.value


@dataclass
class Box:
    width: int


class NamesInput(JobInput):
    """Its fields have the names of parts of Pydantic's own schemas."""

    type: str = ""
    fields: dict[str, int] = {}
    choices: list[int] = []
    default: set[int] = set()
    metadata: set[int] = set()
    function: set[int] = set()
    cls: set[int] = set()
    expected: set[int] = set()
    serialization: set[int] = set()
    box: Box | None = None
    nothing: dict[str, str] = {"type": "function-wrap"}


class NamesSchema(JobSchema[NamesInput, JobOutput]):
    name: str = "bounds_names"


class StrictInput(JobInput):
    model_config = ConfigDict(strict=True)

    numbers: set[int] = set()
    frozen: frozenset[UUID] | None = None
    by_number: Mapping[int, set[int]] = {}
    either: set[int] | str | None = None
    ratio: Fraction | Decimal | None = None
    text: Json[set[int]] | None = None


class StrictTwin(BaseModel, strict=True):
    """The same as a plain model."""

    numbers: set[int] = set()
    frozen: frozenset[UUID] | None = None
    by_number: Mapping[int, set[int]] = {}
    either: set[int] | str | None = None
    ratio: Fraction | Decimal | None = None
    text: Json[set[int]] | None = None


class StrictSchema(JobSchema[StrictInput, JobOutput]):
    name: str = "bounds_strict"


def read_as(name: str, **fields: Any) -> Any:
    body = json.dumps([[], fields, {}]).encode()
    return message.decode(body, {"task": name, "id": "1"}, "application/json").payload.input


def lanes(wanted: int, count: int) -> list[tuple[int, int]]:
    """Pairs of integers that Python's hash of a tuple takes for one, found by undoing its last step (CPython 3.8 on)."""
    primes, mask = (11400714785074694791, 14029467366897019727, 2870177450012600261), 2**64 - 1
    found: list[tuple[int, int]] = []
    first = 0
    while len(found) < count:
        first += 1
        acc = (primes[2] + first * primes[1]) & mask
        acc = (((acc << 31) | (acc >> 33)) * primes[0]) & mask
        second = ((wanted - acc) * pow(primes[1], -1, 2**64)) & mask
        if second < MODULUS:
            found.append((first, second))
    return found


def test_items_of_sets_and_keys_of_dicts_cannot_be_chosen_to_take_quadratic_time() -> None:
    chosen = [number * MODULUS for number in range(1, MANY)]
    assert len({hash(number) for number in chosen}) == 1
    assert refused(unique=chosen).errors[0]["field"] == "payload.input.unique"
    assert refused(by_number={str(number): "" for number in chosen}).errors[0]["field"] == "payload.input.by_number"
    assert refused(frozen=[str(UUID(int=number)) for number in chosen]).errors
    assert refused(either=chosen).errors
    pairs = lanes(7, MANY)
    assert len({hash(pair) for pair in pairs}) == 1
    assert refused(points=[{"x": x, "y": y} for x, y in pairs]).errors
    for kind in ("set", "frozenset"):
        with pytest.raises(DecodeError, match="same hash"):
            loads(json.dumps({"__type__": kind, "__value__": chosen}))
    with pytest.raises(DecodeError, match="same hash"):
        loads(json.dumps({"__type__": "dict", "__value__": [[number, 0] for number in chosen]}))
    with pytest.raises(DecodeError, match="same hash"):
        read(anything={"__type__": "set", "__value__": chosen})


def test_large_sets_and_dicts_come_out_as_they_went_in() -> None:
    numbers = [*range(MANY), *range(100)]
    found = read(
        unique=numbers, by_number={str(number): "x" for number in numbers}, frozen=[str(UUID(int=n)) for n in numbers]
    )
    assert found.unique == set(numbers)
    assert found.by_number == dict.fromkeys(numbers, "x")
    assert found.frozen == {UUID(int=number) for number in numbers}
    assert read(unique=[1] * MANY).unique == {1}
    value = {"set": set(numbers), "dict": dict.fromkeys(numbers), "frozen": frozenset(numbers)}
    assert loads(dumps(value)) == value
    job_input = BoundsInput(
        unique=set(numbers), either=[str(number) for number in numbers], anything=frozenset(numbers)
    )
    assert loads(dumps(job_input)) == job_input


def test_fields_may_have_the_names_of_parts_of_pydantics_schemas() -> None:
    job_input = NamesInput(type="a", fields={"type": 1}, choices=[1], metadata={1}, box=Box(1))
    sent = message.encode(Job(payload=NamesSchema(input=job_input)))
    assert message.decode(sent.body, sent.headers, sent.content_type).payload.input == job_input
    chosen = [number * MODULUS for number in range(1, MANY)]
    for field in ("default", "metadata", "function", "cls", "expected", "serialization"):
        with pytest.raises(InvalidInputError, match="same hash"):
            read_as("bounds_names", **{field: chosen})
    with pytest.raises(InvalidInputError) as error:
        read_as("bounds_names", box={"width": "x"}, fields={SECRET: "x"}, choices=["x"])
    assert {item["field"] for item in error.value.errors} == {
        "payload.input.box.width",
        "payload.input.fields.*",
        "payload.input.choices.0",
    }


def test_a_strict_model_takes_from_json_what_pydantic_takes_from_json() -> None:
    for fields in (
        {"numbers": [1, 2, 2]},
        {"frozen": [str(UUID(int=1))]},
        {"by_number": {"1": [1]}},
        {"either": [1]},
        {"either": "x"},
        {"ratio": "0.5"},
        {"text": "[1, 2]"},
    ):
        expected = StrictTwin.model_validate_json(json.dumps(fields))
        assert repr(vars(read_as("bounds_strict", **fields))) == repr(vars(expected)), fields
    with pytest.raises(InvalidInputError):
        read_as("bounds_strict", numbers=[number * MODULUS for number in range(1, MANY)])


def test_a_wrong_item_of_a_large_set_is_named() -> None:
    assert refused(unique=[*range(MANY), "x"]).errors == [
        {
            "field": f"payload.input.unique.{MANY}",
            "message": "Input should be a valid integer, unable to parse string as an integer",
            "type": "int_parsing",
        }
    ]


@pytest.mark.parametrize("number", ["1e100000000", "-1E-99999999", "1e" + "9" * 50, Decimal("1e9999")])
def test_a_number_with_a_huge_exponent_is_not_converted(number: Any) -> None:
    if isinstance(number, Decimal):
        with pytest.raises(EncodeError, match="4300 digits"):
            dumps(number)
    else:
        assert refused(ratio=number).errors[0]["field"].startswith("payload.input.ratio")
    for field in ("ratio", "whole", "anything"):
        with pytest.raises(DecodeError, match="a Decimal"):
            read(**{field: {"__type__": "decimal", "__value__": str(number)}})


def test_numbers_of_an_honest_size_are_converted() -> None:
    assert read(ratio="1/3").ratio == Fraction(1, 3)
    assert read(ratio="2.5e3").ratio == 2500
    assert read(whole={"__type__": "decimal", "__value__": "12e2"}).whole == 1200
    for number in ("1e4000", "-0.001", "NaN", "-Infinity", "0e10"):
        assert str(loads(dumps(Decimal(number)))) == str(Decimal(number))


def test_twenty_offences_are_named_and_the_others_counted() -> None:
    error = refused(numbers=["x"] * 333)
    assert len(error.errors) == 20
    assert str(error).endswith("; and 313 more")
    assert error.errors[19]["field"] == "payload.input.numbers.19"


def test_an_error_takes_no_more_memory_for_more_data() -> None:
    body = json.dumps([[], {"numbers": [""] * 333_000}, {}], separators=(",", ":")).encode()
    tracemalloc.start()
    with pytest.raises(InvalidInputError) as error:
        message.decode(body, {"task": "bounds", "id": "1"}, "application/json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(error.value)) < 200
    assert peak < 10 * len(body)


def test_no_data_is_quoted() -> None:
    cases: dict[str, Any] = {
        "by_name": {SECRET: "x"},
        "nested": {SECRET: {SECRET: "x"}},
        "by_number": {SECRET: "x"},
        "shape": {"kind": SECRET},
        "identity": SECRET,
        "numbers": [SECRET],
        "either": [{SECRET: 1}],
        "even": SECRET,
        "unique": {SECRET: 1},
    }
    for field, value in cases.items():
        error = refused(**{field: value})
        assert SECRET not in str(error) + repr(error.errors), field
        assert SECRET not in "".join(format_exception(error)), field
        assert error.errors[0]["field"].startswith(f"payload.input.{field}"), field
    error = refused(nested={SECRET: {SECRET: "x"}})
    assert error.errors[0]["field"] == "payload.input.nested.*.*"
    assert refused(shape={"kind": "square", "side": "x"}).errors[0]["field"] == "payload.input.shape.square.side"
    assert "'circle', 'square'" in str(refused(shape={"kind": SECRET}))
    fields = {item["field"] for item in refused(either=[1.5]).errors}
    assert fields == {"payload.input.either.set[int].0", "payload.input.either.list[str].0"}
