"""Messages between Kombu's form and this package's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import Message

_DELIVERY_HEADERS = frozenset({wire.REDELIVERED, wire.DELIVERY_COUNT})
#: AMQP 0-9-1 basic properties that belong to the message.
_PROPERTIES = frozenset({"correlation_id", "reply_to", "priority", "message_id", "timestamp", "type", "app_id"})


def prepared(channel: Any, message: Message, properties: Mapping[str, Any]) -> Any:
    """A message as a Kombu channel publishes it; a producer would only encode it.

    Args:
        channel: Kombu's.
        message: The message.
        properties: Properties beside its own, of which these come before.
    """
    all_properties = {**message.properties, **properties, "delivery_mode": 2}
    return channel.prepare_message(
        message.body,
        priority=all_properties.pop("priority", 0),
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=message.headers,
        properties=all_properties,
    )


def body_of(raw: Any) -> bytes:
    """The body of a message of Kombu's, as it was delivered."""
    packed = raw.packed
    return packed.encode("utf-8", "surrogatepass") if isinstance(packed, str) else bytes(packed or b"")


def message_of(raw: Any) -> Message:
    """What Kombu delivered, without what belongs to this one delivery: publishing it again makes an equal message.

    Args:
        raw: A message of Kombu's, still packed (see ``transports.packed``).
    """
    headers = {name: value for name, value in raw.headers.items() if name not in _DELIVERY_HEADERS}
    properties = {name: value for name, value in raw.properties.items() if name in _PROPERTIES and value is not None}
    content_type = raw.content_type if isinstance(raw.content_type, str) else ""
    encoding = raw.content_encoding if isinstance(raw.content_encoding, str) else ""
    return Message(body_of(raw), headers, content_type, encoding, properties)
