"""Kombu's messages, made not to decompress a body before somebody asks for it.

Kombu decompresses while it makes a message, without a limit, before any code can look at its size; and what it made of
the body can't be dead-lettered as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from kombu.message import Message

from mindtrace_jobs.wire.headers import COMPRESSION
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED, decompressed


class PackedMessage(Message):
    """A message whose body is decompressed when it is read. To be mixed into a transport's own class, behind it.

    Attributes:
        packed: The body as it was delivered.
    """

    #: Most bytes that the body may have when it is decompressed; None: any number.
    limit: int | None = MAX_DECOMPRESSED
    packed: Any
    _unpacked: bytes | None

    def __init__(self, body: Any = None, headers: Any = None, **options: Any) -> None:
        if headers and COMPRESSION in headers:
            # What Kombu does not see it does not decompress.
            shown = {name: value for name, value in headers.items() if name != COMPRESSION}
            super().__init__(body=body, headers=shown, **options)
            self.headers = headers
        else:
            super().__init__(body=body, headers=headers, **options)

    @property
    def body(self) -> Any:
        """The body, decompressed.

        Raises:
            DecodeError: it cannot be, or is larger than the limit then.
        """
        compression = self.headers.get(COMPRESSION)
        if not compression:
            return self.packed
        if self._unpacked is None:
            self._unpacked = decompressed(self.packed, compression, self.limit)
        return self._unpacked

    @body.setter
    def body(self, body: Any) -> None:
        self.packed = body
        self._unpacked = None


def decoded_body(decode: Callable[[Any, Any], Any], body: Any, encoding: Any) -> Any:
    """What a virtual channel makes of a body; one that is not encoded as it says stays as it is, to be looked at.

    Args:
        decode: Kombu's own way.
        body, encoding: As the message has them.
    """
    try:
        return decode(body, encoding)
    except Exception:  # of an encoding that is no text, or unknown, or not kept to
        return body


def keep_packed(channel: Any, limit: int | None) -> None:
    """Have a channel make messages that stay packed until they are read.

    Args:
        channel: Any Kombu channel.
        limit: Most bytes that a body may have when it is decompressed; None: any number.
    """
    channel.Message = packed_class(type(channel).Message, limit)


@cache
def packed_class(base: Any, limit: int | None = MAX_DECOMPRESSED) -> Any:
    """A transport's class of messages, made to stay packed."""
    return type(base.__name__, (base, PackedMessage), {"limit": limit, "__module__": base.__module__})
