"""Which fields of a model were set, and which have only their defaults: what ``model_fields_set`` and ``exclude_unset`` tell.

Every field travels with its value, since defaults may change and some are made anew for each model. Beside them travels,
where there are any, what was not set: ``[names, {place: the same of what stands there}]``. A place is a field's name, or the
position in a list, tuple or dict, as text.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from mindtrace_jobs.errors import DecodeError
from mindtrace_jobs.serializer.receiving import core_schema
from mindtrace_jobs.serializer.values import JSON_SCALARS

Unset = list[Any]
_SEQUENCES = (list, tuple, deque)


def unset_in(value: Any) -> Unset | None:
    """The fields that were not set in a value and in what it contains; None if all were."""
    cls = type(value)
    if issubclass(cls, BaseModel):
        names, holding = _names_of(cls)
        was_set = value.__pydantic_fields_set__
        missing = [] if was_set >= names else [name for name in cls.model_fields if name not in was_set]
        inner = {}
        if holding or value.__pydantic_extra__:
            fields = value.__dict__
            inner = _found((name, fields[name]) for name in holding if name in fields)
            inner |= _found((value.__pydantic_extra__ or {}).items())
        return [missing, inner] if missing or inner else None
    inner = _found(_items(value))
    return [[], inner] if inner else None


def _found(items: Iterable[tuple[str, Any]]) -> dict[str, Unset]:
    return {place: found for place, item in items if item is not None and (found := unset_in(item)) is not None}


def restore(value: Any, unset: Any) -> None:
    """Let a value that was read tell again what was not set in it.

    Raises:
        DecodeError: this is no description of that.
    """
    match unset:
        case [list() as names, dict() as inner] if all(type(name) is str for name in names):
            pass
        case _:
            raise DecodeError("what was not set in a model is written [names, {place: ...}]")
    if isinstance(value, BaseModel):
        was_set = value.__pydantic_fields_set__
        # Nothing else: a default may be the same object in every model of the class.
        places = {name: item for name, item in value.__dict__.items() if name in was_set} if inner else {}
        places |= value.__pydantic_extra__ or {}
        was_set.difference_update(names)
    else:
        places = dict(_items(value)) if inner else {}
    for place, found in inner.items():
        if place in places:
            restore(places[place], found)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value contains, by place. Of a set nothing, which has no order that both sides know."""
    if type(value) in JSON_SCALARS:
        return
    if isinstance(value, _SEQUENCES):
        for number, item in enumerate(value):
            if type(item) not in JSON_SCALARS:
                yield str(number), item
    elif isinstance(value, dict):
        for number, item in enumerate(value.values()):
            if type(item) not in JSON_SCALARS:
                yield str(number), item
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                yield field.name, getattr(value, field.name)


@cache
def _names_of(cls: type[BaseModel]) -> tuple[frozenset[str], tuple[str, ...]]:
    """A class's fields, and those in which models may be, so that a million numbers need not be looked at."""
    schema: Any = core_schema(cls)
    return frozenset(cls.model_fields), tuple(name for name in cls.model_fields if _may_hold(_field(schema, name)))


def _field(schema: Any, name: str) -> Any:
    """The schema of a field, found under whatever stands around it; None if it is not found."""
    while isinstance(schema, dict):
        if schema["type"] in ("model-fields", "dataclass-args"):
            fields = schema["fields"]
            return fields.get(name) if isinstance(fields, dict) else None
        if schema["type"] == "model" and schema.get("root_model"):
            return schema["schema"]
        schema = schema.get("schema")
    return None


#: Kinds of core schemas whose values hold no models.
_LEAVES = frozenset(
    {
        *(
            "none",
            "bool",
            "int",
            "float",
            "decimal",
            "str",
            "bytes",
            "date",
            "time",
            "datetime",
            "timedelta",
            "literal",
        ),
        *("enum", "uuid", "url", "multi-host-url", "complex", "fraction", "path"),
    }
)


def _may_hold(schema: Any) -> bool:
    """Whether values of a core schema may hold models, as far as it tells."""
    if not isinstance(schema, dict):
        return True
    kind = schema["type"]
    if kind in _LEAVES:
        return False
    if kind in ("default", "nullable", "model-field"):
        return _may_hold(schema["schema"])
    if kind in ("list", "tuple"):
        parts = schema.get("items_schema")
        return any(map(_may_hold, parts)) if isinstance(parts, list) else _may_hold(parts)
    if kind == "dict":
        return _may_hold(schema.get("values_schema"))
    return kind not in ("set", "frozenset")
