"""What the memory broker keeps about its connections, channels and consumers, and the messages they hold.

Not safe for threads by itself: the broker's lock guards all of it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from mindtrace_jobs.transports.contract import Payload
from mindtrace_jobs.transports.memory.queue import MemoryQueue
from mindtrace_jobs.wire.headers import DELIVERY_COUNT, LOSSES, REDELIVERED, count


@dataclass(eq=False, slots=True)
class Connection:
    """The broker's side of one connection."""

    #: Notified when something happens that the connection waits for. Its lock is the broker's.
    wake_up: threading.Condition
    consumers: list[Consumer] = field(default_factory=list)
    #: Index of the consumer that is served next.
    turn: int = 0
    #: How often the connection was closed; Kombu may open it again.
    closings: int = 0


@dataclass(eq=False, slots=True)
class Session:
    """The broker's side of one channel."""

    connection: Connection
    #: By delivery tag, in the order in which they were delivered.
    held: dict[str, Delivery] = field(default_factory=dict)
    #: How many consumed messages it may hold; 0 means no limit.
    prefetch: int = 0
    #: How many consumed messages it holds.
    prefetched: int = 0
    #: Delivery tags of what went back to its queue because the holder was gone.
    taken_back: set[str] = field(default_factory=set)

    def consumers(self) -> list[Consumer]:
        """Those of this channel."""
        return [consumer for consumer in self.connection.consumers if consumer.session is self]

    def has_room(self) -> bool:
        """True if it may be delivered another consumed message."""
        return not self.prefetch or self.prefetched < self.prefetch


@dataclass(eq=False, slots=True)
class Consumer:
    """A subscription of a channel to a queue, which need not exist yet."""

    session: Session
    queue: str
    no_ack: bool

    def has_room(self) -> bool:
        """True if it may be delivered another message."""
        return self.no_ack or self.session.has_room()


@dataclass(eq=False, slots=True)
class Delivery:
    """A message that was delivered and is not yet acknowledged or rejected."""

    queue: MemoryQueue
    payload: Payload
    #: Pushed to a consumer, not asked for by ``basic_get``.
    prefetched: bool
    started: bool = False

    def to_requeue(self, vanished: bool) -> Payload:
        """The message as it returns to its queue; ``vanished`` if its holder is gone, and did not requeue it itself."""
        payload = copied(self.payload, "")
        headers = payload["headers"]
        headers[REDELIVERED] = payload["properties"]["delivery_info"]["redelivered"] = True
        if self.started or not self.prefetched:
            headers[DELIVERY_COUNT] = count(headers, DELIVERY_COUNT) + 1
        if self.started and vanished:
            headers[LOSSES] = count(headers, LOSSES) + 1
        return payload


def copied(payload: Payload, tag: str) -> Payload:
    """The message as its next holder gets it: headers and properties are the holder's own."""
    properties = payload["properties"]
    return {
        **payload,
        "headers": {**payload["headers"]},
        "properties": {**properties, "delivery_tag": tag, "delivery_info": {**properties["delivery_info"]}},
    }
