"""What a channel holds unacknowledged: under which lease, and how it is settled."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from mindtrace_jobs.transports.protocol import CANCELLED_STATE, Record
from mindtrace_jobs.transports.redis_exchanges import ExchangesChannel
from mindtrace_jobs.transports.redis_leases import keeper
from mindtrace_jobs.transports.redis_qos import LeasedQoS
from mindtrace_jobs.transports.redis_store import Held, Step, clock
from mindtrace_jobs.transports.redis_wire import Wire

logger = logging.getLogger(__name__)


class HoldingChannel(ExchangesChannel):
    """A channel that knows what it holds, renews it and settles it. Safe to settle from any thread."""

    QoS: Any = LeasedQoS

    #: Delivery tags whose lease was lost while this channel held them: they are or were with somebody else.
    lost_deliveries: set[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.held: dict[str, Held] = {}
        self.lost_deliveries = set()
        #: Claimed and not yet passed to a consumer.
        self._inbox: deque[Held] = deque()
        #: Done, and not yet told to the server.
        self._finished: deque[Step] = deque()
        self._kept = False
        #: Delivery tags that could not be acknowledged at once, and were later.
        self._done_later: set[str] = set()
        #: The prefixes of the delivery tags this channel made, here and before a fork.
        self._prefixes: tuple[str, ...] = ()
        super().__init__(*args, **kwargs)

    # --- settling

    def claimed(self, tag: str) -> bool:
        """Whether a delivery tag was made by a claim of this channel."""
        return tag.startswith((self.store.identity, *self._prefixes))

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """See ``JobsChannel.basic_ack``.

        It is sent and not waited for: should the connection break before the server has read it, the message is back
        when its lease ends. Raises redis-py's errors when it can't be sent.
        """
        if multiple:
            self.acknowledge_many([tag for tag in self._before(delivery_tag) if tag != delivery_tag])
        self.qos.ack(delivery_tag)

    def acknowledge_soon(self, delivery_tag: str, record: Record | None = None) -> None:
        """As ``basic_ack``, sent with what is done next if another message is in hand already: to begin or settle that.

        Args:
            delivery_tag: Of a delivery of this channel.
            record: Kept on the server in the same step, unless the lease was lost before.
        """
        self.finish(delivery_tag, record, at_once=not self._inbox)
        self.qos._settled(delivery_tag)

    def let_go(self, delivery_tag: str) -> None:
        """Renew a delivery no longer that could not be settled: its message is back when its lease ends."""
        if self.held.pop(delivery_tag, None) is not None:
            self.qos._settled(delivery_tag)

    def acknowledge(self, delivery_tag: str, record: Record | None = None) -> None:
        """As ``basic_ack``, and wait for the server's word: ``lost_deliveries`` tells then whether it came too late."""
        self._settle([delivery_tag], lambda mine: self.store.advance([(held.tag, record) for held in mine], None)[0])
        self.qos._settled(delivery_tag)

    def finish(self, tag: str, record: Record | None = None, *, at_once: bool = True) -> None:
        """Remove a delivery from the server; a lease that was lost before is reported with the next command.

        If it cannot be sent now, it is tried again when leases are renewed.
        """
        held = self.held.get(tag)
        if held is None:
            if tag not in self._done_later:
                self._too_late(tag)
            return
        # What is missing on the server from here on is not lost.
        held.settling = True
        self._finished.append((tag, record))
        if at_once:
            try:
                self.flush()
            except BaseException:
                held.settling, held.done = False, True
                raise
        self.held.pop(tag, None)

    def flush(self) -> None:
        """Send the acknowledgements that were put off."""
        if self._finished:
            self.store.advance_soon(self._take_finished(), None, self._too_late)

    def _take_finished(self) -> list[Step]:
        finished: list[Step] = []
        with suppress(IndexError):  # another thread may take some
            while True:
                finished.append(self._finished.popleft())
        return finished

    def acknowledge_many(self, tags: Sequence[str]) -> None:
        """Acknowledge several deliveries in one round trip."""
        self.settle_acknowledged(tags)
        for tag in tags:
            self.qos._settled(tag)

    def _before(self, tag: str) -> list[str]:
        tags = [other for other in self.qos._delivered if self.claimed(other) and other in self.held]
        return tags[: tags.index(tag)] if tag in tags else []

    def mark_started(self, delivery_tag: str) -> None:
        """See ``JobsChannel.mark_started``. Sent at once, and not waited for."""
        held = self.held.get(delivery_tag)
        if held is not None and not held.started:
            held.started = True
            self.store.advance_soon(self._take_finished(), (delivery_tag, None), self._too_late)

    def begin(self, delivery_tag: str, record: Record) -> bool:
        """As ``mark_started``, and keep the job's record in the same step; returns whether it may run.

        If the record that is there says that the job was cancelled, nothing is changed.
        """
        held = self.held.get(delivery_tag)
        if held is None:
            return True  # lost, as whoever holds it will learn
        lost, state = self.store.advance(self._take_finished(), (delivery_tag, record))
        for tag in lost:
            self._too_late(tag)
        held.started = state != CANCELLED_STATE
        return held.started

    def settle_acknowledged(self, tags: Sequence[str]) -> None:
        """Remove deliveries from the server. If that cannot be done now, it is tried again when leases are renewed."""
        try:
            self._settle(tags, lambda mine: self.store.acknowledge([held.tag for held in mine]))
        except BaseException:
            for held in [held for tag in tags if (held := self.held.get(tag))]:
                held.done = True
            raise

    def settle_given_back(self, tags: Sequence[str], *, vanished: bool = False) -> None:
        """Put deliveries back at the front of their queues."""
        self._settle(tags, lambda mine: self.store.give_back(sorted(mine, key=_age), vanished=vanished))
        given = set(tags)
        self._inbox = deque(held for held in self._inbox if held.tag not in given)

    def _settle(self, tags: Sequence[str], how: Callable[[list[Held]], set[str]]) -> None:
        self.flush()
        mine = [held for tag in tags if (held := self.held.get(tag))]
        for held in mine:
            # What is missing on the server from here on is not lost.
            held.settling = True
        try:
            lost = how(mine) if mine else set()
        except BaseException:
            # Whatever became of it, it has to be renewed until that is known.
            for held in mine:
                held.settling = False
            raise
        settled = {held.tag for held in mine}
        for tag in settled:
            self.held.pop(tag, None)
        for tag in [*lost, *(tag for tag in tags if tag not in settled)]:
            if tag not in self._done_later:
                self._too_late(tag)

    def _too_late(self, tag: str) -> None:
        self.lost_deliveries.add(tag)
        logger.warning(
            "delivery %s came back too late: its lease had expired, and the message is with another consumer or was",
            tag,
        )

    def settle_all(self) -> None:
        """Put everything back: the holder goes away."""
        self.settle_given_back(list(self.held), vanished=True)

    def credit_returned(self) -> None:
        """A delivery was settled: there may be credit to claim with."""
        if self.connection is not None:
            self.connection.cycle.credit_returned()

    # --- leases

    def _keep(self) -> None:
        if not self._kept:
            keeper.add(self)
            self._kept = True

    @property
    def renew_every(self) -> float:
        """Seconds between renewals: in time for the lease, and for stock processes, which restore by the other rule."""
        return float(min(self.lease, self.visibility_timeout)) / 3

    def renew(self, wire: Wire) -> None:
        """Renew what this channel holds and consumes, for the thread that does so."""
        done = [held.tag for held in list(self.held.values()) if held.done]
        if done:
            # What is not there any more was removed at the first try.
            self.store.acknowledge(done, wire)
            self._done_later.update(done)
            for tag in done:
                self.let_go(tag)
        tags, consumed = list(self.held), [] if self._closing else self.active_queues
        if tags or consumed:
            self._renew(wire, tags, consumed)

    def holds(self, delivery_tag: str) -> bool:
        """See ``JobsChannel.holds``. Asks the server only if the lease may have run out since it was last renewed."""
        held = self.held.get(delivery_tag)
        if held is not None and held.sure_until <= clock():
            self._renew(self.store.wire, [delivery_tag], [])
        return delivery_tag in self.held

    def _renew(self, wire: Wire, tags: Sequence[str], consumed: Sequence[str]) -> None:
        sure_until = clock() + self.store.lease
        lost = self.store.renew(wire, tags, consumed)
        for tag in tags:
            held = self.held.get(tag)
            if held is None or held.settling:
                continue
            if tag not in lost:
                held.sure_until = sure_until
                continue
            self.held.pop(tag, None)
            self.lost_deliveries.add(tag)
            logger.warning("the lease of delivery %s expired: this process could not renew it in time", tag)

    def _forget_held(self) -> None:
        """In a forked child: what is held is the parent's, and so are the names under which it is."""
        self.held.clear()
        self._inbox.clear()
        self._finished.clear()
        self._kept = False
        if self._qos is not None:
            self._qos._delivered.clear()
            self._qos._dirty.clear()
        if "store" in self.__dict__:
            self._prefixes += (self.store.identity,)
            self.store.identity = uuid4().hex


def _age(held: Held) -> str:
    """Sorts what one channel holds in the order in which it was taken."""
    return held.tag
