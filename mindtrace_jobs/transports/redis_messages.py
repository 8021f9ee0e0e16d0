"""Messages as Kombu keeps them on Redis: JSON objects with body, headers and properties."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from kombu.utils.json import JSONEncoder
from kombu.utils.json import loads as _kombu_loads

Payload = dict[str, Any]

#: Kombu makes an encoder for each message; this is one of the same kind.
_encode: Callable[[Payload], str] = JSONEncoder().encode

DELIVERY_COUNT = "x-delivery-count"
ATTEMPTS = "x-attempts"


def dump(payload: Payload) -> str:
    """A message as JSON."""
    return _encode(payload)


def load(raw: bytes, tag: str, queue: str) -> Payload:
    """A message as Kombu's virtual channels take it, under its new delivery tag.

    What is not a message at all becomes one whose body it is, so that somebody can look at it: a queue must not be
    blocked by what a stray command pushed onto it.
    """
    try:
        # Kombu's decoder calls a Python function for every object, for the sake of types that are rarely there.
        payload = _kombu_loads(raw.decode()) if b'"__type__"' in raw else json.loads(raw)
        properties = payload["properties"]
        properties["delivery_tag"] = tag
        properties.setdefault("delivery_info", {}).setdefault("routing_key", queue)
        known = isinstance(payload.setdefault("headers", {}), dict) and isinstance(payload["body"], str | None)
    except Exception:
        known, payload = False, {}
    return payload if known else _foreign(raw, tag, queue)


def _foreign(raw: bytes, tag: str, queue: str) -> Payload:
    return {
        "body": base64.b64encode(raw).decode(),
        "content-type": "application/octet-stream",
        "content-encoding": "binary",
        "headers": {},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
        },
    }


def returned(payload: Payload, *, delivered: bool, attempted: bool) -> str:
    """The message to put back on its queue.

    Args:
        payload: The message as it was taken.
        delivered: Whether the delivery counts: work on it may have begun.
        attempted: Whether work on it began and its holder vanished.
    """
    headers = dict(payload.get("headers") or {})
    headers["redelivered"] = True
    if delivered:
        headers[DELIVERY_COUNT] = _count(headers, DELIVERY_COUNT) + 1
    if attempted:
        headers[ATTEMPTS] = _count(headers, ATTEMPTS) + 1
    properties = dict(payload["properties"])
    properties["delivery_info"] = {**(properties.get("delivery_info") or {}), "redelivered": True}
    return dump({**payload, "headers": headers, "properties": properties})


def priority(payload: Payload) -> int:
    """The message's priority, 0 to 9; 0 if it has none."""
    try:
        return max(0, min(9, int(payload["properties"]["priority"])))
    except (KeyError, TypeError, ValueError):
        return 0


def _count(headers: Payload, name: str) -> int:
    count = headers.get(name, 0)
    return count if isinstance(count, int) else 0
