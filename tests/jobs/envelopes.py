"""Messages as a stranger may push them onto a queue's key on Redis: any part of the envelope may hold anything."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from mindtrace_jobs.testing.runners.hostile import JUNK
from mindtrace_jobs.wire.message import Message

#: Paths to the parts of an envelope as Kombu writes it.
PARTS: tuple[tuple[str, ...], ...] = (
    ("body",),
    ("content-type",),
    ("content-encoding",),
    ("headers",),
    ("properties",),
    ("properties", "body_encoding"),
    ("properties", "delivery_info"),
    ("properties", "delivery_info", "exchange"),
    ("properties", "delivery_info", "routing_key"),
    ("properties", "delivery_info", "redelivered"),
    ("properties", "delivery_tag"),
    ("properties", "delivery_mode"),
    ("properties", "priority"),
    ("properties", "correlation_id"),
    ("properties", "reply_to"),
    ("properties", "delay"),
    ("properties", "expiration"),
)
#: What no part should be, beside the junk of headers.
_MORE: tuple[Any, ...] = (None, "base64", "A", "no such encoding", "\ud800", {"__type__": "job", "__value__": 5})
#: What is no envelope at all.
_OTHERS = (
    b"",
    b"\xff\xfe",
    b"5",
    b"null",
    b"[]",
    b"{}",
    b'{"properties": {}}',
    b'{"body": null, "properties": {}}',
    b"[" * 100_000,
    b'{"body": "e30=", "properties": {}, "headers": ' + b'{"a": ' * 150 + b"1" + b"}" * 150 + b"}",
    b'{"body": "e30=", "properties": {}, "headers": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}",
    b'{"body": "e30=", "properties": {}, "headers": {"n": ' + b"9" * 10_000 + b"}}",
    b'{"body": "e30=", "properties": {}, "headers": {"n": NaN, "m": 1e999}}',
)


def envelope(message: Message) -> dict[str, Any]:
    """The envelope of a message as Kombu writes it."""
    return {
        "body": base64.b64encode(message.body).decode(),
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
        "headers": dict(message.headers),
        "properties": {
            **message.properties,
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "q"},
            "delivery_mode": 2,
            "delivery_tag": "x",
            "priority": 0,
        },
    }


def hostile_envelopes(message: Message) -> Iterator[bytes]:
    """What may be found on a queue: a message with each of its parts replaced, or left out, and what is none."""
    for path in PARTS:
        for value in (*JUNK, *_MORE):
            changed = envelope(message)
            _part(changed, path)[path[-1]] = value
            yield json.dumps(changed).encode()
        shorter = envelope(message)
        _part(shorter, path).pop(path[-1], None)
        yield json.dumps(shorter).encode()
    yield from _OTHERS


def _part(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path[:-1]:
        tree = tree[name]
    return tree
