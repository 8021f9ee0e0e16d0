"""The ``kombu.serializers`` entry point, importable while Kombu itself is half imported.

Kombu loads this group at the bottom of ``kombu.serialization``, before that module is complete; an import of Kombu,
Celery or anything that leads to them from here would be circular. So nothing is imported until a value is encoded.
"""

from __future__ import annotations

from typing import Any

NAME = "pydantic"
CONTENT_TYPE = "application/x-mindtrace-pydantic"
CONTENT_ENCODING = "utf-8"


def dumps(value: Any) -> bytes:
    """Encode ``value``; see :func:`mindtrace_jobs.serializer.dumps`."""
    from mindtrace_jobs.serializer import dumps as encode

    return encode(value)


def loads(data: Any) -> Any:
    """Decode ``data``; see :func:`mindtrace_jobs.serializer.loads`."""
    from mindtrace_jobs.serializer import loads as decode

    return decode(data)


#: What :func:`kombu.serialization.register` takes after the name.
ENTRY = (dumps, loads, CONTENT_TYPE, CONTENT_ENCODING)


def register() -> None:
    """Make the serializer known to Kombu, where no entry point does: a program frozen or run without its metadata."""
    from kombu.serialization import register as register_with_kombu
    from kombu.serialization import registry

    if NAME not in registry._encoders:
        register_with_kombu(NAME, *ENTRY)
