"""Checks of arguments that every type checker knows, for those who use none: what cannot work is said at once."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isnan
from typing import TypeVar

from mindtrace_jobs.errors import ConfigurationError

T = TypeVar("T")


def check_seconds(name: str, value: object) -> None:
    """Raise ConfigurationError unless a value is None or a number of seconds from 0."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value) or value < 0:
        raise ConfigurationError(f"{name} is {value!r:.40}; it is None or a number of seconds from 0")


def check_timeout(name: str, value: object, *, optional: bool = True) -> None:
    """Raise ConfigurationError unless a value is a number of seconds above 0, or None if it is ``optional``."""
    if value is None and optional:
        return
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not 0 < value < inf:  # type: ignore[operator]
        or_none = "None or " if optional else ""
        raise ConfigurationError(f"{name} is {value!r:.40}; it is {or_none}a number of seconds above 0")


def check_count(name: str, value: object, most: int | None = None) -> None:
    """Raise ConfigurationError unless a value is a whole number from 1, and at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        range_ = "from 1" if most is None else f"from 1 to {most}"
        raise ConfigurationError(f"{name} is {value!r:.40}; it is a whole number {range_}")


def listed(name: str, values: Iterable[T]) -> list[T]:
    """The values as a list.

    Raises:
        ConfigurationError: they are not several.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} is {values!r:.40}; it is a list")
    return list(values)
