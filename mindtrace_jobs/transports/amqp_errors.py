"""The errors of AMQP that a broker written in Python answers with; the one place that imports py-amqp for them."""

from __future__ import annotations

from typing import Any

from amqp import exceptions as _exceptions
from amqp import protocol as _protocol

NotFound: Any = _exceptions.NotFound
PreconditionFailed: Any = _exceptions.PreconditionFailed
RecoverableConnectionError: type[Exception] = _exceptions.RecoverableConnectionError
#: What ``queue_declare`` returns: queue, message_count, consumer_count.
QueueDeclared: Any = _protocol.queue_declare_ok_t


class NoRoute(_exceptions.IrrecoverableChannelError):  # type: ignore[misc]
    """No queue is bound to the exchange under the message's routing key (reply code 312)."""

    code = 312

    def __init__(self, exchange: str, routing_key: str) -> None:
        text = f"NO_ROUTE - no queue bound to exchange {exchange!r} takes routing key {routing_key!r}"
        super().__init__(text, (60, 50), "Channel.basic_publish", self.code)


def not_found(what: str, name: str, broker: str, method: str) -> Exception:
    """Reply code 404: there is no such queue or exchange."""
    error: Exception = NotFound(f"NOT_FOUND - no {what} {name!r} in {broker}", (50, 10), method, NotFound.code)
    return error


def precondition_failed(text: str, method: str) -> Exception:
    """Reply code 406: it exists with other properties, or these are not acceptable."""
    error: Exception = PreconditionFailed(f"PRECONDITION_FAILED - {text}", (50, 10), method, PreconditionFailed.code)
    return error
