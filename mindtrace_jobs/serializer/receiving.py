"""Validators for what arrives: the classes' own, but as fast as they can be, and bounded whatever the data.

A class refuses unknown fields by a Python function around it. Under the receiving context that lets everything pass, so
for received data a validator is made from the same core schema with the check taken out, and a whole job is read in one
pass without leaving Rust.

Bounded: a list of wrong items makes one error and not one for each, sets and dicts refuse keys that were chosen to have
one hash (with which Python takes quadratic time), and fractions refuse exponents that would take gigabytes.

JSON has the value of an enum's member where a class may want the member itself: in a Literal, as the discriminator of a
union, or as one whose value is no text or number. There the one member with that value is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from functools import cache, cached_property
from typing import Any

import pydantic_core
from pydantic import BaseModel
from pydantic_core import CoreConfig, SchemaValidator

from mindtrace_jobs.errors import DecodeError
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.serializer.bounds import CHECKED_FROM, is_bounded_number, refuse_chosen_hashes

_REFUSE_UNKNOWN = JobInput._refuse_unknown.__func__
#: A validation error ends in the log and before monitors as the cause of another: it must not hold the data.
_PRIVATE = CoreConfig(hide_input_in_errors=True)
#: Parts of a core schema that hold no schemas, but values of any kind.
_NO_SCHEMA = frozenset(
    {
        "cls",
        "config",
        "custom_error_context",
        "default",
        "default_factory",
        "discriminator",
        "expected",
        "function",
        "members",
        "metadata",
        "serialization",
    }
)
#: Parts that may be schemas under names of the user's, which are none of Pydantic's.
_BY_NAME = frozenset({"choices", "fields"})
_COLLECTIONS = frozenset({"list", "tuple", "set", "frozenset"})
#: Types of which no values can be chosen that have the same hash: Python's hash of text and bytes has a secret.
_UNCHOSEN = frozenset({"bool", "bytes", "date", "datetime", "enum", "float", "literal", "str", "time"})


def _compiled(schema: Any) -> SchemaValidator:
    # Else the validators that nested models have already would be used, and nothing that is said of them here.
    return SchemaValidator(schema, _PRIVATE, _use_prebuilt=False)


class Validator:
    """Validates received data as a class; the context of each call must be ``RECEIVING`` all the same.

    Attributes:
        first: Stops at the first offence in each list, so that what it says of any data is bounded.
    """

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self.first = _compiled(_Bounds(schema, fail_fast=True).schema)

    @cached_property
    def json(self) -> SchemaValidator:
        """For JSON text of data that ``first`` would take without strictness: a strict class takes it as JSON alone.

        It has no bound on keys and numbers, whose checks would make Python values of the JSON.
        """
        return _compiled(_Bounds(self._schema, fail_fast=True, checked=False).schema)

    @cached_property
    def every(self) -> SchemaValidator:
        """Finds every offence, for data of a bounded size."""
        return _compiled(_Bounds(self._schema).schema)

    @cached_property
    def names(self) -> frozenset[str]:
        """What the schema itself may put into the path to an offence; everything else in one is data."""
        return frozenset(_names(self._schema, _definitions(self._schema)))


@cache
def validator(cls: type[BaseModel]) -> Validator:
    """The validator of a class."""
    schema: Any = core_schema(cls)
    ours = issubclass(cls, JobInput | JobOutput | JobSchema)
    return Validator(_without_check(schema) if ours else schema)


@cache
def job_validator(schema: type[JobSchema[Any, Any]], typed: bool) -> Validator:
    """The validator of jobs with this schema, giving a ``Job[schema]`` if ``typed``, else a ``Job``."""
    tree: Any = _without_check(core_schema(Job[schema] if typed or schema is not JobSchema else Job))  # type: ignore[valid-type]
    model = tree["schema"] if tree["type"] == "definitions" else tree
    if not typed:
        model["cls"] = Job
    # The metadata was JSON a moment ago; asking each value for its type would be a call of Python each.
    model["schema"]["fields"]["metadata"]["schema"]["schema"]["values_schema"] = {"type": "any"}
    return Validator(tree)


def core_schema(cls: type[BaseModel]) -> dict[str, Any]:
    """The class's core schema, built if that was deferred."""
    if not isinstance(cls.__pydantic_core_schema__, dict):
        cls.model_rebuild()
    schema: Any = cls.__pydantic_core_schema__
    return dict(schema)


def refuses_unknown(schema: Mapping[str, Any]) -> bool:
    """Whether a core schema is the check for unknown fields around a model."""
    if schema["type"] != "function-wrap":
        return False
    function = schema.get("function")  # a bare one belongs to a serializer, which goes by the same name
    return isinstance(function, dict) and getattr(function["function"], "__func__", None) is _REFUSE_UNKNOWN


def _without_check(node: Any) -> Any:
    if type(node) is list:
        return [_without_check(item) for item in node]
    if type(node) is not dict:
        return node
    if node.get("type") == "function-wrap" and refuses_unknown(node) and not _has_computed_fields(node):
        inner = dict(node["schema"])
        if "ref" in node:
            inner["ref"] = node["ref"]
        return _without_check(inner)
    return {
        key: item if key == "metadata" and "pydantic_js_functions" in item else _without_check(item)
        for key, item in node.items()
    }


def _has_computed_fields(node: Any) -> bool:
    """Whether the model in a core schema has them: then the function around it leaves out what a dump says of them."""
    while type(node) is dict and node.get("type") != "model-fields":
        node = node.get("schema")
    return bool(node and node.get("computed_fields"))


def _definitions(schema: Any) -> list[Any]:
    found: list[Any] = schema["definitions"] if schema["type"] == "definitions" else []
    return found


class _Bounds:
    """A core schema with bounds on what its validation costs.

    Args:
        original: The schema.
        fail_fast: Stop at the first offence in each list.
        checked: Check the keys of sets and dicts, and fractions.
    """

    def __init__(self, original: Any, *, fail_fast: bool = False, checked: bool = True) -> None:
        self._fail_fast = fail_fast
        self._checked = checked
        self._original_definitions = _definitions(original)
        self.schema = self._bounded(original)

    def _bounded(self, node: Any) -> Any:
        if type(node) is list:
            return [self._bounded(item) for item in node]
        if type(node) is tuple:  # a choice of a union and its label
            return (self._bounded(node[0]), *node[1:])
        if type(node) is not dict:
            return node
        found = {key: self._part(key, item) for key, item in node.items()}
        kind = node.get("type")
        if kind == "union":
            # A choice that is wrapped keeps the name it has in errors.
            found["choices"] = [
                (new, title(old, self._original_definitions)) if _is_wrapped(old, new) else new
                for old, new in zip(node["choices"], found["choices"], strict=True)
            ]
        if self._fail_fast and kind in _COLLECTIONS:
            found["fail_fast"] = True
        if kind == "tagged-union":
            found["choices"] = {**_labels_in_json(found["choices"]), **found["choices"]}
        members = by_json(node["expected"] if kind == "literal" else node["members"] if kind == "enum" else ())
        if members:
            return _before(found, lambda value: _member(value, members))
        if not self._checked:
            return found
        if kind in ("set", "frozenset") and _may_be_chosen(node.get("items_schema")):
            return self._wrapped(found, found.get("items_schema"))
        if kind == "dict" and "keys_schema" in node and _may_be_chosen(node["keys_schema"]):
            return self._wrapped(found, found["keys_schema"])
        if _makes_fraction(node):
            return _before(found, _refuse_exponents)
        return found

    def _part(self, key: str, part: Any) -> Any:
        if key in _NO_SCHEMA:
            return part
        if key in _BY_NAME and type(part) is dict:
            return {name: self._bounded(schema) for name, schema in part.items()}
        return self._bounded(part)

    def _wrapped(self, node: dict[str, Any], items: Any) -> dict[str, Any]:
        ref = {"ref": node.pop("ref")} if "ref" in node else {}
        made: list[SchemaValidator] = []

        def check(value: Any, handler: Any, info: Any) -> Any:
            if isinstance(value, list | tuple | dict) and len(value) >= CHECKED_FROM:
                if not made:
                    made.append(_compiled(self._list_of(items)))
                # As they will be in the set, since 1, "1" and 1.0 may become one there.
                refuse_chosen_hashes(made[0].validate_python(list(value), context=info.context))
            return handler(value)

        function = {"type": "with-info", "function": check}
        return {"type": "function-wrap", "function": function, "schema": node, **ref}

    def _list_of(self, items: Any) -> Any:
        listed = {"type": "list", "items_schema": items or {"type": "any"}, "fail_fast": True}
        return {"type": "definitions", "schema": listed, "definitions": _definitions(self.schema)}


def _before(node: dict[str, Any], function: Callable[[Any], Any]) -> dict[str, Any]:
    """A core schema behind a function that prepares what it gets."""
    ref = {"ref": node.pop("ref")} if "ref" in node else {}
    return {"type": "function-before", "function": {"type": "no-info", "function": function}, "schema": node, **ref}


def by_json(expected: Iterable[Any]) -> dict[bytes, Enum]:
    """Members of enums by the JSON of their values, as far as Pydantic does not find them by it and only one has it."""
    found: dict[bytes, Enum | None] = {}
    for value in expected:
        text = _json(value)
        if text is not None:
            found[text] = value if isinstance(value, Enum) and text not in found else None
    return {text: member for text, member in found.items() if member is not None and not isinstance(member, str | int)}


def _member(value: Any, members: Mapping[bytes, Enum]) -> Any:
    if isinstance(value, Enum):
        return value
    text = _json(value)
    return value if text is None else members.get(text, value)


def _labels_in_json(choices: Mapping[Any, Any]) -> dict[Any, Any]:
    """The choices of a union that are told apart by members of enums, by what JSON has for these."""
    members = by_json(choices)
    return {member.value: choices[member] for member in members.values() if isinstance(member.value, str | int)}


def _json(value: Any) -> bytes | None:
    try:
        return pydantic_core.to_json(value)
    except ValueError:  # it has none
        return None


def _may_be_chosen(schema: Any) -> bool:
    return schema is None or schema["type"] not in _UNCHOSEN


def _makes_fraction(node: Any) -> bool:
    if node.get("type") == "function-plain":  # of Pydantic before it had a type for it
        function = node["function"]["function"]
        return getattr(function, "__name__", "") == "fraction_validator" and function.__module__.startswith("pydantic.")
    return bool(node.get("type") == "fraction")


def _is_wrapped(old: Any, new: Any) -> bool:
    return type(old) is dict and old["type"] != new["type"]


def title(choice: Any, definitions: list[Any]) -> str:
    """What Pydantic calls a choice of a union in the path to an offence."""
    return str(SchemaValidator({"type": "definitions", "schema": choice, "definitions": definitions}).title)


def _refuse_exponents(value: Any) -> Any:
    if isinstance(value, str | Decimal) and not is_bounded_number(value):
        raise DecodeError("a number of more than 4300 digits, or with a larger exponent")
    return value


def _names(node: Any, definitions: list[Any]) -> Iterator[str]:
    """Names of fields, their aliases, and labels of choices."""
    if type(node) in (list, tuple):
        for item in node:
            yield from _names(item, definitions)
        return
    if type(node) is not dict:
        return
    kind = node.get("type")
    fields = node.get("fields", node.get("arguments_schema"))
    if isinstance(fields, dict):
        yield from fields
    elif isinstance(fields, list):
        yield from (field if isinstance(field, str) else field["name"] for field in fields)
    for alias in (node.get("validation_alias"), node.get("alias")):
        yield from _texts(alias)
    if kind == "union":
        for choice in node["choices"]:
            yield choice[1] if isinstance(choice, tuple) else title(choice, definitions)
    elif kind == "tagged-union":
        yield from map(str, node["choices"])
    for key, item in node.items():
        if key not in _NO_SCHEMA:
            yield from _names([*item.values()] if key in _BY_NAME and type(item) is dict else item, definitions)


def _texts(alias: Any) -> Iterator[str]:
    if isinstance(alias, str):
        yield alias
    elif isinstance(alias, list):
        for part in alias:
            yield from _texts(part)
