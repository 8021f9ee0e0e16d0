"""Exchanges and bindings that are kept on the server, so that every process routes alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport.virtual.base import NotEquivalentError

from mindtrace_jobs.transports.amqp_errors import NoRoute, not_found
from mindtrace_jobs.transports.protocol import EXCHANGE_ARGUMENT
from mindtrace_jobs.transports.redis_connections import ConnectedChannel


class ExchangesChannel(ConnectedChannel):
    """What a channel does with exchanges. A fanout exchange without ``EXCHANGE_ARGUMENT`` stays Kombu's PUB/SUB."""

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """See ``JobsChannel.exchange_declare``."""
        kind = type or "direct"
        name = exchange or f"amq.{kind}"
        if passive:
            if not self._learn(name):
                raise not_found("exchange", name, self._where, "Channel.exchange_declare")
            return
        if name not in self.state.exchanges:
            found, _ = self.store.declare_exchange(name, kind, lists=bool((arguments or {}).get(EXCHANGE_ARGUMENT)))
            if found != kind:
                raise NotEquivalentError(f"exchange {name!r} exists at {self._where} with type {found!r}, not {kind!r}")
        super().exchange_declare(name, kind, durable, auto_delete, dict(arguments or {}))

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """See ``JobsChannel.exchange_delete``."""
        self.store.delete_exchange(exchange)
        self.state.exchanges.pop(exchange, None)
        for key in [key for key in self.state.bindings if key.exchange == exchange]:
            self.state.binding_delete(*key)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """See ``JobsChannel.queue_bind``."""
        name = exchange or "amq.direct"
        if not self._learn(name):
            if exchange:
                raise not_found("exchange", name, self._where, "Channel.queue_bind")
            self.exchange_declare(name, "direct")
        self.state.binding_declare(queue, name, routing_key, arguments)
        # On the server even if it was bound before: another process may have deleted the queue meanwhile.
        self._queue_bind(name, *self.typeof(name).prepare_bind(queue, name, routing_key, arguments))

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """See ``JobsChannel.queue_unbind``."""
        name = exchange or "amq.direct"
        self.state.binding_delete(queue, name, routing_key)
        self.store.unbind(name, self._member(*self.typeof(name).prepare_bind(queue, name, routing_key, arguments)))

    def typeof(self, exchange: str, default: str = "direct") -> Any:
        """Kombu's object for the exchange's type, which the server knows if this channel does not."""
        self._learn(exchange)
        return super().typeof(exchange, default)

    def _learn(self, exchange: str) -> bool:
        """Know an exchange that another process declared; returns whether there is one."""
        if exchange not in self.state.exchanges:
            found = self.store.exchange(exchange)
            if found is None:
                return False
            kind, lists = found
            arguments = {EXCHANGE_ARGUMENT: True} if lists else {}
            super().exchange_declare(exchange, kind, True, False, arguments)
        return True

    def _broadcasts(self, exchange: str) -> bool:
        """Whether the exchange is Kombu's fanout over PUB/SUB."""
        if not self._learn(exchange):
            return False
        known = self.state.exchanges[exchange]
        return known["type"] == "fanout" and not (known["arguments"] or {}).get(EXCHANGE_ARGUMENT)

    def _route(
        self, message: dict[str, Any], exchange: str, routing_key: str, mandatory: bool, batch: Any = None
    ) -> None:
        """Hand a message to every queue bound to an exchange, in one step on the server."""
        known = self.state.exchanges.get(exchange)
        kind = known["type"] if known else "direct"
        if batch is not None:
            args = self.store.route_args(exchange, kind, routing_key, message)
            batch.to_exchange(args, mandatory=mandatory and not self.deadletter_queue)
        elif not self.store.route(exchange, kind, routing_key, message):
            if self.deadletter_queue:
                self._put(self.deadletter_queue, message)
            elif mandatory:
                self.unroutable(exchange, routing_key)

    def unroutable(self, exchange: str, routing_key: str) -> None:
        """Raise ChannelError 312, or 404 for an exchange that nobody has declared."""
        if exchange not in self.state.exchanges and self.store.exchange(exchange) is None:
            raise not_found("exchange", exchange, self._where, "Channel.basic_publish")
        raise NoRoute(exchange, routing_key)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        if queue in self._expires or self._broadcasts(exchange):
            super()._queue_bind(exchange, routing_key, pattern, queue)
        else:
            self.store.bind(exchange, self._member(routing_key, pattern, queue), permanent=True)

    def _member(self, routing_key: str | None, pattern: str | None, queue: str) -> str:
        member: str = self.sep.join([routing_key or "", pattern or "", queue or ""])
        return member

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        batch = kwargs.pop("_publish_batch", None)
        if batch is None:
            super()._put_fanout(exchange, message, routing_key, **kwargs)
            return
        for topic in self._get_publish_topics(exchange, routing_key):
            batch.to_subscribers(self.global_keyprefix + topic, kombu_redis.dumps(message))

    @property
    def _where(self) -> str:
        return f"database {self.connection.client.virtual_host or '/'}"
