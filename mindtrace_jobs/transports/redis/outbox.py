"""What a server is to be told of deliveries: sent together, and told again where it was not taken."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

from mindtrace_jobs.transports.contract import Record
from mindtrace_jobs.transports.redis.settling import Step, settle, settling
from mindtrace_jobs.transports.redis.store import Store
from mindtrace_jobs.transports.redis.wire import Posted

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Outbox:
    """Acknowledgements and starts on their way to the server. Safe for threads.

    Args:
        store: The server.
        lost: Called with each tag that was acknowledged after its lease was lost.
        not_started: Called with each tag of whose start the server may not know.

    Attributes:
        refused: Whether the last step that nobody waited for failed: the next start waits for the server's word then.
        unacknowledged: Acknowledged here, though the server did not take it, or was lost before it said so, with the
            records of their jobs.
    """

    def __init__(self, store: Store, lost: Callable[[str], None], not_started: Callable[[str], None]) -> None:
        self._store = store
        self._lost = lost
        self._not_started = not_started
        self._finished: deque[Step] = deque()
        self._starting: deque[str] = deque()
        self.refused = False
        self.unacknowledged: dict[str, Record | None] = {}
        #: Those of them whose caller got an error, and expects them again when this ends.
        self._reported: set[str] = set()
        #: Tags that could not be acknowledged at once, and were later.
        self._later: set[str] = set()

    def acknowledge(self, tag: str, record: Record | None) -> None:
        """A delivery is done; to be sent."""
        self._finished.append((tag, self.unacknowledged.pop(tag, record)))

    def start(self, tag: str) -> None:
        """Work on a delivery begins; to be sent."""
        self._starting.append(tag)

    def take(self) -> Posted | None:
        """All that is to be sent, for who sends it now; None if there is nothing."""
        finished, starting = _taken(self._finished), _taken(self._starting)
        if not finished and not starting:
            return None
        return settling(
            self._store, finished, starting, self._lost, lambda error: self._not_taken(finished, starting, error)
        )

    def post(self) -> None:
        """Send all, and do not wait: what comes of it is known when the next command is sent.

        Raises:
            ConnectionError, OSError: it cannot be sent, and is told again.
        """
        posted = self.take()
        if posted is not None:
            try:
                self._store.wire.post(posted)
            except BaseException as error:
                posted.failed(error)
                raise

    def tell(self, starting: Step | None = None) -> bool:
        """Send all, what was not taken before and that a delivery starts; returns whether it may, by the server's word."""
        again = list(self.unacknowledged.items())
        finished, others = _taken(self._finished), _taken(self._starting)
        begun: list[Step] = [*((tag, None) for tag in others), *(() if starting is None else (starting,))]
        try:
            lost, started = settle(self._store, [*again, *finished], begun)
        except BaseException as error:
            self._not_taken(finished, [tag for tag, _ in begun], error)
            raise
        self.refused = False
        self.told_again([tag for tag, _ in again])
        for tag in lost.difference(tag for tag, _ in again):
            self._lost(tag)
        return started

    def report(self, tag: str) -> None:
        """The caller learns that a delivery is not acknowledged."""
        self._reported.add(tag)

    def tell_again(self, tag: str, record: Record | None) -> None:
        """The server did not take an acknowledgement that was waited for; the caller learns of it."""
        self.unacknowledged[tag] = record
        self._reported.add(tag)

    def acknowledged_later(self, tag: str) -> bool:
        """Whether a delivery was acknowledged at another try than the first."""
        return tag in self._later

    def told_again(self, tags: Sequence[str]) -> None:
        """What the server did not take before is acknowledged now. What is not there any more was so at the first try."""
        for tag in tags:
            self.unacknowledged.pop(tag, None)
        self._reported.difference_update(tags)
        self._later.update(tags)

    def close(self) -> bool:
        """Let go of what somebody expects again; returns whether anything has to be acknowledged yet."""
        for tag in self._reported:
            self.unacknowledged.pop(tag, None)
        return bool(self.unacknowledged)

    def forget(self) -> None:
        """In a forked child: all is the parent's."""
        for what in (self._finished, self._starting, self.unacknowledged, self._reported):
            what.clear()

    def _not_taken(self, finished: Iterable[Step], starting: Iterable[str], error: BaseException) -> None:
        """The server did not take a step, or may not have."""
        acknowledged = dict(finished)
        self.unacknowledged.update(acknowledged)
        for tag in starting:
            self._not_started(tag)
        self.refused = True
        if acknowledged:
            logger.warning("%d acknowledgement(s) not taken yet, tried again: %s", len(acknowledged), error)


def _taken(items: deque[T]) -> list[T]:
    """Empty a queue that other threads may empty too."""
    found: list[T] = []
    with suppress(IndexError):
        while items:
            found.append(items.popleft())
    return found
