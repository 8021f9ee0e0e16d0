"""Names and tags: one each, told at definition; the same class defined again replaces the first."""

from __future__ import annotations

from typing import Any

import pytest

from mindtrace_jobs import registry
from mindtrace_jobs.errors import RegistrationError, UnknownTypeError
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.serializer import dumps, loads


class In(JobInput):
    x: int = 1


class Out(JobOutput):
    y: int = 2


class Registered(JobSchema[In, Out]):
    name: str = "registry_registered"


def define(body: str, **names: Any) -> Any:
    """What a notebook cell defines: classes of this module, made anew each time."""
    scope = {"__name__": __name__, "JobInput": JobInput, "JobOutput": JobOutput, "JobSchema": JobSchema, **names}
    exec(body, scope)  # the compiler inherits this module's postponed annotations
    return scope


def test_a_subclass_is_registered_under_its_module_and_qualname() -> None:
    assert registry.find_model(f"{__name__}:In") is In
    assert registry.tag_of(In) == f"{__name__}:In"
    assert registry.find_model(f"{__name__}:Out") is Out


def test_a_schema_with_a_default_name_is_registered_under_it() -> None:
    assert registry.find_schema("registry_registered") is Registered
    assert "registry_registered" in registry.schema_names()
    assert registry.schema_names() == sorted(registry.schema_names())


def test_a_parametrization_and_a_nameless_schema_are_not_registered() -> None:
    before = registry.schema_names()

    class Nameless(JobSchema[In, Out]):
        pass

    assert JobSchema[In, Out](name="registry_free", input=In()).name == "registry_free"
    assert Nameless(name="registry_free", input=In()).name == "registry_free"
    assert registry.schema_names() == before


def test_a_schema_that_would_inherit_a_name_is_an_error_that_tells_how_to_name_it() -> None:
    with pytest.raises(RegistrationError, match=r"inherits .*registry_registered.*name: str"):
        type("Child", (Registered,), {"__module__": __name__})
    assert registry.find_schema("registry_registered") is Registered


def test_a_schema_that_sets_its_own_name_may_extend_another() -> None:
    class Extended(Registered):
        name: str = "registry_extended"

    assert registry.find_schema("registry_extended") is Extended
    assert registry.find_schema("registry_registered") is Registered


def test_two_schemas_of_one_name_are_an_error_at_definition() -> None:
    with pytest.raises(RegistrationError, match=r"registry_registered.*belongs to"):

        class Rival(JobSchema[In, Out]):
            name: str = "registry_registered"

    assert registry.find_schema("registry_registered") is Registered


def test_two_classes_that_pin_one_tag_are_an_error_at_definition() -> None:
    class First(JobInput, tag="registry.pinned"):
        pass

    with pytest.raises(RegistrationError, match=r"registry\.pinned.*belongs to"):

        class Second(JobInput, tag="registry.pinned"):
            pass

    assert registry.find_model("registry.pinned") is First


def test_a_pinned_tag_is_what_is_written() -> None:
    class Pinned(JobInput, tag="registry.written"):
        x: int = 1

    assert b'"registry.written"' in dumps({"v": Pinned()})
    assert loads(dumps({"v": Pinned(x=3)})) == {"v": Pinned(x=3)}


def test_a_tag_is_not_inherited() -> None:
    class Base(JobInput, tag="registry.base"):
        pass

    class Child(Base):
        pass

    assert registry.tag_of(Child) != "registry.base"
    assert registry.find_model("registry.base") is Base


@pytest.mark.parametrize("tag", ["", 5, b"x"])
def test_a_tag_that_is_no_text_is_an_error(tag: Any) -> None:
    with pytest.raises(RegistrationError, match="tag"):

        class Bad(JobInput, tag=tag):
            pass


def test_an_empty_schema_name_is_an_error() -> None:
    with pytest.raises(RegistrationError, match="empty"):

        class Empty(JobSchema[In, Out]):
            name: str = ""


@pytest.mark.parametrize("thing", [int, object(), "os:system", dict])
def test_only_models_can_be_registered(thing: Any) -> None:
    with pytest.raises(RegistrationError, match="not a Pydantic model"):
        registry.register_model(thing, "registry.thing")
    assert registry.find_model("registry.thing") is None


def test_a_cell_that_is_run_twice_replaces_the_first() -> None:
    cell = (
        "class CellIn(JobInput):\n    x: int = 1\n"
        "class CellOut(JobOutput):\n    y: int = 1\n"
        "class CellSchema(JobSchema[CellIn, CellOut]):\n    name: str = 'registry_cell'\n"
    )
    define(cell)
    again = define(cell.replace("x: int", "x: float"))
    assert registry.find_schema("registry_cell") is again["CellSchema"]
    schema: Any = again["CellSchema"]
    job: Job[Any] = Job(payload=schema(input=again["CellIn"](x=1.5)))
    back = loads(dumps([job]))[0]
    assert back == job
    assert type(back.payload.input) is again["CellIn"]


def test_an_unknown_tag_says_what_to_do() -> None:
    with pytest.raises(UnknownTypeError, match="Import the module"):
        registry.model("nobody:knows")
