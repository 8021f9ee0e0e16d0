"""Commands as they are sent to a Redis server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Command = Sequence[Any]

#: Bytes after which a new piece of a pipeline begins.
_PIECE = 1 << 14


def packed(commands: Sequence[Command]) -> list[bytes]:
    """Commands as RESP sends them, in pieces of some ten kilobytes; redis-py's own way takes several times as long."""
    pieces: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for value in command:
            data = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
            size += len(data)
        if size > _PIECE:
            pieces.append(b"".join(parts))
            parts, size = [], 0
    if parts:
        pieces.append(b"".join(parts))
    return pieces
