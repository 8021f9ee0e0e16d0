"""The consumers of a channel: who consumes which queues, and passing on what was claimed for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kombu.utils.scheduling import round_robin_cycle

from mindtrace_jobs.transports.contract import Payload
from mindtrace_jobs.transports.redis.deliveries import Deliveries
from mindtrace_jobs.transports.redis.store import Store
from mindtrace_jobs.transports.redis.waiter import Waiter

#: Messages received in one claim when the prefetch count sets no limit.
CLAIM_LIMIT = 100


class Consumer(NamedTuple):
    """What consumes a queue; ``no_ack``: without acknowledging."""

    queue: str
    callback: Callable[[Payload], Any]
    no_ack: bool


class Consumers:
    """The consumers of one channel. Claims as much as the prefetch count allows. Belongs to one thread.

    Args:
        store: The server, on which consumers are registered, so that they are counted.
        deliveries: Holds what was claimed.
        waiter: Claims, and waits in between.
        cycle: Kombu's order of queues: in turn, sorted, or as they were added.
        fair: Give each queue its share of a claim before one gets more; else the first ones go first.
        queues: Returns the queues to claim from.
        free: Returns how many messages may be received beside so many in the inbox; None: as many as there are.
    """

    def __init__(
        self,
        store: Store,
        deliveries: Deliveries,
        waiter: Waiter,
        cycle: round_robin_cycle,
        *,
        fair: bool,
        queues: Callable[[], list[str]],
        free: Callable[[int], int | None],
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._waiter = waiter
        self._cycle = cycle
        self._fair = fair
        self._queues = queues
        self._free = free
        self._by_tag: dict[str, Consumer] = {}
        #: Queues whose deliveries need no acknowledgement.
        self._no_ack: set[str] = set()

    # --- registering

    def add(self, tag: str, consumer: Consumer, *, claims: bool) -> None:
        """Add a consumer; unless it ``claims``, it is one of broadcasts, which come by themselves."""
        self._by_tag[tag] = consumer
        self._update_no_ack()
        if claims:
            self._deliveries.start_renewing()
            self._store.register(consumer.queue)
            self._waiter.disarm()

    def remove(self, tag: str) -> Consumer | None:
        """Remove a consumer. If it is the last of its queue, ``unregister`` has to follow."""
        removed = self._by_tag.pop(tag, None)
        self._update_no_ack()
        return removed

    def last_of(self, queue: str) -> Consumer | None:
        """The consumer of a queue that was added last."""
        for consumer in reversed(self._by_tag.values()):
            if consumer.queue == queue:
                return consumer
        return None

    def unregister(self, queue: str) -> None:
        """Count no consumer of a queue any more, and requeue what was claimed for it."""
        self._deliveries.requeue_waiting(queue)
        self._store.unregister([queue])

    def unregister_all(self) -> None:
        """Count none of the consumers any more."""
        self._store.unregister([one.queue for one in self._by_tag.values()])

    def forget(self) -> None:
        """In a forked child: the consumers are the parent's."""
        self._by_tag.clear()
        self._no_ack.clear()

    def _update_no_ack(self) -> None:
        self._no_ack = {one.queue for one in self._by_tag.values() if one.no_ack}

    # --- claiming and delivering

    @property
    def claims_next(self) -> bool:
        """Whether the next thing that is done here is a claim."""
        return bool(self._by_tag) and not self._deliveries.waiting and not self._waiter.left

    def has_credit(self) -> bool:
        """Tell whether the prefetch count allows to receive more."""
        return self._free(self._deliveries.waiting) != 0

    def claim(self) -> bool:
        """Take what is there, up to the free credit, unless nothing can have come; returns whether there was any."""
        queues = self._queues()
        if not queues or self._deliveries.waiting or self._waiter.left:
            return False
        free = self._free(0)
        if free == 0:
            return False
        wanted = CLAIM_LIMIT if free is None else min(free, CLAIM_LIMIT)
        order = self._cycle.consume(len(queues))
        no_ack = self._no_ack
        if no_ack:
            # Nobody holds these, so none may lie in wait here.
            wanted = 1
        share = -(-wanted // len(order)) if self._fair else wanted
        claim = self._waiter.claim(
            [(queue, queue in no_ack) for queue in order], wanted, share, self._deliveries.outbox.take
        )
        if claim.short:
            # No command may follow for long.
            self._store.wire.collect()
        if not claim.deliveries:
            return False
        self._cycle.rotate(claim.deliveries[-1].queue)
        self._deliveries.receive(claim.deliveries, no_ack)
        return True

    def deliver_one(self) -> bool:
        """Pass the next claimed message to its consumer; returns whether there was one."""
        while (held := self._deliveries.next(self._no_ack)) is not None:
            consumer = self.last_of(held.queue)
            if consumer is not None:
                consumer.callback(held.payload)
                return True
            self._deliveries.requeue_undelivered(held)
        return False

    def deliver_available(self) -> bool:
        """Pass on what was claimed and, if credit allows, what one more claim brings; returns whether there was any."""
        delivered = False
        while self.deliver_one():
            delivered = True
        if self.claim():
            while self.deliver_one():
                delivered = True
        return delivered
