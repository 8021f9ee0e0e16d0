"""Which fields of an input or output were set comes back with it, however deep they are, so that a partial update stays one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel

from mindtrace_jobs import (
    DecodeError,
    EncodeError,
    Job,
    JobInput,
    JobOutput,
    JobSchema,
    LocalClient,
    Orchestrator,
    register_model,
)
from mindtrace_jobs.serializer import dumps, loads
from mindtrace_jobs.serializer.unset import restore, unset_in


class Leaf(BaseModel):
    model_config = ConfigDict(frozen=True)
    a: int = 0
    b: str = Field(default_factory=lambda: uuid4().hex)


class Other(BaseModel):
    a: int = 0
    c: str = ""


class Holder(BaseModel):
    leaf: Leaf = Leaf()
    numbers: list[float] = Field(default_factory=list)


@dataclass
class Plain:
    leaf: Leaf
    extra: Leaf = field(default_factory=Leaf)


class Root(RootModel[list[Leaf]]):
    pass


class Patch(JobInput):
    name: str | None = None
    age: int | None = None
    made: str = Field(default_factory=lambda: uuid4().hex)


class Deep(JobInput):
    leaf: Leaf = Leaf()
    maybe: Leaf | None = None
    either: Leaf | Other | None = None
    listed: list[Holder] = Field(default_factory=list)
    named: dict[str, Leaf] = Field(default_factory=dict)
    numbered: dict[int, Leaf] = Field(default_factory=dict)
    pair: tuple[Leaf, int] | None = None
    data: Plain | None = None
    root: Root | None = None
    anything: Any = None
    aliased: int = Field(0, validation_alias="Aliased")


class Shared(JobInput):
    leaf: Leaf = Leaf(a=1)


class Known(JobOutput):
    n: int = 0
    leaf: Leaf = Leaf()


class PatchSchema(JobSchema[Patch, Known]):
    name: str = "fields_set_patch"


class DeepSchema(JobSchema[Deep, Known]):
    name: str = "fields_set_deep"


register_model(Leaf)


def travelled(value: Any) -> Any:
    """An input as a worker receives it."""
    schema = PatchSchema(input=value) if isinstance(value, Patch) else DeepSchema(input=value)
    with Orchestrator(LocalClient(broker_id=uuid4().hex)) as orchestrator:
        orchestrator.publish_message("q", Job(payload=schema))
        received = orchestrator.receive_message("q", schema=type(schema))
    assert received is not None
    return received.payload.input


DEEP: list[dict[str, Any]] = [
    {},
    {"leaf": Leaf(a=1)},
    {"leaf": Leaf(a=0, b="x"), "maybe": Leaf(b="y")},
    {"either": Other(c="z")},
    {"either": Leaf(a=3)},
    {"listed": [Holder(), Holder(leaf=Leaf(a=1)), Holder(numbers=[1.0])]},
    {"named": {"x": Leaf(a=1), "0": Leaf()}, "numbered": {7: Leaf(b=""), 3: Leaf(a=1)}},
    {"pair": (Leaf(a=1), 2)},
    {"data": Plain(Leaf(a=1))},
    {"root": Root([Leaf(a=1), Leaf()])},
    {"anything": [Leaf(a=1), {"x": (Leaf(b="b"),)}]},
    {"Aliased": 3},
]


@pytest.mark.parametrize("value", [Deep(**fields) for fields in DEEP], ids=range(len(DEEP)))
def test_what_was_set_comes_back_at_any_depth(value: Deep) -> None:
    received = travelled(value)
    assert received == value
    assert received.model_fields_set == value.model_fields_set
    assert received.model_dump(exclude_unset=True) == value.model_dump(exclude_unset=True)
    assert unset_in(received) == unset_in(value)


@given(st.sets(st.sampled_from(["name", "age", "made"])))
def test_any_part_of_the_fields_may_be_set(names: set[str]) -> None:
    values: dict[str, Any] = {"name": "n", "age": 3, "made": "m"}
    sent = Patch(**{name: values[name] for name in names})
    received = travelled(sent)
    assert (received, received.model_fields_set) == (sent, names)


def test_what_was_assigned_later_counts_as_set() -> None:
    sent = Patch()
    sent.age = None
    assert travelled(sent).model_fields_set == {"age"}


def test_an_output_tells_it_too() -> None:
    with Orchestrator(LocalClient(broker_id=uuid4().hex)) as orchestrator:
        handle = orchestrator.submit(Job(payload=PatchSchema(input=Patch(name="x"))), queue="q")
        with orchestrator.receiving("q") as job:
            assert job is not None
            job.payload.output = Known(leaf=Leaf(b="b"))
        output = handle.result(timeout=60)
    assert output is not None
    assert output.model_dump(exclude_unset=True) == {"leaf": {"b": "b"}}


def test_models_among_other_values_tell_it_too() -> None:
    body = dumps({"one": Patch(age=1), "many": [Leaf(), Leaf(a=2)]})
    back = loads(body)
    assert back["one"].model_fields_set == {"age"}
    assert [leaf.model_fields_set for leaf in back["many"]] == [set(), {"a"}]


def test_where_all_is_set_nothing_is_said() -> None:
    assert unset_in(Patch(name="a", age=1, made="m")) is None
    assert b'"made":"m"}]' in dumps(Patch(name="a", age=1, made="m"))


UNSET: list[Any] = [
    None,
    [],
    {},
    "x",
    [[], []],
    [["a"], {}, 1],
    [[1], {}],
    [[], {"leaf": 1}],
    [[], {"leaf": [[], None]}],
]


@pytest.mark.parametrize("unset", UNSET)
def test_what_is_no_description_is_refused(unset: Any) -> None:
    with pytest.raises(DecodeError):
        restore(Deep.model_validate({"leaf": Leaf()}), unset)


@pytest.mark.parametrize("unset", [[["no such field"], {}], [[], {"nowhere": [["a"], {}]}], [[], {"3": [[], {}]}]])
def test_what_is_not_there_is_not_missed(unset: Any) -> None:
    value = Deep.model_validate({"leaf": Leaf(a=1)})
    restore(value, unset)
    assert value.model_fields_set == {"leaf"}


def test_a_default_that_models_share_is_left_alone() -> None:
    unset = [[], {"maybe": [[], {}], "leaf": [["a"], {}]}]
    tree: Any = {"__type__": "model", "__value__": [f"{__name__}:Shared", {}, None, unset]}
    assert loads(json.dumps(tree)) == Shared()
    assert Shared().leaf.model_fields_set == {"a"}


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodeError, match="contains itself"):
        dumps(Deep.model_construct(anything=loop))
