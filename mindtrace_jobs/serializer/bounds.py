"""Bounds on what received values may cost: numbers that grow when they are converted, keys chosen to have one hash."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from mindtrace_jobs.errors import DecodeError

#: Most digits of an integer, as Python's own limit for reading one, and the largest exponent of a Decimal or fraction.
MAX_DIGITS: Final = 4300
#: Items from which on a set's or dict's keys are checked; below them even the worst take some milliseconds.
CHECKED_FROM: Final = 1000
#: Most different keys with the same hash. By chance even two are rare.
_MAX_ALIKE: Final = 100
_EXPONENT = re.compile(r"[eE]\s*([+-]?[\d_]*\d)\s*$")


def is_bounded_number(value: str | Decimal) -> bool:
    """Whether a number, or text that may be one, has at most 4300 digits and no larger exponent.

    With more, as an integer or a fraction it takes minutes and gigabytes.
    """
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        return isinstance(exponent, str) or (len(digits) <= MAX_DIGITS and abs(exponent) <= MAX_DIGITS)
    found = _EXPONENT.search(value)
    # An exponent of more than ten digits is too large, and need not be read to know it.
    return found is None or (len(found[1]) <= 10 and abs(int(found[1])) <= MAX_DIGITS)


def decimal(text: Any) -> Decimal:
    """The Decimal that a text says.

    Raises:
        DecodeError: it is none, or one of more than 4300 digits or a larger exponent.
    """
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise DecodeError("a Decimal is written as text that is a number") from error
    if not is_bounded_number(value):
        raise DecodeError("a Decimal has more than 4300 digits, or a larger exponent")
    return value


def refuse_chosen_hashes(items: Sequence[Any]) -> Sequence[Any]:
    """The items, unless many different ones have the same hash: to put n of these into a set takes n * n steps.

    Raises:
        DecodeError: they have.
    """
    if len(items) < CHECKED_FROM:
        return items
    try:
        hashes = Counter(map(hash, items))
    except TypeError:  # unhashable: whoever makes the set says so
        return items
    alike, most = hashes.most_common(1)[0]
    if most > _MAX_ALIKE:
        different: list[Any] = []
        for item in items:
            if hash(item) == alike and item not in different:
                different.append(item)
                if len(different) > _MAX_ALIKE:
                    raise DecodeError(f"more than {_MAX_ALIKE} different items have the same hash")
    return items
