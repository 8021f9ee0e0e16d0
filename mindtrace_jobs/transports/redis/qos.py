"""Kombu's count of what a channel's consumers hold, and its way to settle that."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.transport.virtual.base import RESTORING_FMT
from kombu.transport.virtual.base import logger as kombu_logger
from redis.exceptions import ResponseError

from mindtrace_jobs.transports.redis.deliveries import Deliveries
from mindtrace_jobs.transports.redis.store import Store

logger = logging.getLogger(__name__)


class HoldingChannel(Protocol):
    """What is needed of a channel here, beside what Kombu's own QoS needs."""

    deliveries: Deliveries
    store: Store
    do_restore: bool
    connection_errors: tuple[type[BaseException], ...]


class LeasedQoS(kombu_redis.QoS):
    """Counts what was passed on and not settled, and settles what this package claimed as ``Deliveries`` does.

    The rest, such as what came by PUB/SUB, is left to Kombu. Safe to acknowledge from other threads than the consuming
    one.
    """

    channel: HoldingChannel

    def append(self, message: Any, delivery_tag: str) -> None:
        """Take note of a delivered message."""
        if self.channel.store.claimed(delivery_tag):
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Remove a delivery from the server; if its lease was lost, only say so."""
        if self.channel.store.claimed(delivery_tag):
            self.channel.deliveries.ack_nowait(delivery_tag, at_once=True)
        else:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Remove a delivery from the server, or requeue it behind those that wait, as Kombu's own transport."""
        if not self.channel.store.claimed(delivery_tag):
            super().reject(delivery_tag, requeue)
        elif requeue:
            self.channel.deliveries.requeue(delivery_tag, front=False)
        else:
            self.ack(delivery_tag)

    def settled(self, delivery_tag: str) -> None:
        """Count a delivery no longer."""
        virtual.QoS.ack(self, delivery_tag)

    def delivered_before(self, delivery_tag: str) -> list[str]:
        """What is held and was delivered before this one; nothing if this is not held."""
        held = self.channel.deliveries.held
        tags = [tag for tag in self._delivered if tag in held]
        return tags[: tags.index(delivery_tag)] if delivery_tag in tags else []

    def forget(self) -> None:
        """In a forked child: what was delivered is the parent's."""
        self._delivered.clear()
        self._dirty.clear()

    def free(self, claimed: int) -> int | None:
        """How many messages may be received beside the ``claimed`` ones not yet delivered; None: as many as there are."""
        if not self.can_consume():
            return 0
        if "can_consume" in self.__dict__:
            # Celery's worker_disable_prefetch decides anew for each message.
            return 0 if claimed else 1
        if not self.prefetch_count:
            return None
        return max(0, self.prefetch_count - (len(self._delivered) - len(self._dirty)) - claimed)

    # --- restoring

    def restore_unacked(self, client: Any = None) -> None:
        """Put everything held back at the front, in its order; what can't be told now is back when its lease ends."""
        others = [tag for tag in self._delivered if not self.channel.store.claimed(tag)]
        try:
            self.channel.deliveries.requeue_all()
            for tag in others:
                self.restore_by_tag(tag, client=client)
        except self.channel.connection_errors as error:
            logger.warning("what was received and not acknowledged is requeued when its lease ends: %s", error)
        self._delivered.clear()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put everything held back, at most once in a channel's life; what a consumer had is said as Kombu says it."""
        self._on_collect.cancel()
        self._flush()
        state = self._delivered
        if not getattr(state, "restored", False) and self.restore_at_shutdown and self.channel.do_restore:
            try:
                if state:
                    said = RESTORING_FMT.format(len(state))
                    kombu_logger.info(said) if stderr is None else print(said, file=stderr)
                self.restore_unacked()
            finally:
                state.restored = True  # type: ignore[attr-defined]

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Requeue what stock consumers let time out. A server that refuses the lock for it is asked later again."""
        try:
            super().restore_visible(start, num, interval)
        except ResponseError as error:
            logger.debug("looking for what stock consumers left failed: %s", error)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Requeue a delivery of a stock consumer. One that has a lease is left to those who renew and restore it.

        This process's clock may be wrong, by which Kombu tells what has timed out; a lease goes by the server's.
        """
        if not self.channel.store.leased(tag):
            super().restore_by_tag(tag, client, leftmost)
