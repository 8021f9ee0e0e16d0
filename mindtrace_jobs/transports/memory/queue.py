"""One queue in memory: ready messages in the order of their delivery, delayed ones by the time they are due.

Not safe for threads by itself: the broker's lock guards it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import chain, count
from time import monotonic
from typing import Any

from mindtrace_jobs.transports.contract import PRIORITY, STACK, Payload

MAX_PRIORITY = 9

_sequence = count()


class MemoryQueue:
    """Messages waiting under one name.

    Args:
        name: The queue's name.
        kind: "fifo", "priority", "stack", or "" for a plain queue, which is first in, first out.
        auto_delete: Whether the queue goes when its last consumer does.
    """

    __slots__ = ("_delayed", "_levels", "auto_delete", "kind", "name", "unacknowledged")

    def __init__(self, name: str, kind: str, auto_delete: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.auto_delete = auto_delete
        #: How many messages were delivered and are neither acknowledged nor rejected.
        self.unacknowledged = 0
        # Highest priority first; queues that ignore priorities have one level.
        self._levels: tuple[deque[Payload], ...] = (deque(),)
        self._delayed: list[tuple[float, int, Payload]] = []
        if kind == PRIORITY:
            self.prioritize()

    def prioritize(self) -> None:
        """Become a priority queue, for the messages too that are there."""
        waiting = list(self)
        self.kind = PRIORITY
        self._levels = tuple(deque() for _ in range(MAX_PRIORITY + 1))
        for payload in waiting:
            self.put(payload)

    def put(self, payload: Payload) -> None:
        """Add a message where its queue's type wants it."""
        if self.kind == STACK:
            self._levels[0].appendleft(payload)
        else:
            self._level(payload).append(payload)

    def requeue(self, payload: Payload, *, front: bool) -> None:
        """Add a message that was delivered before: it is the next one of its priority, or the last one."""
        level = self._level(payload)
        if front:
            level.appendleft(payload)
        else:
            level.append(payload)

    def put_delayed(self, payload: Payload, due: float) -> bool:
        """Hold a message back until ``due`` (monotonic seconds); True if it is now the first to become due."""
        entry = (due, next(_sequence), payload)
        heappush(self._delayed, entry)
        return self._delayed[0] is entry

    def take(self) -> Payload | None:
        """Remove and return the next message; None if none is ready."""
        self._promote()
        for level in self._levels:
            if level:
                return level.popleft()
        return None

    def next_due(self) -> float | None:
        """When the first delayed message becomes due, in monotonic seconds; None if there is none."""
        return self._delayed[0][0] if self._delayed else None

    def ready(self) -> int:
        """How many messages can be received now."""
        self._promote()
        return sum(map(len, self._levels))

    def delayed(self) -> int:
        """How many messages are held back."""
        self._promote()
        return len(self._delayed)

    def __iter__(self) -> Iterator[Payload]:
        """The ready messages in the order of their delivery."""
        self._promote()
        return chain.from_iterable(self._levels)

    def clear(self) -> int:
        """Remove ready and delayed messages; returns how many."""
        removed = self.ready() + len(self._delayed)
        for level in self._levels:
            level.clear()
        self._delayed.clear()
        return removed

    def _promote(self) -> None:
        """Add the messages that have become due."""
        while self._delayed and self._delayed[0][0] <= monotonic():
            self.put(heappop(self._delayed)[2])

    def _level(self, payload: Payload) -> deque[Payload]:
        if self.kind != PRIORITY:
            return self._levels[0]
        return self._levels[MAX_PRIORITY - _priority(payload["properties"].get("priority"))]


def _priority(value: Any) -> int:
    try:
        return max(0, min(int(value), MAX_PRIORITY))
    except (TypeError, ValueError, OverflowError):
        return 0
