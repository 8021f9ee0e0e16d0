"""Which models can travel as plain JSON without losing anything.

A model is plain when its field types alone say how to read its JSON back: ``str``, ``int``, ``datetime``, ``list[Box]``
and the like, without unions, ``Any``, aliases, custom serializers or validators. Its core schema tells that once per
class; whatever of it is not known here for certain makes the model not plain. What the schema cannot tell, a subclass in
a field declared with the base or a value that went in unvalidated, is checked on each instance. Whatever is not plain
travels with a tag on every value (see ``values``) and is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, Flag
from types import NoneType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel
from pydantic_core import SchemaValidator

from mindtrace_jobs.serializer.receiving import core_schema, refuses_unknown

#: True when the value, found where the type was declared, survives JSON.
Check = Callable[[Any], bool]

#: Keys that any schema may have, and what each kind adds without changing how a value is written or read.
_HARMLESS = {"type", "ref", "metadata", "strict", "fail_fast", "schema"}
_HARMLESS_OF: dict[str, set[str]] = {
    "datetime": {"microseconds_precision"},
    "time": {"microseconds_precision"},
    "enum": {"cls", "members", "sub_type"},
    "literal": {"expected"},
    "default": {
        "default",
        "default_factory",
        "default_factory_takes_data",
        "validate_default",
        "copy_default",
        "on_error",
    },
    "list": {"items_schema"},
    "set": {"items_schema"},
    "frozenset": {"items_schema"},
    "tuple": {"items_schema", "variadic_item_index"},
    "dict": {"keys_schema", "values_schema"},
    "definitions": {"definitions"},
    "definition-ref": {"schema_ref"},
    "function-wrap": {"function"},
    "model": {"cls", "config", "custom_init", "root_model", "post_init", "generic_origin", "frozen", "extra_behavior"},
    "model-fields": {"fields", "model_name", "computed_fields", "extra_behavior", "from_attributes"},
    "model-field": {"frozen"},
}
#: Settings of a model that neither change values nor how they are written.
_HARMLESS_CONFIG = {
    "title",
    "hide_input_in_errors",
    "extra_fields_behavior",
    "validate_default",
    "ser_json_bytes",
    "val_json_bytes",
    "ser_json_inf_nan",
    "frozen",
    "from_attributes",
    "strict",
}
#: Constraints on a scalar, which a value that went in unvalidated may break; its own validator checks them.
_CONSTRAINTS = {"ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "regex_engine"} | {
    "allow_inf_nan",
    "max_digits",
    "decimal_places",
    "tz_constraint",
    "version",
    "now_op",
    "now_utc_offset",
}
_LENGTHS = {"min_length", "max_length"}
_SCALARS: dict[str, type[Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "none": NoneType,
    "date": date,
    "uuid": UUID,
}
#: Of what a plain set may consist. A model in it would be written as a dict, which no set can hold.
_SET_ITEMS = {*_SCALARS, "decimal", "datetime", "time", "enum", "literal"}

_plans: dict[type[BaseModel], Check | None] = {}


def is_plain(instance: BaseModel) -> bool:
    """Whether this very instance may be written as plain JSON and read back through its class unchanged."""
    cls = type(instance)
    try:
        check = _plans[cls]
    except KeyError:
        check = _plans[cls] = _Analysis().check(core_schema(cls))
    return check is not None and check(instance)


class _NotPlainError(Exception):
    """The schema holds something whose JSON does not tell its type."""


class _Analysis:
    """One walk over a core schema, giving the check for its instances."""

    def __init__(self) -> None:
        self._definitions: dict[str, Mapping[str, Any]] = {}
        self._resolved: dict[str, Check] = {}

    def check(self, schema: Any) -> Check | None:
        try:
            return self._visit(schema)
        except _NotPlainError:
            return None

    def _visit(self, schema: Mapping[str, Any]) -> Check:
        kind = schema["type"]
        unknown = set(schema) - _HARMLESS - _HARMLESS_OF.get(kind, set())
        if kind in _SCALARS:
            return _constrained(_Types(frozenset([_SCALARS[kind]])), schema, unknown)
        visit = getattr(self, "_visit_" + kind.replace("-", "_"), None)
        if visit is None:
            raise _NotPlainError
        check: Check = visit(schema)
        if kind in ("decimal", "datetime", "time"):
            return _constrained(check, schema, unknown)
        return _bounded(check, schema, unknown)

    def _visit_decimal(self, _schema: Mapping[str, Any]) -> Check:
        return lambda value: type(value) is Decimal and value.is_finite()

    def _visit_datetime(self, _schema: Mapping[str, Any]) -> Check:
        return lambda value: type(value) is datetime and iso_says_all(value)

    def _visit_time(self, _schema: Mapping[str, Any]) -> Check:
        return lambda value: type(value) is time and iso_says_all(value)

    def _visit_enum(self, schema: Mapping[str, Any]) -> Check:
        members: list[Enum] = schema["members"]
        if not members or issubclass(schema["cls"], Flag) or not all(map(_says_its_value, members)):
            raise _NotPlainError
        return _Types(frozenset([schema["cls"]]))

    def _visit_literal(self, schema: Mapping[str, Any]) -> Check:
        expected = frozenset((type(value), value) for value in schema["expected"])
        if not {kind for kind, _ in expected} <= {str, int, bool, NoneType}:
            raise _NotPlainError
        return lambda value: type(value) in (str, int, bool, NoneType) and (type(value), value) in expected

    def _visit_nullable(self, schema: Mapping[str, Any]) -> Check:
        inner = self._visit(schema["schema"])
        if isinstance(inner, _Types):
            return _Types(inner.types | {NoneType})
        return lambda value: value is None or inner(value)

    def _visit_default(self, schema: Mapping[str, Any]) -> Check:
        return self._visit(schema["schema"])

    def _visit_list(self, schema: Mapping[str, Any]) -> Check:
        return self._collection(list, schema)

    def _visit_set(self, schema: Mapping[str, Any]) -> Check:
        return self._set(set, schema)

    def _visit_frozenset(self, schema: Mapping[str, Any]) -> Check:
        return self._set(frozenset, schema)

    def _set(self, kind: type[Any], schema: Mapping[str, Any]) -> Check:
        if schema.get("items_schema", {}).get("type") not in _SET_ITEMS:
            raise _NotPlainError
        return self._collection(kind, schema)

    def _collection(self, collection: type[Any], schema: Mapping[str, Any]) -> Check:
        if "items_schema" not in schema:
            raise _NotPlainError
        each = _each(self._visit(schema["items_schema"]))
        return lambda value: type(value) is collection and each(value)

    def _visit_tuple(self, schema: Mapping[str, Any]) -> Check:
        items = [self._visit(item) for item in schema["items_schema"]]
        if schema.get("variadic_item_index") is None:
            return lambda value: (
                type(value) is tuple
                and len(value) == len(items)
                and all(check(item) for check, item in zip(items, value, strict=True))
            )
        if len(items) != 1:
            raise _NotPlainError
        each = _each(items[0])
        return lambda value: type(value) is tuple and each(value)

    def _visit_dict(self, schema: Mapping[str, Any]) -> Check:
        if "values_schema" not in schema or schema.get("keys_schema", {}).get("type") != "str":
            raise _NotPlainError
        keys, values = _each(self._visit(schema["keys_schema"])), _each(self._visit(schema["values_schema"]))
        return lambda value: type(value) is dict and keys(value) and values(value.values())

    def _visit_definitions(self, schema: Mapping[str, Any]) -> Check:
        self._definitions.update({definition["ref"]: definition for definition in schema["definitions"]})
        return self._visit(schema["schema"])

    def _visit_definition_ref(self, schema: Mapping[str, Any]) -> Check:
        ref = schema["schema_ref"]
        if ref not in self._resolved:
            # A type that contains itself has values of any depth, and JSON is not read to any depth.
            self._resolved[ref] = _recursive
            self._resolved[ref] = self._visit(self._definitions[ref])
        if self._resolved[ref] is _recursive:
            raise _NotPlainError
        return self._resolved[ref]

    def _visit_function_wrap(self, schema: Mapping[str, Any]) -> Check:
        if not refuses_unknown(schema):
            raise _NotPlainError
        return self._visit(schema["schema"])

    def _visit_model(self, schema: Mapping[str, Any]) -> Check:
        if any(schema.get(key) for key in ("root_model", "custom_init", "post_init")):
            raise _NotPlainError
        fields = schema["schema"]
        if fields["type"] != "model-fields" or fields.get("computed_fields"):
            raise _NotPlainError
        if set(schema.get("config", ())) - _HARMLESS_CONFIG or set(fields) - _HARMLESS - _HARMLESS_OF["model-fields"]:
            raise _NotPlainError
        checks = []
        for name, field in fields["fields"].items():
            if set(field) - _HARMLESS - _HARMLESS_OF["model-field"]:
                raise _NotPlainError
            checks.append((name, self._visit(field["schema"])))
        return _model_check(schema["cls"], checks)


def _recursive(value: Any) -> bool:
    """Stands for a definition while it is being visited."""
    raise NotImplementedError


def _model_check(cls: type[BaseModel], checks: list[tuple[str, Check]]) -> Check:
    # Scalars, the most of them, without a call each: this runs for every model that is published.
    scalars = [(name, ok.types) for name, ok in checks if isinstance(ok, _Types)]
    others = [(name, ok) for name, ok in checks if not isinstance(ok, _Types)]
    count = len(checks)

    def check(value: Any) -> bool:
        if type(value) is not cls or value.__pydantic_extra__:
            return False
        fields = value.__dict__
        # A model built by model_construct may lack fields; then its JSON would be filled with defaults.
        if len(fields) != count:
            return False
        try:
            for name, types in scalars:
                if type(fields[name]) not in types:
                    return False
            for name, ok in others:
                if not ok(fields[name]):
                    return False
        except KeyError:
            return False
        return True

    return check


class _Types:
    """Check for values whose exact type is all there is to know."""

    __slots__ = ("types",)

    def __init__(self, types: frozenset[type[Any]]) -> None:
        self.types = types

    def __call__(self, value: Any) -> bool:
        return type(value) in self.types


def _constrained(check: Check, schema: Mapping[str, Any], unknown: set[str]) -> Check:
    if unknown - _CONSTRAINTS:
        raise _NotPlainError
    if not unknown:
        return check
    fits = SchemaValidator({key: value for key, value in schema.items() if key != "ref"}).isinstance_python
    return lambda value: check(value) and fits(value)


def _bounded(check: Check, schema: Mapping[str, Any], unknown: set[str]) -> Check:
    if unknown - _LENGTHS:
        raise _NotPlainError
    if not unknown:
        return check
    least, most = schema.get("min_length") or 0, schema.get("max_length")
    return lambda value: check(value) and least <= len(value) and (most is None or len(value) <= most)


def _each(check: Check) -> Callable[[Any], bool]:
    if isinstance(check, _Types):
        types = check.types
        return lambda values: types.issuperset(map(type, values))
    return lambda values: all(map(check, values))


def _says_its_value(member: Enum) -> bool:
    """Whether the member's JSON is its value: one that is itself a string or number may be written as that."""
    value = member.value
    if isinstance(member, str):
        return type(value) is str and str.__str__(member) == value
    if isinstance(member, int):
        return type(value) is int and int.__int__(member) == value
    return type(value) in (str, int) and not isinstance(member, float | bytes)


def iso_says_all(value: datetime | time) -> bool:
    """Whether ISO 8601 with hours and minutes of offset, as pydantic_core writes it, says all of ``value``."""
    zone = value.tzinfo
    if zone is None or zone is UTC:
        return not value.fold
    return not value.fold and not isinstance(zone, ZoneInfo) and iso_keeps_offset(value)


def iso_keeps_offset(value: datetime | time) -> bool:
    """Whether the offset is of whole minutes, all that pydantic_core reads."""
    offset = value.utcoffset()
    # A time in a zone whose offset depends on the date has None here, and would come back naive.
    return offset is not None and offset.seconds % 60 == 0 and not offset.microseconds
