"""Deliveries: what a channel has received and holds, until it is acknowledged, rejected or requeued."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum

from redis.exceptions import RedisError

from mindtrace_jobs.transports.contract import Payload, Record
from mindtrace_jobs.transports.redis.connections import Connections
from mindtrace_jobs.transports.redis.leases import keeper
from mindtrace_jobs.transports.redis.outbox import Outbox
from mindtrace_jobs.transports.redis.settling import acknowledge_all, settle
from mindtrace_jobs.transports.redis.store import Held, Store, clock
from mindtrace_jobs.transports.redis.wire import Wire

logger = logging.getLogger(__name__)


class Turn(Enum):
    """Who does something next, and sends what was put off."""

    #: The caller, who may do anything for any time, and sends nothing.
    CALLER = "caller"
    #: The poller: it delivers another message, which may be run then and there, or it claims.
    DELIVERY = "delivery"
    #: The event loop, in a turn in which nothing runs for long.
    LOOP = "loop"


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
        turn: Tells who does something next.

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
        turn: Callable[[], Turn],
    ) -> None:
        self.store = store
        self.connections = connections
        self.renew_every = renew_every
        self.held: dict[str, Held] = {}
        self.lost: set[str] = set()
        self._consumed = consumed
        self._settled = settled
        self._turn = turn
        #: Claimed and not yet passed to a consumer.
        self._inbox: deque[Held] = deque()
        #: What the server is to be told.
        self.outbox = Outbox(store, self._too_late, self._not_started)
        store.wire.put_off = self.outbox.take
        self._renewing = False
        #: When it gives up acknowledging what is left, once it is closed.
        self._until: float | None = None

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
        if record is None and not self.outbox.refused:
            held.started = True
            self.outbox.start(tag)
            if self._turn() is not Turn.LOOP:
                self.outbox.post()
            if not self.outbox.refused:
                return True
            # So said the answer to an earlier step, which is read before another is sent.
        held.started = self.outbox.tell((tag, record))
        return held.started

    def _not_started(self, tag: str) -> None:
        held = self.held.get(tag)
        if held is not None:
            held.started = False

    # --- settling

    def acknowledge(self, tag: str, record: Record | None = None) -> None:
        """Remove a delivery from the server, and wait for its word: ``lost`` tells then whether that came too late.

        If that fails, it is tried again when leases are renewed.
        """
        try:
            self._settle([tag], lambda mine: settle(self.store, [(held.tag, record) for held in mine])[0])
        except BaseException:
            self._acknowledge_later({tag: record})
            raise
        self._settled(tag)

    def ack_nowait(self, tag: str, record: Record | None = None, *, at_once: bool = False) -> None:
        """Remove a delivery from the server; a lease that was lost before is reported with the next command.

        It is sent with what is done next, if that is known to come: to start or settle a message in the inbox, to claim
        another, or what else an event loop does in its turn. If it fails, it is tried again when leases are renewed.

        Args:
            tag: The delivery.
            record: Kept on the server in the same step, unless the lease was lost before.
            at_once: The caller may do something else next, and an error is raised.
        """
        held = self.held.pop(tag, None)
        if held is None and tag not in self.outbox.unacknowledged:
            if not self.outbox.acknowledged_later(tag):
                self._too_late(tag)
            self._settled(tag)
            return
        self.outbox.acknowledge(tag, record)
        turn = self._turn()
        try:
            if turn is not Turn.LOOP and (at_once or (turn is Turn.CALLER and not self._inbox)):
                self.outbox.post()
        except BaseException:
            if at_once:
                self.outbox.report(tag)
            raise
        finally:
            if held is not None:
                self._settled(tag)

    def acknowledge_many(self, tags: Sequence[str]) -> None:
        """Acknowledge several deliveries in one round trip. If it fails, it is tried again when leases are renewed."""
        try:
            self._settle(tags, lambda mine: acknowledge_all(self.store, [held.tag for held in mine]))
        except BaseException:
            self._acknowledge_later(dict.fromkeys(tags))
            raise
        for tag in tags:
            self._settled(tag)

    def _acknowledge_later(self, steps: Mapping[str, Record | None]) -> None:
        for tag, record in steps.items():
            if self.held.pop(tag, None) is not None:
                self.outbox.tell_again(tag, record)
                self._settled(tag)

    def replace(self, tag: str, queue: str, payload: Payload) -> None:
        """Add a message to a queue in the place of a delivery. If that fails, the delivery stays."""
        self._settle([tag], lambda mine: set() if self.store.replace(mine[0].tag, queue, payload) else {tag})
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
        if self.outbox.unacknowledged:
            self.outbox.tell()
        self._requeue(set(self.held), vanished=True)

    def _requeue(self, tags: set[str], *, vanished: bool = False, front: bool = True) -> None:
        def send(mine: list[Held]) -> set[str]:
            # A tag tells the order in which it was received.
            return self.store.requeue(sorted(mine, key=lambda held: held.tag), vanished=vanished, front=front)

        self._settle(tags, send)
        self._inbox = deque(held for held in self._inbox if held.tag not in tags)

    def release(self, tag: str) -> None:
        """Renew a delivery no longer that could not be settled: its message is back when its lease ends."""
        self.outbox.unacknowledged.pop(tag, None)
        if self.held.pop(tag, None) is not None:
            self._settled(tag)

    def flush(self) -> None:
        """Send what was put off."""
        self.outbox.post()

    def send_put_off(self) -> None:
        """The same, for who can do nothing about an error: it is logged, and what is acknowledged is told again."""
        try:
            self.outbox.post()
        except (RedisError, OSError) as error:
            logger.warning("what was begun or done could not be told: %s", error)

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
            if not self.outbox.acknowledged_later(tag):
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

    def close(self) -> None:
        """Let go of everything: it is back when its lease ends, but for what only has to be acknowledged yet."""
        self.held.clear()
        self._inbox.clear()
        if self.outbox.close():
            self._until = clock() + self.store.lease
            keeper.finish(self)

    def renew(self, wire: Wire) -> None:
        """Renew what is held and consumed, for the thread that does so, and acknowledge what could not be before."""
        again = list(self.outbox.unacknowledged.items())
        if self._until is not None and clock() > self._until:
            logger.warning("%d message(s) could not be acknowledged, and will be delivered again", len(again))
            keeper.discard(self)
            return
        if again:
            settle(self.store, again, wire=wire)
            self.outbox.told_again([tag for tag, _ in again])
        if self._until is not None:
            keeper.discard(self)
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
        self.outbox.forget()
        self._renewing = False
