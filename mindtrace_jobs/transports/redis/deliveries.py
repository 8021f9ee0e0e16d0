"""Deliveries: what a channel has received and holds, until it is acknowledged, rejected or requeued."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress

from mindtrace_jobs.transports.contract import Record
from mindtrace_jobs.transports.redis.connections import Connections
from mindtrace_jobs.transports.redis.leases import keeper
from mindtrace_jobs.transports.redis.store import Held, Step, Store, clock
from mindtrace_jobs.transports.redis.wire import Wire

logger = logging.getLogger(__name__)


class Deliveries:
    """What one channel holds unacknowledged: renews its leases and settles it. Safe to settle from any thread.

    A delivery begins here when it was claimed, waits in the inbox until a consumer has it, and ends when the server was
    told that it is acknowledged or requeued, when its lease was lost, or when it is released.

    Args:
        store: The server.
        connections: How the thread that renews reaches it.
        renew_every: Seconds between renewals.
        consumed: Returns the queues for whose consumers to renew the registration.
        settled: Called with the tag of each delivery that was passed on and then settled or released, lost or not.

    Attributes:
        held: By delivery tag.
        lost: Tags of deliveries whose lease was lost while this channel held them: they are or were with somebody else.
    """

    def __init__(
        self,
        store: Store,
        connections: Connections,
        renew_every: float,
        consumed: Callable[[], Sequence[str]],
        settled: Callable[[str], None],
    ) -> None:
        self.store = store
        self.connections = connections
        self.renew_every = renew_every
        self.held: dict[str, Held] = {}
        self.lost: set[str] = set()
        self._consumed = consumed
        self._settled = settled
        #: Claimed and not yet passed to a consumer.
        self._inbox: deque[Held] = deque()
        #: Acknowledged here, and not yet at the server.
        self._finished: deque[Step] = deque()
        #: Tags that could not be acknowledged at once, and were later.
        self._acknowledged_later: set[str] = set()
        self._renewing = False

    # --- receiving

    def take(self, queue: str, *, no_ack: bool) -> Held | None:
        """Take the next message of a queue, if there is one; it is to be passed to ``hold``, unless ``no_ack``."""
        self.start_renewing()
        self.flush()
        claim = self.store.claim([(queue, no_ack)], 1, 1)
        if not claim.deliveries and keeper.sweep(self):
            claim = self.store.claim([(queue, no_ack)], 1, 1)
        return claim.deliveries[0] if claim.deliveries else None

    def hold(self, held: Held) -> None:
        """Renew a delivery until it is settled."""
        self.held[held.tag] = held

    def receive(self, claimed: Iterable[Held], no_ack: Collection[str]) -> None:
        """Put into the inbox what was claimed for consumers; nobody holds what comes from the queues in ``no_ack``."""
        for held in claimed:
            held.consumed = True
            if held.queue not in no_ack:
                self.held[held.tag] = held
            self._inbox.append(held)

    def next(self, no_ack: Collection[str]) -> Held | None:
        """Take the next delivery out of the inbox, leaving out those whose lease was lost meanwhile."""
        while self._inbox:
            held = self._inbox.popleft()
            if held.tag in self.held or held.queue in no_ack:
                return held
        return None

    @property
    def waiting(self) -> int:
        """How many deliveries are in the inbox."""
        return len(self._inbox)

    def start(self, tag: str, record: Record | None = None) -> bool:
        """See ``JobsChannel.start``."""
        held = self.held.get(tag)
        if held is None or (record is None and held.started):
            return True  # if it was lost, whoever holds it will learn
        if record is None:
            held.started = True
            self.store.acknowledge_and_start_nowait(self._take_finished(), (tag, None), self._too_late)
            return True
        lost, held.started = self.store.acknowledge_and_start(self._take_finished(), (tag, record))
        for other in lost:
            self._too_late(other)
        return held.started

    # --- settling

    def acknowledge(self, tag: str, record: Record | None = None) -> None:
        """Remove a delivery from the server, and wait for its word: ``lost`` tells then whether that came too late."""
        self._settle(
            [tag], lambda mine: self.store.acknowledge_and_start([(held.tag, record) for held in mine], None)[0]
        )
        self._settled(tag)

    def ack_nowait(self, tag: str, record: Record | None = None, *, at_once: bool = False) -> None:
        """Remove a delivery from the server; a lease that was lost before is reported with the next command.

        It is sent with what is done next, if another message is in the inbox already: to start or settle that. If it
        cannot be sent, it is tried again when leases are renewed.

        Args:
            tag: The delivery.
            record: Kept on the server in the same step, unless the lease was lost before.
            at_once: Send it now.
        """
        held = self.held.get(tag)
        if held is not None:
            # What is missing on the server from here on is not lost.
            held.settling = True
            self._finished.append((tag, record))
            if at_once or not self._inbox:
                try:
                    self.flush()
                except BaseException:
                    held.settling, held.done = False, True
                    raise
            self.held.pop(tag, None)
        elif tag not in self._acknowledged_later:
            self._too_late(tag)
        self._settled(tag)

    def acknowledge_many(self, tags: Sequence[str]) -> None:
        """Acknowledge several deliveries in one round trip. If it fails, it is tried again when leases are renewed."""
        try:
            self._settle(tags, lambda mine: self.store.acknowledge([held.tag for held in mine]))
        except BaseException:
            for held in [held for tag in tags if (held := self.held.get(tag))]:
                held.done = True
            raise
        for tag in tags:
            self._settled(tag)

    def requeue(self, tag: str, *, front: bool = True) -> None:
        """Requeue a delivery: it is the next one, or the last one."""
        self._requeue({tag}, front=front)
        self._settled(tag)

    def requeue_undelivered(self, held: Held) -> None:
        """Requeue what came out of the inbox and was passed to no consumer."""
        self._requeue({held.tag})

    def requeue_waiting(self, queue: str) -> None:
        """Requeue what waits in the inbox for a consumer of a queue."""
        self._requeue({held.tag for held in self._inbox if held.queue == queue})

    def requeue_all(self) -> None:
        """Requeue everything, in its order: the holder goes away. Nothing is ``settled`` one by one."""
        self._requeue(set(self.held), vanished=True)

    def _requeue(self, tags: set[str], *, vanished: bool = False, front: bool = True) -> None:
        def send(mine: list[Held]) -> set[str]:
            # A tag tells the order in which it was received.
            return self.store.requeue(sorted(mine, key=lambda held: held.tag), vanished=vanished, front=front)

        self._settle(tags, send)
        self._inbox = deque(held for held in self._inbox if held.tag not in tags)

    def release(self, tag: str) -> None:
        """Renew a delivery no longer that could not be settled: its message is back when its lease ends."""
        if self.held.pop(tag, None) is not None:
            self._settled(tag)

    def flush(self) -> None:
        """Send the acknowledgements that were put off."""
        if self._finished:
            self.store.acknowledge_and_start_nowait(self._take_finished(), None, self._too_late)

    def _take_finished(self) -> list[Step]:
        finished: list[Step] = []
        with suppress(IndexError):  # another thread may take some
            while True:
                finished.append(self._finished.popleft())
        return finished

    def _settle(self, tags: Collection[str], how: Callable[[list[Held]], set[str]]) -> None:
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
            if tag not in self._acknowledged_later:
                self._too_late(tag)

    def _too_late(self, tag: str) -> None:
        self.lost.add(tag)
        logger.warning(
            "delivery %s came back too late: its lease had expired, and the message is with another consumer or was",
            tag,
        )

    # --- leases

    def start_renewing(self) -> None:
        """Have the leases renewed from now on, see ``LeaseKeeper``."""
        if not self._renewing:
            keeper.add(self)
            self._renewing = True

    def stop_renewing(self) -> None:
        """Have nothing renewed any more."""
        keeper.discard(self)

    def renew(self, wire: Wire) -> None:
        """Renew what is held and consumed, for the thread that does so, and acknowledge what could not be before."""
        done = [held.tag for held in list(self.held.values()) if held.done]
        if done:
            # What is not there any more was removed at the first try.
            self.store.acknowledge(done, wire)
            self._acknowledged_later.update(done)
            for tag in done:
                self.release(tag)
        tags, consumed = list(self.held), self._consumed()
        if tags or consumed:
            self._renew(wire, tags, consumed)

    def holds(self, tag: str) -> bool:
        """See ``JobsChannel.holds``. Asks the server only if the lease may have run out since it was last renewed."""
        held = self.held.get(tag)
        if held is not None and held.sure_until <= clock():
            self._renew(self.store.wire, [tag], [])
        return tag in self.held

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
            self.lost.add(tag)
            logger.warning("the lease of delivery %s expired: this process could not renew it in time", tag)

    def forget(self) -> None:
        """In a forked child: what is held is the parent's."""
        self.held.clear()
        self._inbox.clear()
        self._finished.clear()
        self._renewing = False
