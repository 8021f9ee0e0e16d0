"""Kombu's view of what a channel of the memory transport holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import virtual

from mindtrace_jobs.transports.memory_delivery import Session

if TYPE_CHECKING:
    from mindtrace_jobs.transports.memory import Channel


class SessionQoS(virtual.QoS):
    """Kombu's view of what a channel holds; the broker keeps it."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        # Not the base's: it registers a finalizer that keeps every channel alive until the process ends.
        self.channel = channel
        if prefetch_count:
            self.prefetch_count = prefetch_count

    @property
    def _session(self) -> Session:
        session: Session = self.channel.session
        return session

    @property
    def prefetch_count(self) -> int:
        """How many consumed messages the channel may hold; 0 means no limit."""
        return self._session.prefetch

    @prefetch_count.setter
    def prefetch_count(self, count: int) -> None:
        self.channel.broker.set_prefetch(self._session, count or 0)

    def can_consume(self) -> bool:
        """Whether the channel may be given another message."""
        return self._session.has_room()

    def can_consume_max_estimate(self) -> int | None:
        """How many more messages it may be given; None means no limit."""
        session = self._session
        return max(session.prefetch - session.prefetched, 0) if session.prefetch else None

    def append(self, message: Any, delivery_tag: str) -> None:
        """Nothing to do: the broker held the message when it handed it over."""

    def get(self, delivery_tag: str) -> Any:
        """The held message of that tag; KeyError if it is not held."""
        payload = self._session.held[delivery_tag].copy(delivery_tag)
        return self.channel.Message(payload, channel=self.channel)

    def ack(self, delivery_tag: str) -> None:
        """Forget a message whose work is done."""
        self.channel.basic_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message or put it back."""
        self.channel.basic_reject(delivery_tag, requeue=requeue)

    def restore_unacked(self) -> list[Any]:
        """Put back everything held; the list of errors that Kombu asks for is empty."""
        self.channel.broker.recover(self._session)
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Nothing to do: closing the channel puts back what it holds."""
