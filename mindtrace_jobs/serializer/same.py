"""Whether a value came back as it went in: ``==`` is too kind, since ``1 == True`` and ``"a" == Colour.A``."""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Iterable
from datetime import datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel


def difference(a: Any, b: Any) -> str | None:
    """The path of the first place where two values differ in type or value, or None.

    Private attributes and cached properties are not looked at: they belong to a process, not to the value.
    """
    if type(a) is not type(b):
        return ""
    if isinstance(a, BaseModel):
        names = type(a).model_fields
        return _named(
            {name: value for name, value in a.__dict__.items() if name in names} | (a.__pydantic_extra__ or {}),
            {name: value for name, value in b.__dict__.items() if name in names} | (b.__pydantic_extra__ or {}),
        )
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        return _named(_attributes(a), _attributes(b))
    if isinstance(a, dict):
        if isinstance(a, defaultdict) and a.default_factory is not b.default_factory:
            return ""
        return _items(a.items(), b.items())
    if isinstance(a, list | tuple):
        return _items(enumerate(a), enumerate(b))
    if isinstance(a, deque):
        return _items(enumerate(a), enumerate(b)) if a.maxlen == b.maxlen else ""
    if isinstance(a, set | frozenset):
        twins = {item: item for item in b}
        same = len(a) == len(b) and all(item in twins and difference(item, twins[item]) is None for item in a)
        return None if same else ""
    return None if _same_scalar(a, b) else ""


def _same_scalar(a: Any, b: Any) -> bool:
    if isinstance(a, datetime | time):
        # Two zones never compare equal in an hour that a change of clocks repeats, so the parts are compared.
        zones = [moment.tzinfo if isinstance(moment.tzinfo, ZoneInfo) else None for moment in (a, b)]
        return (
            a.replace(tzinfo=None) == b.replace(tzinfo=None)
            and a.utcoffset() == b.utcoffset()
            and (a.tzinfo is None) == (b.tzinfo is None)
            and a.fold == b.fold
            and zones[0] is zones[1]
        )
    if isinstance(a, float | Decimal | complex):
        return repr(a) == repr(b)  # tells -0.0 from 0.0 and 1.0 from 1.00, and finds nan like nan
    try:
        return bool(a == b)
    except Exception:  # arrays and the like do not compare to a bool
        return False


def _attributes(value: Any) -> dict[str, Any]:
    declared = {
        field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)
    }
    return declared | getattr(value, "__dict__", {})


def _named(a: dict[str, Any], b: dict[str, Any]) -> str | None:
    if a.keys() != b.keys():
        return ""
    return next((f".{name}{rest}" for name in a if (rest := difference(a[name], b[name])) is not None), None)


def _items(a: Iterable[tuple[Any, Any]], b: Iterable[tuple[Any, Any]]) -> str | None:
    try:
        for (key, x), (other, y) in zip(a, b, strict=True):
            if difference(key, other) is not None:
                return ""
            rest = difference(x, y)
            if rest is not None:
                return f"[{key!r}]{rest}"
    except ValueError:  # of different lengths
        return ""
    return None
