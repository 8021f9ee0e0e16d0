"""Exchanges and bindings that are kept on the server, so that every process routes alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.transport.virtual.base import BrokerState, NotEquivalentError

from mindtrace_jobs.transports.amqp_errors import NoRoute, not_found
from mindtrace_jobs.transports.contract import EXCHANGE_ARGUMENT, Payload
from mindtrace_jobs.transports.redis.store import Store

#: Arguments of a declaration or a binding.
Arguments = Mapping[str, Any] | None
#: A binding as Kombu keeps it: routing key, pattern, queue.
Binding = tuple[str, str | None, str]


class Exchanges:
    """The exchanges on the server, and what this connection knows of them already.

    A fanout exchange declared without ``EXCHANGE_ARGUMENT`` is Kombu's own, over PUB/SUB.

    Args:
        store: The server.
        state: What Kombu remembers of exchanges and bindings that the connection declared; completed here.
        types: Kombu's objects for the types of exchanges, by name.
        where: Names the database in errors.
    """

    def __init__(self, store: Store, state: BrokerState, types: Mapping[str, Any], where: str) -> None:
        self._store = store
        self._state = state
        assert state.exchanges is not None
        #: Kombu's descriptions of exchanges, by name.
        self._exchanges: dict[str, dict[str, Any]] = state.exchanges
        self._types = types
        self._where = where

    def known(self, exchange: str) -> bool:
        """Tell whether there is such an exchange; one that another process declared is known from then on."""
        if exchange not in self._exchanges:
            found = self._store.exchange(exchange)
            if found is None:
                return False
            kind, lists = found
            self._exchanges[exchange] = {
                "type": kind,
                "durable": True,
                "auto_delete": False,
                "arguments": {EXCHANGE_ARGUMENT: True} if lists else {},
                "table": [],
            }
        return True

    def require(self, exchange: str, method: str) -> None:
        """Make sure that there is such an exchange.

        Raises:
            ChannelError: 404 if there is none; ``method`` is what it says was called.
        """
        if not self.known(exchange):
            raise not_found("exchange", exchange, self._where, method)

    def declare(self, exchange: str, kind: str, arguments: Mapping[str, Any]) -> None:
        """Record an exchange on the server, unless this connection knows it already.

        Raises:
            NotEquivalentError: it is there with another type.
        """
        if exchange not in self._exchanges:
            lists = bool(arguments.get(EXCHANGE_ARGUMENT))
            found, _ = self._store.declare_exchange(exchange, kind, lists=lists)
            if found != kind:
                raise NotEquivalentError(
                    f"exchange {exchange!r} exists at {self._where} with type {found!r}, not {kind!r}"
                )

    def delete(self, exchange: str) -> None:
        """Remove an exchange and its bindings. One that is not there is no error."""
        self._store.delete_exchange(exchange)
        self._exchanges.pop(exchange, None)
        for key in [key for key in self._state.bindings if key.exchange == exchange]:
            self._state.binding_delete(*key)

    def type_of(self, exchange: str, default: str = "direct") -> Any:
        """Kombu's object for the exchange's type; for that of ``default`` if there is no such exchange."""
        return self._types[self._exchanges[exchange]["type"] if self.known(exchange) else default]

    def broadcasts(self, exchange: str) -> bool:
        """Tell whether the exchange is Kombu's fanout over PUB/SUB."""
        if not self.known(exchange):
            return False
        known = self._exchanges[exchange]
        return known["type"] == "fanout" and not (known["arguments"] or {}).get(EXCHANGE_ARGUMENT)

    # --- bindings

    def binding(self, queue: str, exchange: str, routing_key: str, arguments: Arguments) -> Binding:
        """Make a binding as the exchange's type understands it."""
        made: Binding = self.type_of(exchange).prepare_bind(queue, exchange, routing_key, arguments)
        return made

    def bind(self, exchange: str, binding: Binding) -> None:
        """Keep a binding on the server for good."""
        self._store.bind(exchange, self._member(binding))

    def unbind(self, queue: str, exchange: str, routing_key: str, arguments: Arguments) -> None:
        """Remove a binding. One that is not there is no error."""
        self._state.binding_delete(queue, exchange, routing_key)
        self._store.unbind(exchange, self._member(self.binding(queue, exchange, routing_key, arguments)))

    def unbind_queue(self, queue: str) -> None:
        """Remove every binding of a queue that this connection made.

        Those to exchanges without a record, such as a stock process declares, are known to nobody else.
        """
        for exchange, routing_key, arguments in list(self._state.queue_bindings(queue)):
            self._store.unbind(exchange, self._member(self.binding(queue, exchange, routing_key, arguments)))
        self._state.queue_bindings_delete(queue)

    def _member(self, binding: Binding) -> str:
        return self._store.keys.sep.join(part or "" for part in binding)

    # --- routing

    def route(self, message: Payload, exchange: str, routing_key: str) -> int:
        """Hand a message to every queue bound to an exchange, in one step on the server; returns how many these are."""
        return self._store.route(exchange, self._type_if_unrecorded(exchange), routing_key, message)

    def route_args(self, message: Payload, exchange: str, routing_key: str) -> tuple[Any, ...]:
        """Make the arguments of the script that does what ``route`` does."""
        return self._store.route_args(exchange, self._type_if_unrecorded(exchange), routing_key, message)

    def _type_if_unrecorded(self, exchange: str) -> str:
        known = self._exchanges.get(exchange)
        return known["type"] if known else "direct"

    def unroutable(self, exchange: str, routing_key: str) -> None:
        """Refuse a mandatory message that no queue takes.

        Raises:
            ChannelError: 312, or 404 for an exchange that nobody has declared.
        """
        if exchange not in self._exchanges and self._store.exchange(exchange) is None:
            raise not_found("exchange", exchange, self._where, "Channel.basic_publish")
        raise NoRoute(exchange, routing_key)
