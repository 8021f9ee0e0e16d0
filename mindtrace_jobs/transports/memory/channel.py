# Kombu is mostly unannotated, and nearly every line here calls it.
# mypy: disable-error-code="no-untyped-call"
"""Channels of the memory transport: Kombu's interface to a broker in memory."""

from __future__ import annotations

import logging
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from kombu.transport import memory, virtual
from kombu.transport.virtual.base import NotEquivalentError
from kombu.utils.uuid import uuid

from mindtrace_jobs.transports.amqp_errors import NoRoute, QueueDeclared, not_found, precondition_failed
from mindtrace_jobs.transports.contract import (
    DELAY_PROPERTY,
    PLAIN,
    QUEUE_TYPE_ARGUMENT,
    QUEUE_TYPES,
    Payload,
    PublishBatch,
    Record,
)
from mindtrace_jobs.transports.exchanges import TopicExchange
from mindtrace_jobs.transports.memory.broker import Broker
from mindtrace_jobs.transports.memory.sessions import Consumer, Session
from mindtrace_jobs.transports.packed import decoded_body, packed_class

logger = logging.getLogger(__name__)


class _QoS(virtual.QoS):
    """Kombu's view of the messages that a channel holds; the broker keeps them."""

    def __init__(self, channel: Channel) -> None:
        # Not the base's: it registers a finalizer that keeps every channel alive until the process ends.
        self.channel = channel

    prefetch_count: Any = property(
        lambda self: self.channel.session.prefetch, lambda self, count: self.channel.basic_qos(prefetch_count=count)
    )

    def can_consume(self) -> Any:
        return self.channel.session.has_room()

    def ack(self, delivery_tag: str) -> None:
        self.channel.basic_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self.channel.basic_reject(delivery_tag, requeue)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Do nothing: closing the channel requeues what it holds."""


class Channel(memory.Channel):
    """A channel to a broker in memory.

    What its methods do stands in :class:`~mindtrace_jobs.transports.contract.JobsChannel`, unless they say more.

    Args:
        connection: The :class:`~mindtrace_jobs.transports.memory.transport.Transport` it belongs to.
        kwargs: Those of Kombu's channel.
    """

    QoS = _QoS  # type: ignore[assignment]
    Message = packed_class(virtual.Message)
    keeps_records = False
    puts_off = False
    least_claim = 1
    #: Bodies stay the bytes or text they are; nothing here needs ASCII.
    body_encoding = None  # type: ignore[assignment]
    exchange_types = {**virtual.Channel.exchange_types, "topic": TopicExchange}  # noqa: RUF012

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.broker: Broker = connection.broker
        self.session = Session(connection.link)
        self.events = defaultdict(set)  # Kombu's is one for all channels of the process
        #: Tags of messages acknowledged here although others had requeued them: somebody else may run them too.
        self.lost_deliveries: set[str] = set()
        self._consumers: dict[str, Consumer] = {}  # type: ignore[assignment]
        # A channel dropped without close() must not keep its messages for ever.
        self._abandon = weakref.finalize(self, self.broker.abandon, self.session)
        self._abandon.atexit = False

    def decode_body(self, body: Any, encoding: Any = None) -> Any:
        return decoded_body(super().decode_body, body, encoding)

    # --- queues

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> Any:
        """As the contract has it; an ``auto_delete`` queue goes with its last consumer."""
        name = queue or f"amq.gen-{uuid()}"
        if not passive:
            self._new_queue(name, **options)
        elif self.queue_type(name) is None:
            raise not_found("queue", name, str(self.broker), "Channel.queue_declare")
        stats = self.queue_stats(name)
        return QueueDeclared(name, stats["ready"], stats["consumers"])

    def queue_type(self, queue: str) -> str | None:
        return self.broker.queue_type(queue)

    def queue_stats(self, queue: str) -> dict[str, int]:
        return self.broker.stats(queue)

    def queue_purge(self, queue: str, **options: Any) -> int:
        return self.broker.purge(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **options: Any) -> None:
        with self.broker.lock:
            stats = self.broker.stats(queue)
            if not (if_unused and stats["consumers"]) and not (if_empty and stats["ready"] + stats["delayed"]):
                self.broker.delete(queue)

    def peek(self, queue: str, limit: int, offset: int = 0, *, bodies: bool = True) -> list[Payload]:
        return self.broker.peek(queue, limit, offset)

    # --- exchanges: Kombu's own tables, under the broker's lock

    def exchange_declare(
        self, exchange: str | None = None, type: str | None = "direct", *args: Any, **options: Any
    ) -> None:
        """As the contract has it.

        Raises:
            ChannelError: 404 if ``passive`` and there is none; 406 if it exists with other properties, or if there is
                no such type.
        """
        if type and type not in self.exchange_types:
            raise precondition_failed(f"unknown exchange type {type!r}", "Channel.exchange_declare")
        with self.broker.lock:
            if options.get("passive"):
                self._require_exchange(exchange or f"amq.{type}", "Channel.exchange_declare")
            try:
                super().exchange_declare(exchange, type, *args, **options)
            except NotEquivalentError as error:
                raise precondition_failed(str(error), "Channel.exchange_declare") from error

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        with self.broker.lock:
            bindings = [key for key in self.state.bindings if key.exchange == exchange]
            if not (if_unused and bindings):
                self.state.exchanges.pop(exchange, None)
                for key in bindings:
                    self.state.binding_delete(*key)

    def queue_bind(self, queue: str, exchange: str | None = None, *args: Any, **options: Any) -> None:
        """As the contract has it.

        Raises:
            ChannelError: 404 if there is no such exchange.
        """
        with self.broker.lock:
            self._require_exchange(exchange or "amq.direct", "Channel.queue_bind")
            super().queue_bind(queue, exchange, *args, **options)

    def queue_unbind(self, queue: str, exchange: str | None = None, *args: Any, **options: Any) -> None:
        with self.broker.lock:
            super().queue_unbind(queue, exchange, *args, **options)

    def _require_exchange(self, exchange: str, method: str) -> None:
        if exchange not in self.state.exchanges:
            raise not_found("exchange", exchange, str(self.broker), method)

    # --- messages

    def basic_publish(
        self, message: Payload, exchange: str, routing_key: str, mandatory: bool = False, **options: Any
    ) -> None:
        """As the contract has it.

        The message is copied as far as headers and properties go, so the caller may use it again.

        Raises:
            ChannelError: if ``mandatory``, 404 when there is no such exchange and 312 when no queue is bound for it.
        """
        payload, delay = self._prepared(message, exchange, routing_key)
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

    def _prepared(self, message: Payload, exchange: str, routing_key: str) -> tuple[Payload, float]:
        """The message as the broker keeps it, and the seconds for which it is held back."""
        properties = {**message["properties"]}
        delay = float(properties.pop(DELAY_PROPERTY, None) or 0)
        body, properties["body_encoding"] = self.encode_body(message["body"], self.body_encoding)
        info = properties.get("delivery_info") or {}
        properties["delivery_info"] = {**info, "exchange": exchange, "routing_key": routing_key}
        payload = {
            **message,
            "body": bytes(body) if isinstance(body, bytearray | memoryview) else body,
            "headers": {**(message.get("headers") or {})},
            "properties": properties,
        }
        return payload, delay

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """A batch that publishes at once: there is no round trip to save."""
        return _Batch(self)

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any | None:
        payload = self.broker.take(self.session, queue, no_ack)
        return None if payload is None else self.Message(payload, channel=self)

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
    ) -> None:
        """As the contract has it.

        Raises:
            ChannelError: 406 if the channel has a consumer of that tag.
        """
        if consumer_tag in self._consumers:
            raise precondition_failed(f"attempt to reuse consumer tag {consumer_tag!r}", "Channel.basic_consume")
        consumer = self._consumers[consumer_tag] = Consumer(self.session, queue, no_ack)
        self.connection.receivers[consumer] = lambda payload: callback(self.Message(payload, channel=self))
        self.broker.register(consumer)

    def basic_cancel(self, consumer_tag: str) -> None:
        consumer = self._consumers.pop(consumer_tag, None)
        if consumer is not None:
            self.broker.unregister(consumer)
            self.connection.receivers.pop(consumer, None)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        self.broker.set_prefetch(self.session, prefetch_count or 0)

    # --- what is held

    def start(self, delivery_tag: str, record: Record | None = None) -> bool:
        _refuse_record(record)
        delivery = self.session.held.get(delivery_tag)
        if delivery is not None:
            delivery.started = True
        return True

    def holds(self, delivery_tag: str) -> bool:
        return delivery_tag in self.session.held

    def acknowledge(self, delivery_tag: str, record: Record | None = None) -> None:
        _refuse_record(record)
        self.basic_ack(delivery_tag)

    ack_nowait = acknowledge

    def flush(self) -> None:
        pass  # nothing is put off

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if not self.broker.acknowledge(self.session, delivery_tag, multiple):
            self.lost_deliveries.add(delivery_tag)
            logger.warning(
                "acknowledged message %s after it was requeued: it is on its queue again and will run again",
                delivery_tag,
            )

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.broker.requeue(self.session, delivery_tag, front=False)
        else:
            self.broker.reject(self.session, delivery_tag)

    def replace(self, delivery_tag: str, message: Payload, queue: str) -> None:
        with self.broker.lock:
            if not self.holds(delivery_tag):
                self.lost_deliveries.add(delivery_tag)
                return
            self.broker.put((queue,), *self._prepared(message, "", queue))
            self.basic_ack(delivery_tag)

    def requeue(self, delivery_tag: str) -> None:
        self.broker.requeue(self.session, delivery_tag)

    def basic_recover(self, requeue: bool = False) -> None:
        """Requeue everything this channel holds.

        Raises:
            NotImplementedError: without ``requeue``, as on Kombu's virtual channels.
        """
        if not requeue:
            raise NotImplementedError("recover(requeue=False) is not supported")
        with self.broker.lock:
            for delivery_tag in reversed(list(self.session.held)):
                self.broker.requeue(self.session, delivery_tag)

    def release(self, delivery_tag: str) -> None:
        self.broker.take_back(self.session, [delivery_tag])

    def answer_within(self, seconds: float) -> None:
        pass  # nobody else has to answer

    def close(self) -> None:
        if not self.closed:
            self._abandon.detach()
            # Cancels the consumers. Past Kombu's memory channel, which empties tables that are not used here.
            super(memory.Channel, self).close()
            self.broker.close(self.session)

    # --- what Kombu's virtual channel is built on

    def _new_queue(self, queue: str, auto_delete: bool = False, arguments: Any = None, **options: Any) -> None:
        kind = (arguments or {}).get(QUEUE_TYPE_ARGUMENT, PLAIN)
        if kind not in QUEUE_TYPES:
            known = ", ".join(sorted(filter(None, QUEUE_TYPES)))
            raise precondition_failed(
                f"{QUEUE_TYPE_ARGUMENT} {kind!r} of queue {queue!r} is none of {known}", "Channel.queue_declare"
            )
        self.broker.declare(queue, kind, auto_delete)

    def _size(self, queue: str) -> int:
        return self.broker.stats(queue)["ready"]


class _Batch:
    def __init__(self, channel: Channel) -> None:
        self.publish = channel.basic_publish

    def flush(self) -> None:
        """Do nothing: everything is published."""


def _refuse_record(record: Record | None) -> None:
    if record is not None:
        raise NotImplementedError("the memory transport keeps no records of jobs")
