"""Bodies that Kombu compressed, decompressed within a limit: a kilobyte of some messages is a gigabyte decompressed.

This module loads neither Kombu nor Pydantic.
"""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Protocol

from mindtrace_jobs.errors import DecodeError

#: Most bytes that a body may have when it is decompressed, unless a client is told otherwise: 64 MiB.
MAX_DECOMPRESSED: Final = 64 * 2**20
#: Most bytes of memory that the dictionary of an LZMA stream may ask for.
_LZMA_MEMORY: Final = 128 * 2**20


class _Decompressor(Protocol):
    """As ``bz2.BZ2Decompressor``."""

    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _zstd() -> Any:
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd").ZstdDecompressor()


#: Content types and aliases under which Kombu registers its own (``kombu.compression``), and what makes a decompressor.
_KINDS: Final[dict[str, Callable[[], Any]]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys(
        ("application/x-lzma", "lzma", "xz"), lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_LZMA_MEMORY)
    ),
    **dict.fromkeys(("application/zstd", "zstd", "zstandard"), _zstd),
}


def decompressed(body: bytes, compression: object, limit: int | None = MAX_DECOMPRESSED) -> bytes:
    """A body as it was before Kombu compressed it.

    Args:
        body: As it was delivered.
        compression: The header that says how it was compressed.
        limit: Most bytes that it may have then; None: any number.

    Raises:
        DecodeError: it has more, is damaged, or is compressed in a way that is not known, or has no bound, here.
    """
    if not isinstance(compression, str):
        raise DecodeError("the header `compression` is no text")
    make = _KINDS.get(compression)
    if make is None and limit is not None:
        raise DecodeError(
            f"the body is compressed with {compression!r:.80}, for which no limit can be set: accept any size with "
            "max_decompressed_bytes=None, or have the producer use gzip, bzip2, lzma or zstd"
        )
    try:
        if make is None or limit is None:
            from kombu.compression import decompress

            return bytes(decompress(body, compression))
        return _within(body, make, limit)
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"the body cannot be decompressed ({compression!r:.80}): {type(error).__name__}") from error


def _within(body: bytes, make: Callable[[], _Decompressor], limit: int) -> bytes:
    found: list[bytes] = []
    left = limit
    # Several streams may follow one another, as their tools write them.
    while True:
        stream = make()
        part = stream.decompress(body, left + 1)
        found.append(part)
        left -= len(part)
        if left < 0:
            raise DecodeError(
                f"the body has more than {limit} bytes when it is decompressed: raise max_decompressed_bytes if that is "
                "right"
            )
        if not stream.eof:
            raise EOFError("the stream ends too early")
        body = stream.unused_data
        if not body:
            return b"".join(found)
