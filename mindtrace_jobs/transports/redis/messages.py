"""Messages as Kombu keeps them on Redis: JSON objects with body, headers and properties."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from kombu.utils.json import JSONEncoder
from kombu.utils.json import loads as _kombu_loads

from mindtrace_jobs.transports.contract import Payload
from mindtrace_jobs.wire.headers import DELIVERY_COUNT, LOSSES, REDELIVERED, count

#: Levels of nesting from which on a message is none: to write it again, or to hand it to another process, takes as many
#: calls, of which Python allows a thousand.
MAX_DEPTH = 64
#: Kombu makes an encoder for each message; this is one of the same kind.
_encode: Callable[[Payload], str] = JSONEncoder().encode


def dump(payload: Payload) -> str:
    """A message as JSON."""
    return _encode(payload)


def load(raw: bytes, tag: str, queue: str) -> Payload:
    """Decode a message to what Kombu's virtual channels take, under its new delivery tag.

    What is not a message at all becomes one whose body it is, so that somebody can look at it: a queue must not be
    blocked by what a stray command pushed onto it.
    """
    try:
        # Kombu's decoder calls a Python function for every object, for the sake of types that are rarely there.
        payload = _kombu_loads(raw.decode()) if b'"__type__"' in raw else json.loads(raw.decode())
        properties = payload["properties"]
        properties["delivery_tag"] = tag
        properties.setdefault("delivery_info", {}).setdefault("routing_key", queue)
        known = isinstance(payload.setdefault("headers", {}), dict) and isinstance(payload["body"], str | None)
        # Of a body in base64 there is no bracket, so nearly all messages need not be looked at.
        if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
            known = known and not _is_deeper(payload, MAX_DEPTH)
    except KeyboardInterrupt:
        raise
    except BaseException:  # a type registered with Kombu's JSON may raise anything
        known, payload = False, {}
    return payload if known else _foreign(raw, tag, queue)


def _is_deeper(payload: Payload, levels: int) -> bool:
    """Whether something in a message is nested more deeply."""
    nodes: list[Any] = [payload]
    for _ in range(levels):
        nodes = [
            child
            for node in nodes
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list | tuple)
        ]
        if not nodes:
            return False
    return True


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


def requeued(payload: Payload, *, delivered: bool, lost: bool) -> str:
    """The message to requeue.

    Args:
        payload: The message as it was received.
        delivered: The delivery counts: work on it may have started.
        lost: Work on it started, and its holder vanished.
    """
    headers = dict(payload.get("headers") or {})
    headers[REDELIVERED] = True
    if delivered:
        headers[DELIVERY_COUNT] = count(headers, DELIVERY_COUNT) + 1
    if lost:
        headers[LOSSES] = count(headers, LOSSES) + 1
    properties = dict(payload["properties"])
    properties["delivery_info"] = {**(properties.get("delivery_info") or {}), "redelivered": True}
    return dump({**payload, "headers": headers, "properties": properties})


def deliveries(payload: Payload) -> int:
    """How often the message was delivered and requeued."""
    return count(payload.get("headers") or {}, DELIVERY_COUNT)


def priority(payload: Payload) -> int:
    """The message's priority, 0 to 9; 0 if it has none."""
    try:
        return max(0, min(9, int(payload["properties"]["priority"])))
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0
