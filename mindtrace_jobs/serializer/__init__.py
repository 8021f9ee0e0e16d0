"""The Kombu serializer "pydantic": any Python value that holds models, as JSON bytes that bring it back exactly.

Content type ``application/x-mindtrace-pydantic``. Safe by itself whatever ``accept`` says: decoding yields a value built
from registered types or raises DecodeError, for any bytes at all, and never imports or calls what a message names.

Outermost tuples become lists, as in every JSON serializer, so that Celery's ``(args, kwargs, embed)`` reads as JSON;
deeper ones keep their type.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from mindtrace_jobs.errors import DecodeError, EncodeError
from mindtrace_jobs.serializer.decoding import decode, decode_job
from mindtrace_jobs.serializer.encoding import encode, encode_job
from mindtrace_jobs.serializer.text import parse, to_json

__all__ = ["UNDECODED", "decode", "decode_job", "dumps", "encode", "encode_job", "guarded", "loads", "parse", "to_json"]

#: Set while a body is only unpacked: typed values in it stay JSON with their tags, and no model's code runs.
UNDECODED: ContextVar[bool] = ContextVar("UNDECODED", default=False)


def dumps(value: Any) -> bytes:
    """Encode any value made of JSON types, dates, times, Decimal, UUID, bytes, sets, models, schemas and jobs.

    Raises:
        EncodeError: something in it would not come back as it went in.
    """
    try:
        if isinstance(value, tuple | list):
            tree = [[encode(item) for item in part] if type(part) is tuple else encode(part) for part in value]
        else:
            tree = encode(value)
    except RecursionError as error:
        raise EncodeError("nested too deeply, or it contains itself") from error
    return to_json(tree, deep=True)


def loads(data: bytes | bytearray | memoryview | str) -> Any:
    """Decode what :func:`dumps` wrote, or plain JSON.

    Raises:
        DecodeError: for anything else; nothing but DecodeError is ever raised.
    """
    tree = parse(data)
    return tree if UNDECODED.get() else guarded(decode, tree)


def guarded(read: Any, *args: Any) -> Any:
    """Call a decoding function; whatever malformed data makes it raise comes out as DecodeError."""
    try:
        return read(*args)
    except DecodeError:
        raise
    except Exception as error:
        # Not the error's own text, which quotes the value: payloads are private.
        raise DecodeError(f"malformed value ({type(error).__name__})") from error
