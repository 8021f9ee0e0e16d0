"""JSON text <-> JSON values, by ``pydantic_core``, with its limits met on the writing side.

The reader takes integers of up to 4300 digits and 200 levels of nesting; the writer would write more of both. What could
not be read back is refused when it is written.
"""

from __future__ import annotations

from typing import Any

import pydantic_core

from mindtrace_jobs.errors import DecodeError, EncodeError
from mindtrace_jobs.serializer.bounds import MAX_DIGITS

#: Levels of nesting that the reader takes, and how many of them an envelope around a value may use.
MAX_DEPTH, ENVELOPE = 200, 32
_DIGITS = b"0123456789"
_READABLE = (str, bytes, bytearray)


def to_json(tree: Any, *, deep: bool = False) -> bytes:
    """JSON text of an encoded tree; with ``deep``, of a tree that may be nested to any depth.

    Raises:
        EncodeError: something in it has no JSON form, such as a lone surrogate, or could not be read back.
    """
    try:
        text = pydantic_core.to_json(tree, inf_nan_mode="constants")
        if (len(text) > MAX_DIGITS and _has_long_number(text)) or (
            deep and text.count(b"[") + text.count(b"{") > MAX_DEPTH - ENVELOPE
        ):
            pydantic_core.from_json(b"[" * ENVELOPE + text + b"]" * ENVELOPE)
    except (ValueError, TypeError, RecursionError) as error:
        raise EncodeError(f"cannot be written as JSON that reads back: {error}") from error
    return text


def _has_long_number(text: bytes) -> bool:
    """Whether more than 4300 digits follow each other; such a run must cover a multiple of 4300."""
    for middle in range(MAX_DIGITS, len(text), MAX_DIGITS):
        if text[middle] not in _DIGITS:
            continue
        before, after = text[middle - MAX_DIGITS : middle], text[middle : middle + MAX_DIGITS]
        run = len(before) - len(before.rstrip(_DIGITS)) + len(after) - len(after.lstrip(_DIGITS))
        if run > MAX_DIGITS:
            return True
    return False


def parse(data: bytes | bytearray | memoryview | str) -> Any:
    """JSON text to plain JSON values, types unresolved.

    Raises:
        DecodeError: not JSON.
    """
    try:
        return pydantic_core.from_json(data if isinstance(data, _READABLE) else bytes(data))
    except Exception as error:
        raise DecodeError(f"not JSON: {error}") from error
