# Kombu is mostly unannotated.
# mypy: disable-error-code="no-untyped-call"
"""Connections of the memory transport."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from kombu.transport import memory, virtual

from mindtrace_jobs.transports.contract import Payload
from mindtrace_jobs.transports.memory.broker import Broker, get_broker
from mindtrace_jobs.transports.memory.channel import Channel
from mindtrace_jobs.transports.memory.sessions import Connection, Consumer


class Transport(memory.Transport):
    """Connections to the brokers of this process."""

    Channel = Channel
    implements = virtual.Transport.implements.extend(exchange_type=frozenset({"direct", "topic", "fanout"}))

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.broker: Broker = get_broker(_broker_id(client))
        self.state = self.broker.state
        self.link = Connection(threading.Condition(self.broker.lock))
        #: What to do with the messages of each consumer. Not kept by the broker, which would keep channels alive.
        self.receivers: dict[Consumer, Callable[[Payload], Any]] = {}

    def create_channel(self, connection: Any) -> Any:
        """Open a channel; several threads may do so at once."""
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
        while (found := self.broker.wait(self.link, deadline)) is not None:
            consumer, payload = found
            receive = self.receivers.get(consumer)
            if receive is not None:
                receive(payload)
                return
            # Cancelled by another thread in this instant.
            self.broker.requeue(consumer.session, payload["properties"]["delivery_tag"])
        raise TimeoutError("no message arrived in time")


def _broker_id(client: Any) -> str:
    options = client.transport_options or {}
    if options.get("broker_id"):
        return str(options["broker_id"])
    # Kombu says "localhost" and "/" where the URL says nothing.
    host = client.hostname if client.hostname not in (None, "", "localhost") else ""
    return "/".join(filter(None, (host, (client.virtual_host or "").strip("/")))) or "default"
