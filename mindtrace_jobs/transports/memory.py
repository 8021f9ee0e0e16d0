# Kombu is mostly unannotated, and nearly every line here calls it.
# mypy: disable-error-code="no-untyped-call"
"""Kombu transport for queues in this process's memory, with the semantics of a real broker.

A subclass of Kombu's own memory transport that adds what :class:`~mindtrace_jobs.transports.protocol.JobsChannel` says:
typed queues, delays, counts, messages held until they are acknowledged, waiting without polling.

Connections of one broker id share queues, others are strangers. The id is ``transport_options["broker_id"]``, else what
the URL says: ``memory:///id``, ``memory://id`` (Kombu reads host names in lower case) or ``memory://host/id``, which is
the id ``host/id``; else "default".

Headers and properties are kept as they are and not turned into JSON, so a value comes out as the object that went in.
Brokers are safe for threads, also one channel acknowledging what another thread consumes. After ``os.fork`` the child
finds queues and exchanges declared, and every queue empty: each message stays in the parent.
"""

from __future__ import annotations

import logging
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import memory, virtual
from kombu.transport.virtual.base import NotEquivalentError
from kombu.utils.uuid import uuid

from mindtrace_jobs.transports.amqp_errors import NoRoute, QueueDeclared, not_found, precondition_failed
from mindtrace_jobs.transports.exchanges import TopicExchange
from mindtrace_jobs.transports.memory_broker import Broker
from mindtrace_jobs.transports.memory_delivery import Consumer, Link, Session
from mindtrace_jobs.transports.memory_qos import SessionQoS
from mindtrace_jobs.transports.memory_registry import get_broker
from mindtrace_jobs.transports.protocol import DELAY_PROPERTY, PLAIN, QUEUE_TYPE_ARGUMENT, QUEUE_TYPES, Payload

logger = logging.getLogger(__name__)

DEFAULT_BROKER_ID = "default"


class Channel(memory.Channel):
    """A channel to a broker in memory: a :class:`~mindtrace_jobs.transports.protocol.JobsChannel`."""

    QoS = SessionQoS
    do_restore = True
    supports_fanout = True
    #: Bodies stay the bytes or text they are; nothing here needs ASCII.
    body_encoding = None  # type: ignore[assignment]
    exchange_types = {**virtual.Channel.exchange_types, "topic": TopicExchange}  # noqa: RUF012

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.broker: Broker = connection.broker
        self.session: Session = self.broker.open(connection.link)
        self.events = defaultdict(set)  # Kombu's is one for all channels of the process
        #: Tags of messages acknowledged here although they had been taken back: somebody else may run them too.
        self.lost_deliveries: set[str] = set()
        self._by_tag: dict[str, Consumer] = {}
        # A channel dropped without close() must not keep its messages for ever.
        self._abandon = weakref.finalize(self, self.broker.abandon, self.session)
        self._abandon.atexit = False

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
        """Make a queue, see :class:`JobsChannel`; an ``auto_delete`` queue goes with its last consumer."""
        name = queue or f"amq.gen-{uuid()}"
        if not passive:
            self._new_queue(name, auto_delete=auto_delete, arguments=arguments)
        elif not self._has_queue(name):
            raise not_found("queue", name, self._where, "Channel.queue_declare")
        stats = self.queue_stats(name)
        return QueueDeclared(name, stats["ready"], stats["consumers"])

    def queue_type(self, queue: str) -> str | None:
        """The recorded type, "" for a plain queue, None if there is no such queue."""
        return self.broker.queue_type(queue)

    def queue_stats(self, queue: str) -> dict[str, int]:
        """Counts by the keys ready, unacknowledged, delayed and consumers; all zero for an unknown queue."""
        return self.broker.stats(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> None:
        """Remove a queue with its messages and bindings."""
        with self.broker.lock:
            stats = self.broker.stats(queue)
            if (if_unused and stats["consumers"]) or (if_empty and stats["ready"] + stats["delayed"]):
                return
            self.broker.delete(queue)

    def peek(self, queue: str, limit: int) -> list[Payload]:
        """At most ``limit`` ready messages in delivery order, left where they are."""
        return self.broker.peek(queue, limit)

    # --- exchanges: Kombu's own tables, under the broker's lock

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str | None = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """Make an exchange.

        Raises:
            ChannelError: 404 if ``passive`` and there is none, 406 if it exists with other properties or has no
                known type.
        """
        kind = type or "direct"
        if kind not in self.exchange_types:
            raise precondition_failed(f"unknown exchange type {kind!r}", "Channel.exchange_declare")
        with self.broker.lock:
            try:
                super().exchange_declare(exchange, kind, durable, auto_delete, arguments, nowait, passive)
            except NotEquivalentError as error:
                raise precondition_failed(str(error), "Channel.exchange_declare") from error

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Remove an exchange and its bindings; the queues stay."""
        with self.broker.lock:
            if not (if_unused and any(key.exchange == exchange for key in self.state.bindings)):
                self.broker.delete_exchange(exchange)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Let an exchange deliver to a queue.

        Raises:
            ChannelError: 404 if there is no such exchange.
        """
        with self.broker.lock:
            self._require_exchange(exchange or "amq.direct", "Channel.queue_bind")
            super().queue_bind(queue, exchange, routing_key, arguments, **kwargs)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Undo a binding. One that is not there is no error."""
        with self.broker.lock:
            super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)

    # --- messages

    def basic_publish(
        self, message: Payload, exchange: str, routing_key: str, mandatory: bool = False, **kwargs: Any
    ) -> None:
        """Put a message into a queue (``exchange=""``) or hand it to an exchange.

        The message is copied as far as headers and properties go, so the caller may use it again.

        Raises:
            ChannelError: if ``mandatory``, 404 when there is no such exchange and 312 when no queue is bound for it.
        """
        properties = {**message["properties"]}
        delay = float(properties.pop(DELAY_PROPERTY, None) or 0)
        body, encoding = self.encode_body(message["body"], self.body_encoding)
        properties["body_encoding"] = encoding
        properties["delivery_info"] = {
            **(properties.get("delivery_info") or {}),
            "exchange": exchange,
            "routing_key": routing_key,
        }
        payload = {
            **message,
            "body": bytes(body) if isinstance(body, bytearray | memoryview) else body,
            "headers": {**(message.get("headers") or {})},
            "properties": properties,
        }
        if not exchange:
            self.broker.put((routing_key,), payload, delay)
            return
        with self.broker.lock:
            if mandatory:
                self._require_exchange(exchange, "Channel.basic_publish")
            queues = self._lookup(exchange, routing_key)
            if mandatory and not queues:
                raise NoRoute(exchange, routing_key)
            self.broker.put(queues, payload, delay)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any | None:
        """The next message, held until it is acknowledged or rejected; None if none is ready."""
        payload = self.broker.take(self.session, queue, no_ack)
        return None if payload is None else self.Message(payload, channel=self)

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> None:
        """Let ``drain_events`` pass the queue's messages to ``callback``.

        Raises:
            ChannelError: 406 if the channel has a consumer of that tag.
        """
        if consumer_tag in self._by_tag:
            raise precondition_failed(f"attempt to reuse consumer tag {consumer_tag!r}", "Channel.basic_consume")

        def receive(payload: Payload) -> Any:
            return callback(self.Message(payload, channel=self))

        consumer = self._by_tag[consumer_tag] = Consumer(self.session, queue, no_ack)
        self._tag_to_queue[consumer_tag] = queue
        self._consumers.add(consumer_tag)
        self.connection.receivers[consumer] = receive
        self.broker.consume(consumer)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop a consumer; what it was delivered stays held. An unknown tag is no error."""
        consumer = self._by_tag.pop(consumer_tag, None)
        if consumer is not None:
            self._consumers.discard(consumer_tag)
            self._tag_to_queue.pop(consumer_tag, None)
            self.broker.cancel(consumer)
            self.connection.receivers.pop(consumer, None)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit how many consumed messages this channel holds at a time; 0 means no limit."""
        self.broker.set_prefetch(self.session, prefetch_count or 0)

    def mark_started(self, delivery_tag: str) -> None:
        """Record that work on a held message begins now. A message that is not held is ignored."""
        delivery = self.session.held.get(delivery_tag)
        if delivery is not None:
            delivery.started = True

    def holds(self, delivery_tag: str) -> bool:
        """Whether a message is still this channel's."""
        return delivery_tag in self.session.held

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Forget a message whose work is done; a warning is logged if it was taken back from this channel before."""
        if not self.broker.acknowledge(self.session, delivery_tag, multiple):
            self.lost_deliveries.add(delivery_tag)
            logger.warning(
                "acknowledged message %s after its channel was closed: it is back on its queue and will run again",
                delivery_tag,
            )

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back to the front of its queue."""
        self.broker.reject(self.session, delivery_tag, requeue)

    def basic_recover(self, requeue: bool = False) -> None:
        """Put back everything this channel holds.

        Raises:
            NotImplementedError: without ``requeue``, as on Kombu's virtual channels.
        """
        if not requeue:
            raise NotImplementedError("recover(requeue=False) is not supported")
        self.broker.recover(self.session)

    def close(self) -> None:
        """Cancel the consumers and put everything held back to the front of its queue, in the original order."""
        if self.closed:
            return
        for consumer_tag in list(self._by_tag):
            self.basic_cancel(consumer_tag)
        self._abandon.detach()
        self.broker.close(self.session)
        # Past Kombu's memory channel, which empties tables that are not used here.
        super(memory.Channel, self).close()

    # --- what Kombu's virtual channel is built on

    def _new_queue(
        self, queue: str, auto_delete: bool = False, arguments: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        kind = (arguments or {}).get(QUEUE_TYPE_ARGUMENT, PLAIN)
        if kind not in QUEUE_TYPES:
            known = ", ".join(sorted(filter(None, QUEUE_TYPES)))
            raise precondition_failed(
                f"{QUEUE_TYPE_ARGUMENT} {kind!r} of queue {queue!r} is none of {known}", "Channel.queue_declare"
            )
        self.broker.declare(queue, str(kind), auto_delete)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self.broker.queue_type(queue) is not None

    def _put(self, queue: str, message: Payload, **kwargs: Any) -> None:
        self.broker.put((queue,), message)

    def _put_fanout(self, exchange: str, message: Payload, routing_key: str | None = None, **kwargs: Any) -> None:
        with self.broker.lock:
            self.broker.put(self._lookup(exchange, routing_key), message)

    def _get(self, queue: str, timeout: float | None = None) -> Payload:
        payload = self.broker.take(self.session, queue, no_ack=True)
        if payload is None:
            raise Empty
        return payload

    def _size(self, queue: str) -> int:
        return self.broker.stats(queue)["ready"]

    def _purge(self, queue: str) -> int:
        return self.broker.purge(queue)

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self.broker.delete(queue)

    @property
    def _where(self) -> str:
        return f"memory broker {self.broker.broker_id!r}"

    def _require_exchange(self, exchange: str, method: str) -> None:
        if exchange not in self.state.exchanges:
            raise not_found("exchange", exchange, self._where, method)


class Transport(memory.Transport):
    """Connections to the brokers of this process."""

    Channel = Channel
    implements = virtual.Transport.implements.extend(exchange_type=frozenset({"direct", "topic", "fanout"}))

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.broker: Broker = get_broker(_broker_id(client))
        self.state = self.broker.state
        self.link = Link()
        #: What to do with the messages of each consumer.
        self.receivers: dict[Consumer, Callable[[Payload], Any]] = {}

    def create_channel(self, connection: Any) -> Any:
        """A new channel; several threads may ask at once."""
        with self.broker.lock:  # Kombu looks for a free channel number
            return super().create_channel(connection)

    def close_connection(self, connection: Any) -> None:
        """Close the channels; a thread that waits in ``drain_events`` gets a connection error."""
        super().close_connection(connection)
        self.broker.disconnect(self.link)

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Deliver one message to its consumer, waiting for it.

        Args:
            connection: Ignored; Kombu passes it.
            timeout: Seconds; None waits for ever, 0 delivers what is ready.
            kwargs: Ignored.

        Raises:
            TimeoutError: nothing arrived in time.
            RecoverableConnectionError: the connection was closed while it waited.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            found = self.broker.wait(self.link, timeout if deadline is None else max(deadline - monotonic(), 0.0))
            if found is None:
                raise TimeoutError("no message arrived in time")
            consumer, payload = found
            receive = self.receivers.get(consumer)
            if receive is not None:
                receive(payload)
                return
            # Cancelled by another thread in this instant.
            self.broker.reject(consumer.session, payload["properties"]["delivery_tag"], requeue=True)


def _broker_id(client: Any) -> str:
    options = client.transport_options or {}
    if options.get("broker_id"):
        return str(options["broker_id"])
    # Kombu says "localhost" and "/" where the URL says nothing.
    host = client.hostname if client.hostname not in (None, "", "localhost") else ""
    return "/".join(filter(None, (host, (client.virtual_host or "").strip("/")))) or DEFAULT_BROKER_ID
