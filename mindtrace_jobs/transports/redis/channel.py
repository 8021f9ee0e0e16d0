"""The Redis channel: what Kombu calls, put together from the parts in the other modules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any
from uuid import uuid4
from weakref import WeakSet

import redis
import redis.sentinel
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.url import _parse_url

from mindtrace_jobs import _forks
from mindtrace_jobs.transports.amqp_errors import QueueDeclared, not_found, precondition_failed
from mindtrace_jobs.transports.contract import PLAIN, QUEUE_TYPE_ARGUMENT, QUEUE_TYPES, Payload, Record
from mindtrace_jobs.transports.packed import decoded_body, packed_class
from mindtrace_jobs.transports.redis.batch import PublishBatch
from mindtrace_jobs.transports.redis.connections import Connections
from mindtrace_jobs.transports.redis.consumers import Consumer, Consumers
from mindtrace_jobs.transports.redis.deliveries import Deliveries
from mindtrace_jobs.transports.redis.exchanges import Arguments, Exchanges
from mindtrace_jobs.transports.redis.keys import Keys, checked_steps
from mindtrace_jobs.transports.redis.qos import LeasedQoS
from mindtrace_jobs.transports.redis.store import Store
from mindtrace_jobs.transports.redis.waiter import SAFETY_POLL, Waiter

logger = logging.getLogger(__name__)

#: Transport options that Kombu does not have.
_OPTIONS = ("lease", "safety_poll", "protocol")

_channels: WeakSet[Channel] = WeakSet()


class Channel(kombu_redis.Channel):
    """A Redis channel that loses nothing: see ``JobsChannel`` for its contract.

    Transport options beside Kombu's: ``lease``, seconds a delivery stays with a holder that does not renew it
    (default 60; a living process renews); ``safety_poll``, seconds between the claims of an idle consumer (default 5);
    ``protocol``, 2 or 3, the version of RESP for commands (default: redis-py's; 2 also means that an idle consumer
    polls, ten times a second, since the server cannot wake it).

    An unknown queue becomes a fifo queue when a message is published to it through the anonymous exchange with
    ``mandatory=True``; published otherwise, as by Celery, it stays a plain queue without a record.

    Attributes:
        client: A redis-py client to the server, for the caller's own commands.
        connections: Connections to the server.
        store: The operations on it, for this channel.
        exchanges: Exchanges and bindings.
        deliveries: What this channel holds, and its acknowledgements.
        waiter: Claims, and waits in between.
        consumers: Who consumes which queues.
    """

    QoS: Any = LeasedQoS
    Message: Any = packed_class(virtual.Message)
    keeps_records = True
    puts_off = False
    least_claim = 1

    lease: Any = 60.0
    safety_poll: Any = SAFETY_POLL
    protocol: Any = None
    socket_timeout: Any = 30.0
    socket_connect_timeout: Any = 5.0
    socket_keepalive: Any = True
    master_name: Any = None
    from_transport_options: Any = (*kombu_redis.Channel.from_transport_options, *_OPTIONS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Messages published.
        self._published = 0
        super().__init__(*args, **kwargs)
        self._wire = self.connections.commands
        self.client = super()._create_client()
        self._where = f"database {self.connection.client.virtual_host or '/'}"
        lease = float(self.lease)
        self.store = Store(self._wire, self._keys, lease, self._expires)
        self.exchanges = Exchanges(self.store, self.state, self.exchange_types, self._where)
        self.deliveries = Deliveries(
            self.store,
            self.connections,
            # In time for the lease, and for stock processes, which restore by the other rule.
            renew_every=float(min(lease, self.visibility_timeout)) / 3,
            consumed=lambda: [] if self._closing else self.active_queues,
            settled=self._settled,
            turn=lambda: self.connection.cycle.turn(self),
        )
        self.waiter = Waiter(self.store, self.connections.watched, float(self.safety_poll), tracking=self.protocol != 2)
        self.consumers = Consumers(
            self.store,
            self.deliveries,
            self.waiter,
            self._queue_cycle,
            fair=self.queue_order_strategy == "round_robin",
            queues=lambda: self.active_queues,
            free=self._free,
        )
        try:
            self.connections.refuse_cluster()
        except BaseException:
            self.close()
            raise
        _channels.add(self)

    # --- connecting

    @cached_property
    def connections(self) -> Connections:
        """Connections to the server; made while Kombu's constructor runs, which connects."""
        master = (self.master_name, tuple(self.connection.client.alt or ())) if self.master_name else None
        return Connections(self.pool, lambda: self.async_pool, self._keys, master)

    @cached_property
    def client(self) -> Any:
        """A redis-py client, for the caller's own commands and the few that are left to Kombu's code.

        It connects when it is used. While Kombu's constructor runs, which connects, it is the connection for commands.
        """
        return self.connections.commands

    @cached_property
    def _keys(self) -> Keys:
        return Keys(
            prefix=self.global_keyprefix,
            sep=self.sep,
            steps=checked_steps(self.priority_steps),
            unacked=self.unacked_key,
            unacked_index=self.unacked_index_key,
            unacked_mutex=self.unacked_mutex_key,
        )

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)
        if self.protocol is not None:
            params["protocol"] = self.protocol
        return params

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self.client

    # --- queues

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        nowait: bool = False,
        arguments: Arguments = None,
        **kwargs: Any,
    ) -> Any:
        """See ``JobsChannel.queue_declare``. Queues that vanish by themselves are not recorded."""
        name = queue or f"amq.gen-{uuid4()}"
        self._refuse_reserved(name, "Channel.queue_declare")
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

    def _refuse_reserved(self, queue: str, method: str) -> None:
        if self._keys.reserved(queue):
            raise precondition_failed(
                f"{queue!r} is a key that the transport itself uses, and cannot be a queue", method
            )

    def queue_type(self, queue: str) -> str | None:
        """See ``JobsChannel.queue_type``."""
        return self.store.kind(queue)

    def queue_stats(self, queue: str) -> dict[str, int]:
        """See ``JobsChannel.queue_stats``. Deliveries and consumers of stock processes are not counted."""
        return self.store.stats(queue)

    def peek(self, queue: str, limit: int, offset: int = 0, *, bodies: bool = True) -> list[Payload]:
        """See ``JobsChannel.peek``."""
        return self.store.peek(queue, limit, offset, bodies=bodies)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        """See ``JobsChannel.queue_delete``."""
        if if_unused or if_empty:
            stats = self.store.stats(queue)
            if (if_unused and stats["consumers"]) or (if_empty and stats["ready"] + stats["delayed"]):
                return
        self.store.delete(queue)
        self.exchanges.unbind_queue(queue)
        self.auto_delete_queues.discard(queue)
        self._expires.pop(queue, None)

    def _size(self, queue: str) -> int:
        return self.store.declare(queue, PLAIN, record=False)[1]

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.store.kind(queue) is not None

    def _purge(self, queue: str) -> int:
        return self.store.purge(queue)

    # --- exchanges

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Arguments = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """See ``JobsChannel.exchange_declare``."""
        kind = type or "direct"
        name = exchange or f"amq.{kind}"
        if passive:
            self.exchanges.require(name, "Channel.exchange_declare")
            return
        options = dict(arguments or {})
        self.exchanges.declare(name, kind, options)
        super().exchange_declare(name, kind, durable, auto_delete, options)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """See ``JobsChannel.exchange_delete``."""
        self.exchanges.delete(exchange)

    def queue_bind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Arguments = None, **kwargs: Any
    ) -> None:
        """See ``JobsChannel.queue_bind``."""
        if exchange:
            self.exchanges.require(exchange, "Channel.queue_bind")
        elif not self.exchanges.known("amq.direct"):
            self.exchange_declare("amq.direct", "direct")
        name = exchange or "amq.direct"
        self.state.binding_declare(queue, name, routing_key, arguments)
        # On the server even if it was bound before: another process may have deleted the queue meanwhile.
        binding = self.exchanges.binding(queue, name, routing_key, arguments)
        if queue in self._expires or self.exchanges.broadcasts(name):
            self._queue_bind(name, *binding)
        else:
            self.exchanges.bind(name, binding)

    def queue_unbind(
        self, queue: str, exchange: str | None = None, routing_key: str = "", arguments: Arguments = None, **kwargs: Any
    ) -> None:
        """See ``JobsChannel.queue_unbind``."""
        self.exchanges.unbind(queue, exchange or "amq.direct", routing_key, arguments)

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        """Kombu's object for the exchange's type, which the server knows if this channel does not."""
        return self.exchanges.type_of(exchange, default)

    # --- publishing

    @property
    def supports_batch_publish(self) -> bool:
        """Commands are never repeated behind the caller's back, so a batch is always safe."""
        return True

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """See ``JobsChannel.create_publish_batch``."""
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
        _publish_batch: PublishBatch | None = None,
        **kwargs: Any,
    ) -> Any:
        """See ``JobsChannel.basic_publish``."""
        self._inplace_augment_message(message, exchange, routing_key)
        batch = _publish_batch
        if not exchange:
            self._put(routing_key, message, declare=mandatory, batch=batch)
        elif self.exchanges.broadcasts(exchange):
            if batch is None:
                self._put_fanout(exchange, message, routing_key)
            else:
                for topic in self._get_publish_topics(exchange, routing_key):
                    batch.to_subscribers(self.global_keyprefix + topic, kombu_redis.dumps(message))
        elif batch is not None:
            args = self.exchanges.route_args(message, exchange, routing_key)
            batch.to_exchange(args, mandatory=mandatory and not self.deadletter_queue)
        elif not self.exchanges.route(message, exchange, routing_key):
            if self.deadletter_queue:
                self._put(self.deadletter_queue, message)
            elif mandatory:
                self.exchanges.unroutable(exchange, routing_key)

    def _next_delivery_tag(self) -> str:
        # Unique, as Kombu's, and cheaper. Deliveries from this transport get another when they are received.
        self._published += 1
        return f"{self._published}@{self.store.identity}"

    def _put(
        self, queue: str, message: Payload, declare: bool = False, batch: PublishBatch | None = None, **kwargs: Any
    ) -> None:
        self._refuse_reserved(queue, "Channel.basic_publish")
        if batch is None:
            self.store.publish(queue, message, declare=declare)
        else:
            batch.to_queue(*self.store.publish_args(queue, message, declare=declare))

    # --- receiving

    def decode_body(self, body: Any, encoding: Any = None) -> Any:
        """The bytes of a body. One that is not encoded as it says stays as it is, to be looked at."""
        return decoded_body(super().decode_body, body, encoding)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any | None:
        """See ``JobsChannel.basic_get``."""
        held = self.deliveries.take(queue, no_ack=no_ack)
        if queue in self._expires:
            self._maybe_update_queues_expire(self.client, queue)
        if held is None:
            return None
        if not no_ack:
            self.deliveries.hold(held)
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
        consumer = Consumer(queue, self.connection._callbacks[queue], no_ack)
        self.consumers.add(consumer_tag, consumer, claims=queue not in self.active_fanout_queues)

    def _basic_cancel(self, consumer_tag: str) -> None:
        consumer = self.consumers.remove(consumer_tag)
        super()._basic_cancel(consumer_tag)
        if consumer is None:
            return
        other = self.consumers.last_of(consumer.queue)
        if other is not None:
            self.connection._callbacks[consumer.queue] = other.callback
        elif not self._closing:
            self.consumers.unregister(consumer.queue)

    def _free(self, waiting: int) -> int | None:
        # Not before it is needed: a QoS keeps its channel until that is closed.
        qos = self.qos
        free: int | None = qos.free(waiting)
        # Half of what may be held is worth it in any case, also when that is less than it was.
        return 0 if free is not None and free < min(self.least_claim, qos.prefetch_count // 2) else free

    # --- holding and settling

    @property
    def lost_deliveries(self) -> set[str]:
        """See ``JobsChannel``."""
        return self.deliveries.lost

    def start(self, delivery_tag: str, record: Record | None = None) -> bool:
        """See ``JobsChannel.start``."""
        return self.deliveries.start(delivery_tag, record)

    def holds(self, delivery_tag: str) -> bool:
        """See ``JobsChannel.holds``."""
        return self.deliveries.holds(delivery_tag)

    def acknowledge(self, delivery_tag: str, record: Record | None = None) -> None:
        """See ``JobsChannel.acknowledge``."""
        self.deliveries.acknowledge(delivery_tag, record)

    def ack_nowait(self, delivery_tag: str, record: Record | None = None) -> None:
        """See ``JobsChannel.ack_nowait``."""
        self.deliveries.ack_nowait(delivery_tag, record)

    def flush(self) -> None:
        """See ``JobsChannel.flush``."""
        self.deliveries.flush()

    def replace(self, delivery_tag: str, message: Payload, queue: str) -> None:
        """See ``JobsChannel.replace``."""
        self._inplace_augment_message(message, "", queue)
        self._refuse_reserved(queue, "Channel.basic_publish")
        self.deliveries.replace(delivery_tag, queue, message)

    def requeue(self, delivery_tag: str) -> None:
        """See ``JobsChannel.requeue``."""
        self.deliveries.requeue(delivery_tag)

    def release(self, delivery_tag: str) -> None:
        """See ``JobsChannel.release``."""
        self.deliveries.release(delivery_tag)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """See ``JobsChannel.basic_ack``.

        It is sent and not waited for: should the connection break before the server has read it, the message is back
        when its lease ends. Raises redis-py's errors when it can't be sent.
        """
        if multiple:
            self.deliveries.acknowledge_many(self.qos.delivered_before(delivery_tag))
        self.qos.ack(delivery_tag)

    def _settled(self, tag: str) -> None:
        self.qos.settled(tag)
        if self.connection is not None:
            # There may be credit to claim with.
            self.connection.cycle.credit_returned()

    # --- ending

    def answer_within(self, seconds: float) -> None:
        """See ``JobsChannel.answer_within``."""
        self.connections.answer_within(seconds)

    def close(self) -> None:
        """See ``JobsChannel.close``. If the server can't be reached, what was held is back when its lease ends."""
        if self.closed:
            return
        self._closing = True
        self.deliveries.stop_renewing()
        try:
            self.connection.cycle.discard(self)
            self.connection.cycle.forget(self)
            self._tidy_up()
            virtual.Channel.close(self)
        finally:
            self._registered = False
            self.waiter.close()
            self._wire.close()
            self.deliveries.close()
            subclient = self.__dict__.get("subclient")
            if subclient is not None:
                subclient.close()
            self._disconnect_pools()

    def _tidy_up(self) -> None:
        temporary = [queue for queue in self._fanout_queues if queue in self.auto_delete_queues]
        try:
            self.deliveries.flush()
            self.consumers.unregister_all()
            for queue in temporary:
                self.queue_delete(queue)
        except self.connection.connection_errors as error:
            logger.debug("could not tidy up: %s", error)

    def _after_fork(self) -> None:
        """Kombu's hook for multiprocessing; ours has done everything by then."""

    def after_fork_in_child(self) -> None:
        """Forget everything that is the parent's, without a word to the server."""
        self.deliveries.forget()
        if self._qos is not None:
            self._qos.forget()
        self.store.rename()
        self.consumers.forget()
        self._consumers.clear()
        self._active_queues.clear()
        self.active_fanout_queues.clear()
        self.auto_delete_queues.clear()
        self._registered = False
        self.waiter.drop()
        self._wire.drop()
        subclient = self.__dict__.pop("subclient", None)
        if subclient is not None and subclient.connection is not None:
            subclient.connection.disconnect()
        if self.connection is not None:
            self.connection.cycle.after_fork_in_child()


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """A channel to the master that Sentinel names."""

    min_other_sentinels: Any = 0
    sentinel_kwargs: Any = None
    from_transport_options: Any = (*kombu_redis.SentinelChannel.from_transport_options, *_OPTIONS)

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        if not self.master_name:
            raise ValueError("a sentinel:// broker needs the transport option 'master_name'")
        params = self._connparams(asynchronous)
        first = params.pop("host"), params.pop("port")
        # Kombu knows only its own scheme here.
        urls = [_parse_url(url) for url in self.connection.client.alt or () if "://" in url]
        others = [(url.hostname, url.port or self.connection.default_port) for url in urls if "sentinel" in url.scheme]
        manager = redis.sentinel.Sentinel(
            others or [first],
            min_other_sentinels=self.min_other_sentinels,
            sentinel_kwargs=self.sentinel_kwargs,
            **params,
        )
        # For Kombu, which closes it.
        if asynchronous:
            self._async_sentinel_manager = manager
        else:
            self._sentinel_manager = manager
        login = {name: params[name] for name in ("username", "password") if name in params}
        return manager.master_for(self.master_name, redis.Redis, **login).connection_pool


def _after_fork_in_child() -> None:
    for channel in list(_channels):
        channel.after_fork_in_child()


_forks.register(after_in_child=_after_fork_in_child)
