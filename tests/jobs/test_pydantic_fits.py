"""An input behaves like any Pydantic model, and comes back whatever its fields are and whoever declares them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import uuid4

import pytest
from celery import Celery
from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field, field_serializer, model_validator
from typing_extensions import TypedDict

from mindtrace_jobs import (
    DecodeError,
    EncodeError,
    InvalidInputError,
    Job,
    JobInput,
    JobOutput,
    JobSchema,
    LocalClient,
    Orchestrator,
)
from mindtrace_jobs.celery import install, job_task, typed_chain
from mindtrace_jobs.serializer import dumps, loads
from mindtrace_jobs.wire import message
from tests.jobs.celery.workers import ROOT

MODULUS = sys.hash_info.modulus


class Typed(TypedDict):
    a: int


@dataclass
class Boxed:
    a: int
    twice: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.twice = 2 * self.a


class Kind(Enum):
    CAT = "cat"
    DOG = "dog"
    ONE = 1


class Size(Enum):
    SMALL = (1, 2)
    LARGE = (3, (4, 5))
    NAMED = "large"


class Cat(BaseModel):
    kind: Literal[Kind.CAT] = Kind.CAT
    lives: int = 9


class Dog(BaseModel):
    kind: Literal[Kind.DOG, Kind.ONE] = Kind.DOG


class Ambiguous(JobInput):
    kind: Literal[Kind.CAT, "cat"]


class Inner(JobInput):
    numbers: set[int] = Field(default_factory=set)


class Everything(JobInput):
    typed: Typed | None = None
    boxed: Boxed | None = None
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    size: Size = Size.SMALL
    sizes: dict[str, Size] = Field(default_factory=dict)
    literal: Literal[Kind.DOG, 7, "x"] = "x"
    inner: Inner | None = None
    plain: list[Cat] = Field(default_factory=list)


class EverythingSchema(JobSchema[Everything, JobOutput]):
    name: str = "fits_everything"


class Computed(JobInput):
    a: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.a * 2

    @computed_field(alias="Triple")  # type: ignore[prop-decorator]
    @property
    def triple(self) -> int:
        return self.a * 3


class ComputedSchema(JobSchema[Computed, JobOutput]):
    name: str = "fits_computed"


class Open(JobInput, extra="allow"):
    a: int = 0


class Opened(Open):
    b: int = 0


class OpenSchema(JobSchema[Open, JobOutput]):
    name: str = "fits_open"


class Validated(JobInput):
    a: int = 0

    @model_validator(mode="after")
    def _check(self) -> Validated:
        return self

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, value: Any) -> Any:
        return value


def travelled(schema: JobSchema[Any, Any]) -> Any:
    with Orchestrator(LocalClient(broker_id=uuid4().hex)) as orchestrator:
        orchestrator.publish_message("q", Job(payload=schema))
        received = orchestrator.receive_message("q")
    assert received is not None
    return received.payload.input


VALUES: list[dict[str, Any]] = [
    {"typed": {"a": 1}},
    {"boxed": Boxed(3)},
    {"pet": Dog()},
    {"pet": Dog(kind=Kind.ONE)},
    {"pet": Cat(lives=3)},
    *({"size": size} for size in Size),
    {"sizes": {"one": Size.LARGE, "two": Size.NAMED}},
    {"literal": Kind.DOG},
    {"literal": 7},
    {"inner": Inner(numbers={1, 2})},
    {"plain": [Cat(), Cat(lives=1)]},
]


@pytest.mark.parametrize("values", VALUES, ids=range(len(VALUES)))
def test_values_come_back(values: dict[str, Any]) -> None:
    sent = Everything(**values)
    received = travelled(EverythingSchema(input=sent))
    assert received == sent
    assert repr(received) == repr(sent)


def test_a_value_that_two_members_might_be_is_refused() -> None:
    with pytest.raises(EncodeError, match="would change its value or type"):
        dumps(Ambiguous(kind=Kind.CAT))
    assert loads(dumps(Ambiguous(kind="cat"))) == Ambiguous(kind="cat")


def test_what_no_member_is_is_refused_without_its_value() -> None:
    for fields in ({"size": ["hunter2"]}, {"pet": {"kind": "hunter2"}}, {"literal": {"hunter2": 1}}):
        with pytest.raises(InvalidInputError) as caught:
            read(**fields)
        assert "hunter2" not in str(caught.value)


def read(**fields: Any) -> Any:
    body = json.dumps([[], fields, {}]).encode()
    return message.decode(body, {"task": "fits_everything", "id": "1"}, "application/json").payload.input


def test_plain_producers_may_write_members_by_their_values() -> None:
    found = read(size=[3, [4, 5]], pet={"kind": "dog"}, literal="dog", typed={"a": "1", "b": 2}, boxed={"a": 2})
    assert (found.size, found.pet, found.literal) == (Size.LARGE, Dog(), Kind.DOG)
    assert (found.typed, found.boxed) == ({"a": 1}, Boxed(2))


def test_bounds_hold_inside_the_models_of_fields() -> None:
    """Numbers chosen to have one hash take quadratic time in a set."""
    chosen = [number * MODULUS for number in range(1, 5000)]
    with pytest.raises(DecodeError, match="same hash"):
        read(inner={"numbers": chosen})


def test_typed_dicts_and_dataclasses_are_as_in_any_model() -> None:
    class Twin(BaseModel):
        typed: Typed | None = None
        boxed: Boxed | None = None

    for fields in ({"typed": {"a": 1, "b": 2}}, {"boxed": {"a": 1}}, {"boxed": {"a": 1, "twice": 5}}):
        text = json.dumps(fields)
        for ours, twin in (
            (Everything.model_validate(fields), Twin.model_validate(fields)),
            (Everything.model_validate_json(text), Twin.model_validate_json(text)),
        ):
            assert (ours.typed, ours.boxed) == (twin.typed, twin.boxed)


# --- unknown and computed fields


@pytest.mark.parametrize("dump", ["python", "json"])
@pytest.mark.parametrize("by_alias", [False, True])
def test_a_dump_with_computed_fields_is_validated_again(dump: Any, by_alias: bool) -> None:
    sent = Computed(a=2)
    assert sent.model_dump() == {"a": 2, "double": 4, "triple": 6}
    again = Computed.model_validate(sent.model_dump(mode=dump, by_alias=by_alias))
    assert (again, again.model_fields_set, again.model_extra) == (sent, {"a"}, {})
    job = Job(payload=ComputedSchema(input=sent))
    assert Job[ComputedSchema].model_validate(job.model_dump(mode=dump, by_alias=by_alias)) == job
    assert Job[ComputedSchema].model_validate_json(job.model_dump_json(by_alias=by_alias)) == job
    assert travelled(ComputedSchema(input=sent)) == sent


def test_computed_fields_from_a_plain_producer_are_left_out() -> None:
    body = json.dumps([[], {"a": 1, "double": 7, "new": 3}, {}]).encode()
    found = message.decode(body, {"task": "fits_computed", "id": "1"}, "application/json").payload.input
    assert isinstance(found, Computed)
    assert (found.a, found.double, found.model_extra) == (1, 2, {"new": 3})


def test_an_unknown_field_beside_computed_ones_is_refused() -> None:
    with pytest.raises(ValidationError, match="other"):
        Computed.model_validate({"a": 1, "double": 2, "other": 3})


@pytest.mark.parametrize("cls", [Open, Opened])
def test_extra_fields_are_taken_where_a_class_says_so(cls: Any) -> None:
    sent = cls(a=1, other=[1, 2])
    assert sent.other == [1, 2]
    sent.third = 3
    received = travelled(OpenSchema(input=sent))
    assert received == sent
    assert received.model_extra == {"other": [1, 2], "third": 3}


@pytest.mark.parametrize("extra", ["forbid", "ignore"])
def test_other_choices_are_obeyed_too(extra: Any) -> None:
    class Chosen(JobInput):
        model_config = ConfigDict(extra=extra)
        a: int = 0

    if extra == "ignore":
        assert Chosen.model_validate({"a": 1, "b": 2}).model_extra is None
    else:
        with pytest.raises(ValidationError):
            Chosen.model_validate({"a": 1, "b": 2})


def test_a_class_with_validators_of_its_own_refuses_and_keeps_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Validated.model_validate({"a": 1, "b": 2})
    assert loads(dumps(Validated(a=3))) == Validated(a=3)


# --- a script that is producer and module


class Tagless(JobInput):
    leaf: Any = None
    cat: Cat | None = None
    either: int | str = 0


def test_one_value_that_cannot_travel_does_not_change_how_others_of_its_class_do() -> None:
    before = dumps(Tagless(cat=Cat(), either="x"))
    with pytest.raises(EncodeError):
        dumps(Tagless(leaf=object()))
    assert dumps(Tagless(cat=Cat(), either="x")) == before


SCRIPT = """
import sys
from typing import Any
from mindtrace_jobs import *

class Leaf(JobInput):
    n: int | str = 0
class Wider(Leaf):
    m: int = 0
class Input(JobInput):
    leaf: Leaf
    leaves: list[Leaf] = []
    anything: Any = None
class Output(JobOutput):
    leaf: Leaf
class Both(JobSchema[Input, Output]):
    name: str = "fits_both"

if __name__ == "__main__":
    o = Orchestrator.from_url(sys.argv[1])
    if sys.argv[2] == "publish":
        values = {"leaf": Leaf(n=1), "leaves": [Leaf(n="2")]}
        if sys.argv[3:]:
            values["leaf"] = Wider(n=1, m=2)
        o.submit(Job(payload=Both(input=Input(**values)), id="both"), queue="q")
    else:
        print(JobHandle("both", o.results).result(timeout=60))
"""


@pytest.fixture
def script(tmp_path: Any, redis_url: str) -> Callable[..., str]:
    (tmp_path / "fits_script.py").write_text(SCRIPT)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "fits_script.py", redis_url, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_what_a_script_publishes_is_read_by_whoever_imports_it_as_a_module(
    script: Callable[..., str], tmp_path: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("publish")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fits_script  # type: ignore[import-not-found]

    with Orchestrator.from_url(redis_url) as orchestrator:
        with orchestrator.receiving("q") as job:
            assert job is not None
            assert isinstance(job.payload.input, fits_script.Input)
            assert [leaf.n for leaf in job.payload.input.leaves] == ["2"]
            job.payload.output = fits_script.Output(leaf=fits_script.Leaf(n="done"))
        assert script("read") == "leaf=Leaf(n='done')\n"

        script("publish", "a subclass")
        with pytest.raises(DecodeError, match=r"__main__:Wider.*runs as __main__.*schema="):
            orchestrator.receive_message("q")


# --- chains


class ComputedOutput(JobOutput):
    a: int = 1

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.a * 2


class ExcludedOutput(JobOutput):
    a: int = Field(1, exclude=True)


class WrittenOutput(JobOutput):
    d: datetime = datetime(2020, 1, 1, tzinfo=UTC)

    @field_serializer("d")
    def german(self, d: datetime) -> str:
        return d.strftime("%d.%m.%Y")


class WiderOutput(JobOutput):
    a: int = 1
    cat: Cat = Cat()
    more: str = "x"


class StrictInput(JobInput, extra="forbid"):
    a: int


class LooseInput(JobInput):
    a: int


class DatedInput(JobInput):
    d: datetime


class Feline(BaseModel):
    kind: Kind
    lives: int


class FelineInput(JobInput):
    cat: Any
    again: Feline | None = None


CHAINS: list[tuple[Any, Any]] = [
    (ComputedOutput, StrictInput),
    (ComputedOutput, LooseInput),
    (ExcludedOutput, LooseInput),
    (WrittenOutput, DatedInput),
    (WiderOutput, StrictInput),
    (WiderOutput, FelineInput),
]


@pytest.mark.parametrize(("output", "given"), CHAINS)
def test_a_chain_that_may_be_built_runs(output: Any, given: Any) -> None:
    app = Celery("chains", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True)
    install(app)

    def schema(name: str, takes: Any, gives: Any) -> Any:
        namespace = {"__annotations__": {"name": str}, "name": name, "__module__": __name__}
        return type(name, (JobSchema[takes, gives],), namespace)

    number = CHAINS.index((output, given))
    seen: list[Any] = []

    def first(input: Any) -> Any:  # noqa: A002
        return output()

    def second(input: Any) -> Any:  # noqa: A002
        seen.append(input)

    before = job_task(app, schema(f"fits_before_{number}", LooseInput, output))(first)
    after = job_task(app, schema(f"fits_after_{number}", given, JobOutput))(second)
    typed_chain(before.s(LooseInput(a=0)), after).apply_async().get()
    (received,) = seen
    assert isinstance(received, given)
    for name in given.model_fields.keys() & output.model_fields.keys():
        value = getattr(output(), name)
        assert getattr(received, name) == (value.__dict__ if isinstance(value, BaseModel) else value)
