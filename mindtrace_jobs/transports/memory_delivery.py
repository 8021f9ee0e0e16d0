"""What the memory broker keeps about its connections, channels, consumers and the messages they hold."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from mindtrace_jobs.transports.memory_queue import MemoryQueue
from mindtrace_jobs.transports.protocol import (
    ATTEMPTS_HEADER,
    DELIVERY_COUNT_HEADER,
    Payload,
)


class Link:
    """The broker's side of one connection: its consumers and whose turn it is."""

    __slots__ = ("consumers", "epoch", "turn")

    def __init__(self) -> None:
        self.consumers: tuple[Consumer, ...] = ()
        self.turn = 0
        #: Grows when the connection is closed.
        self.epoch = 0


class Session:
    """The broker's side of one channel: its consumers and the messages it holds."""

    __slots__ = ("__weakref__", "consumers", "held", "link", "prefetch", "prefetched", "taken_back")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.consumers: set[Consumer] = set()
        #: By delivery tag, in the order in which they were handed out.
        self.held: dict[str, Delivery] = {}
        #: How many consumed messages it may hold; 0 means no limit.
        self.prefetch = 0
        self.prefetched = 0
        #: Tags of what was put back because the channel was closed.
        self.taken_back: set[str] = set()

    def has_room(self) -> bool:
        """Whether it may be given another consumed message."""
        return not self.prefetch or self.prefetched < self.prefetch

    def hold(self, tag: str, delivery: Delivery) -> None:
        """Keep a message until it is settled."""
        self.held[tag] = delivery
        self.prefetched += delivery.prefetched

    def release(self, tag: str) -> Delivery | None:
        """Give up a held message; None if it is not held."""
        delivery = self.held.pop(tag, None)
        if delivery is not None:
            self.prefetched -= delivery.prefetched
        return delivery

    def up_to(self, tag: str) -> list[str]:
        """The tags handed out up to this one, which is held."""
        tags = list(self.held)
        return tags[: tags.index(tag) + 1]


class Consumer:
    """A standing wish of a channel for the messages of a queue."""

    __slots__ = ("no_ack", "queue", "session")

    def __init__(self, session: Session, queue: str, no_ack: bool) -> None:
        self.session = session
        self.queue = queue
        self.no_ack = no_ack

    def has_room(self) -> bool:
        """Whether it may be given another message."""
        return self.no_ack or self.session.has_room()


class Delivery:
    """A message that was handed out and is not yet settled."""

    __slots__ = ("payload", "prefetched", "queue", "started")

    def __init__(self, queue: MemoryQueue, payload: Payload, prefetched: bool) -> None:
        self.queue = queue
        self.payload = payload
        #: Pushed to a consumer, not asked for by ``basic_get``.
        self.prefetched = prefetched
        self.started = False

    def copy(self, tag: str) -> Payload:
        """The message as its holder got it."""
        return copied(self.payload, tag)


class Waiter:
    """A connection asleep until something happens to one of its queues."""

    __slots__ = ("_signal", "link", "queues", "woken")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.queues = frozenset(consumer.queue for consumer in link.consumers if consumer.has_room())
        self.woken = False
        self._signal = threading.Lock()
        self._signal.acquire()

    def sleep(self, seconds: float | None) -> None:
        """Block until woken, at most so many seconds (None: for ever)."""
        if seconds is None:
            self._signal.acquire()
        elif seconds > 0:
            self._signal.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        """End the sleep, or the next one. Takes no other lock, so that a destructor may call it anywhere."""
        self.woken = True
        with suppress(RuntimeError):  # woken already
            self._signal.release()


def copied(payload: Payload, tag: str) -> Payload:
    """The message as its next holder gets it: headers and properties are the holder's own."""
    properties = payload["properties"]
    return {
        **payload,
        "headers": {**payload["headers"]},
        "properties": {**properties, "delivery_tag": tag, "delivery_info": {**properties["delivery_info"]}},
    }


def given_back(delivery: Delivery, vanished: bool) -> Payload:
    """The message as it returns to its queue.

    Args:
        delivery: What was handed out.
        vanished: Whether the holder is gone, and did not hand it back itself.
    """
    payload = copied(delivery.payload, "")
    headers = payload["headers"]
    headers["redelivered"] = True
    payload["properties"]["delivery_info"]["redelivered"] = True
    if delivery.started or not delivery.prefetched:
        _increase(headers, DELIVERY_COUNT_HEADER)
    if delivery.started and vanished:
        _increase(headers, ATTEMPTS_HEADER)
    return payload


def _increase(headers: dict[str, Any], name: str) -> None:
    value = headers.get(name)
    headers[name] = value + 1 if isinstance(value, int) else 1
