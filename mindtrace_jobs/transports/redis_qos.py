"""Acknowledgement: the channel's side of what is held unacknowledged on the server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import OutOfMemoryError

if TYPE_CHECKING:
    from mindtrace_jobs.transports.redis_holding import HoldingChannel

logger = logging.getLogger(__name__)


class LeasedQoS(kombu_redis.QoS):
    """Settles the deliveries this package claimed; leaves Kombu its own, such as those of PUB/SUB.

    Safe to acknowledge from other threads than the consuming one.
    """

    channel: HoldingChannel

    def append(self, message: Any, delivery_tag: str) -> None:
        """Take note of a delivered message."""
        if self.channel.claimed(delivery_tag):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Remove a delivery from the server; if its lease was lost, only say so."""
        if self.channel.claimed(delivery_tag):
            self.channel.finish(delivery_tag)
            self._settled(delivery_tag)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Remove a delivery from the server, or put it back at the front of its queue."""
        if not self.channel.claimed(delivery_tag):
            super().reject(delivery_tag, requeue)
        elif requeue:
            self.channel.settle_given_back([delivery_tag])
            self._settled(delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Put everything held back at the front, in its order; what can't be told now is back when its lease ends."""
        others = [tag for tag in self._delivered if not self.channel.claimed(tag)]
        try:
            self.channel.settle_all()
            for tag in others:
                self.restore_by_tag(tag, client=client)
        except self.channel.connection_errors as error:
            logger.warning("what was taken and not acknowledged goes back when its lease ends: %s", error)
        self._delivered.clear()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put everything held back, at most once in a channel's life."""
        self._on_collect.cancel()
        self._flush()
        state = self._delivered
        if not getattr(state, "restored", False) and self.restore_at_shutdown and self.channel.do_restore:
            try:
                self.restore_unacked()
            finally:
                state.restored = True  # type: ignore[attr-defined]

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Put back what stock consumers let time out. A server without memory refuses the lock for it: then later."""
        try:
            super().restore_visible(start, num, interval)
        except OutOfMemoryError as error:
            logger.debug("looking for what stock consumers left failed: %s", error)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put back a delivery of a stock consumer. One that has a lease is left to those who renew and restore it.

        This process's clock may be wrong, by which Kombu tells what has timed out; a lease goes by the server's.
        """
        if not self.channel.store.leased(tag):
            super().restore_by_tag(tag, client, leftmost)

    def free(self, claimed: int) -> int | None:
        """How many messages may be taken beside the ``claimed`` ones not yet delivered; None: as many as there are."""
        if not self.can_consume():
            return 0
        if "can_consume" in self.__dict__:
            # Celery's worker_disable_prefetch decides anew for each message.
            return 0 if claimed else 1
        if not self.prefetch_count:
            return None
        return max(0, self.prefetch_count - (len(self._delivered) - len(self._dirty)) - claimed)

    def _settled(self, delivery_tag: str) -> None:
        virtual.QoS.ack(self, delivery_tag)
        self.channel.credit_returned()
