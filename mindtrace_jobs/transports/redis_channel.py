"""The Redis channel: Kombu's, with its own way to publish, claim, hold and give back."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakSet

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from mindtrace_jobs.transports.amqp_errors import QueueDeclared, not_found, precondition_failed
from mindtrace_jobs.transports.protocol import PLAIN, QUEUE_TYPE_ARGUMENT, QUEUE_TYPES
from mindtrace_jobs.transports.redis_batch import PublishBatch
from mindtrace_jobs.transports.redis_holding import HoldingChannel
from mindtrace_jobs.transports.redis_leases import keeper
from mindtrace_jobs.transports.redis_messages import Payload

if TYPE_CHECKING:
    from kombu.transport.virtual import Message

logger = logging.getLogger(__name__)

#: Messages taken in one claim when the prefetch count sets no limit.
CLAIM_LIMIT = 100

_channels: WeakSet[LeasedChannel] = WeakSet()


class LeasedChannel(HoldingChannel):
    """A Redis channel that loses nothing: see ``JobsChannel`` for its contract.

    Transport options beside Kombu's: ``lease``, seconds a delivery stays with a holder that does not renew it
    (default 60; a living process renews); ``safety_poll``, seconds between the claims of an idle consumer (default 5);
    ``protocol``, 2 or 3, the version of RESP for commands (default: redis-py's; 2 also means that an idle consumer
    polls, ten times a second, since the server cannot wake it).

    An unknown queue becomes a fifo queue when a message is published to it through the anonymous exchange with
    ``mandatory=True``; published otherwise, as by Celery, it stays a plain queue without a record.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Consumer tag -> queue, callback, whether deliveries need no acknowledgement.
        self._subscriptions: dict[str, tuple[str, Callable[[Payload], Any], bool]] = {}
        #: Messages published.
        self._published = 0
        super().__init__(*args, **kwargs)
        self.handlers["CLAIM"] = self._wake
        try:
            self._refuse_cluster()
        except BaseException:
            self.close()
            raise
        _channels.add(self)

    # --- queues

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """See ``JobsChannel.queue_declare``. Queues that vanish by themselves are not recorded."""
        name = queue or f"amq.gen-{uuid4()}"
        self._refuse_taken(name, "Channel.queue_declare")
        options = dict(arguments or {})
        kind = options.get(QUEUE_TYPE_ARGUMENT, PLAIN)
        if kind not in QUEUE_TYPES:
            raise precondition_failed(f"queue {name!r} cannot be of type {kind!r}", "Channel.queue_declare")
        if passive:
            found, ready, delayed = self.store.declare(name, PLAIN, record=False)
            if found is None and not ready + delayed:
                raise not_found("queue", name, self._where, "Channel.queue_declare")
            return QueueDeclared(name, ready, 0)
        super()._new_queue(name, auto_delete=auto_delete, arguments=options)
        record = bool(kind) or not (auto_delete or exclusive or name in self._expires)
        _, ready, _ = self.store.declare(name, kind, record=record)
        return QueueDeclared(name, ready, 0)

    def _refuse_taken(self, queue: str, method: str) -> None:
        if self.store.keys.taken(queue):
            raise precondition_failed(
                f"{queue!r} is a key that the transport itself uses, and cannot be a queue", method
            )

    def queue_type(self, queue: str) -> str | None:
        """See ``JobsChannel.queue_type``."""
        return self.store.kind(queue)

    def queue_stats(self, queue: str) -> dict[str, int]:
        """See ``JobsChannel.queue_stats``. Deliveries and consumers of stock processes are not counted."""
        return self.store.stats(queue)

    def peek(self, queue: str, limit: int) -> list[Payload]:
        """See ``JobsChannel.peek``."""
        return self.store.peek(queue, limit)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        """See ``JobsChannel.queue_delete``."""
        if if_unused or if_empty:
            stats = self.store.stats(queue)
            if (if_unused and stats["consumers"]) or (if_empty and stats["ready"] + stats["delayed"]):
                return
        self.store.delete(queue)
        # Bindings to exchanges that only this process knows, such as those a stock process declared.
        for exchange, routing_key, arguments in list(self.state.queue_bindings(queue)):
            meta = self.typeof(exchange).prepare_bind(queue, exchange, routing_key, arguments)
            self.store.unbind(exchange, self._member(*meta))
        self.state.queue_bindings_delete(queue)
        self.auto_delete_queues.discard(queue)
        self._expires.pop(queue, None)

    def _size(self, queue: str) -> int:
        return self.store.declare(queue, PLAIN, record=False)[1]

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.store.kind(queue) is not None

    def _purge(self, queue: str) -> int:
        return self.store.purge(queue)

    # --- publishing

    @property
    def supports_batch_publish(self) -> bool:
        """Commands are never repeated behind the caller's back, so a batch is always safe."""
        return True

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """What Kombu's ``Producer.batch()`` collects in."""
        return PublishBatch(self, max_size)

    def basic_publish(
        self,
        message: Payload,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """See ``JobsChannel.basic_publish``."""
        self._inplace_augment_message(message, exchange, routing_key)
        batch = kwargs.get("_publish_batch")
        if not exchange:
            self._put(routing_key, message, declare=mandatory, _publish_batch=batch)
        elif self._broadcasts(exchange):
            self._put_fanout(exchange, message, routing_key, _publish_batch=batch)
        else:
            self._route(message, exchange, routing_key, mandatory, batch)

    def _next_delivery_tag(self) -> str:
        # Unique, as Kombu's, and cheaper. Deliveries from this transport get another when they are taken.
        self._published += 1
        return f"{self._published}@{self.store.identity}"

    def _put(self, queue: str, message: Payload, declare: bool = False, **kwargs: Any) -> None:
        self._refuse_taken(queue, "Channel.basic_publish")
        batch = kwargs.get("_publish_batch")
        expires = self._expires.get(queue)
        if batch is None:
            self.store.publish(queue, message, declare=declare, expires=expires)
        else:
            batch.to_queue(*self.store.publish_args(queue, message, declare=declare, expires=expires))

    # --- taking

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Message | None:
        """See ``JobsChannel.basic_get``."""
        self._keep()
        self.flush()
        claim = self.store.claim([(queue, no_ack)], 1, 1)
        if not claim.deliveries and keeper.sweep(self):
            claim = self.store.claim([(queue, no_ack)], 1, 1)
        if queue in self._expires:
            self._maybe_update_queues_expire(self._commands, queue)
        if not claim.deliveries:
            return None
        held = claim.deliveries[0]
        if not no_ack:
            self.held[held.tag] = held
        message = self.Message(held.payload, channel=self)
        if not no_ack:
            self.qos.append(message, held.tag)
        return message

    def _get(self, queue: str, timeout: float | None = None) -> Payload:
        claim = self.store.claim([(queue, True)], 1, 1)
        if not claim.deliveries:
            raise kombu_redis.Empty
        return claim.deliveries[0].payload

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """See ``JobsChannel.basic_consume``."""
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        # Kombu has one callback per queue and connection, ours one per consumer.
        self._subscriptions[consumer_tag] = (queue, self.connection._callbacks[queue], no_ack)
        if queue not in self.active_fanout_queues:
            self._keep()
            self.store.arrive(queue)
            self.waiter.again()

    def _basic_cancel(self, consumer_tag: str) -> None:
        queue, _, _ = self._subscriptions.pop(consumer_tag, (None, None, None))
        super()._basic_cancel(consumer_tag)
        others = [callback for other, callback, _ in self._subscriptions.values() if other == queue]
        if others:
            self.connection._callbacks[queue] = others[-1]
        elif queue is not None and not self._closing:
            self.settle_given_back([held.tag for held in self._inbox if held.queue == queue])
            self.store.leave([queue])

    def has_credit(self) -> bool:
        """Whether the prefetch count allows to take more."""
        return bool(self.qos.free(len(self._inbox)) != 0)

    def claim(self) -> bool:
        """Take what is there, up to the free credit, unless nothing can have come; returns whether there was any."""
        queues = self.active_queues
        if not queues or self._inbox or self.waiter.left:
            return False
        free = self.qos.free(0)
        if free == 0:
            return False
        self.flush()
        wanted = CLAIM_LIMIT if free is None else min(free, CLAIM_LIMIT)
        order = self._queue_cycle.consume(len(queues))
        no_ack = self._unacknowledged()
        if no_ack:
            # Nobody holds these, so none may lie in wait here.
            wanted = 1
        # In round robin each queue gets its share before one gets more; else the first ones go first.
        share = -(-wanted // len(order)) if self.queue_order_strategy == "round_robin" else wanted
        claim = self.waiter.claim([(queue, queue in no_ack) for queue in order], wanted, share)
        if claim.short:
            # No command may follow for long.
            self.client.collect()
        if not claim.deliveries:
            return False
        self._queue_cycle.rotate(claim.deliveries[-1].queue)
        for held in claim.deliveries:
            held.consumed = True
            if held.queue not in no_ack:
                self.held[held.tag] = held
        self._inbox.extend(claim.deliveries)
        return True

    def deliver_one(self) -> bool:
        """Pass the next claimed message to its consumer; returns whether there was one."""
        while self._inbox:
            held = self._inbox.popleft()
            if held.tag not in self.held and held.queue not in self._unacknowledged():
                continue  # its lease was lost meanwhile
            for queue, callback, _ in reversed(self._subscriptions.values()):
                if queue == held.queue:
                    callback(held.payload)
                    return True
            self.settle_given_back([held.tag])
        return False

    def _unacknowledged(self) -> set[str]:
        """Queues whose deliveries need no acknowledgement."""
        return {queue for queue, _, no_ack in self._subscriptions.values() if no_ack}

    def deliver_available(self) -> bool:
        """Pass on what was claimed and, if credit allows, what one more claim brings; returns whether there was any."""
        delivered = False
        while self.deliver_one():
            delivered = True
        if self.claim():
            while self.deliver_one():
                delivered = True
        return delivered

    def _wake(self) -> None:
        self.waiter.wake()

    # --- ending

    def close(self) -> None:
        """See ``JobsChannel.close``. If the server can't be reached, what was held is back when its lease ends."""
        if self.closed:
            return
        self._closing = True
        keeper.discard(self)
        try:
            self.connection.cycle.discard(self)
            self.connection.cycle.forget(self)
            self._leave()
            virtual.Channel.close(self)
        finally:
            self._disconnect()

    def _leave(self) -> None:
        queues = [queue for queue, _, _ in self._subscriptions.values()]
        temporary = [queue for queue in self._fanout_queues if queue in self.auto_delete_queues]
        try:
            self.store.leave(queues)
            for queue in temporary:
                self.queue_delete(queue)
        except self.connection.connection_errors as error:
            logger.debug("could not tidy up: %s", error)

    def _after_fork(self) -> None:
        """Kombu's hook for multiprocessing; ours has done everything by then."""

    def after_fork_in_child(self) -> None:
        """Let go of everything that is the parent's, without a word to the server."""
        self._forget_held()
        self._subscriptions.clear()
        self._consumers.clear()
        self._active_queues.clear()
        self.active_fanout_queues.clear()
        self.auto_delete_queues.clear()
        self._drop()
        if self.connection is not None:
            self.connection.cycle.after_fork_in_child()


def _after_fork_in_child() -> None:
    keeper.after_fork_in_child()
    for channel in list(_channels):
        channel.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
