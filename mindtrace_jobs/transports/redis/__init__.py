"""Kombu's Redis transport made to lose nothing.

Kombu takes a message with BRPOP and records it as unacknowledged afterwards; here one script does both. What is taken is
held under a lease that this process renews while it lives, so that work may last for hours while a dead worker's
messages are back within a minute. Keys and formats are Kombu's own: stock processes may publish to, consume from and
restore on the same server at the same time.

Kombu calls ``Channel``, which is put together from parts, each with its own state: ``deliveries`` (held, acknowledged,
requeued, renewed), ``consumers`` (claim, and pass messages on), ``exchanges``, ``connections``, ``waiter`` and
``store``, all that is done on the server. ``poller`` drives the channels of a connection, ``leases`` is the thread that
renews for all of them. ``keys`` has the names of keys, ``lua`` the scripts.
"""

from __future__ import annotations

import logging
import time
from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis

from mindtrace_jobs.transports.redis.channel import Channel, SentinelChannel
from mindtrace_jobs.transports.redis.poller import Poller
from mindtrace_jobs.transports.redis.wire import NOT_NOW

__all__ = ["Channel", "SentinelChannel", "SentinelTransport", "TLSTransport", "Transport"]

logger = logging.getLogger(__name__)


class Transport(kombu_redis.Transport):
    """A transport over channels that lose nothing: see ``Channel``."""

    Channel: Any = Channel
    cycle: Any
    #: A server that will serve again is waited for like one that cannot be reached.
    connection_errors: Any = (*kombu_redis.Transport.connection_errors, *NOT_NOW)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if client.ssl is True:
            # Kombu would take this for no TLS at all.
            client.ssl = {"ssl_cert_reqs": "required"}
        super().__init__(client, **kwargs)
        self.cycle = Poller()

    @property
    def supports_batch_publish(self) -> bool:
        """Commands are never repeated behind the caller's back, so a batch is always safe."""
        return True

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:  # type: ignore[override]
        """Deliver one message to its consumer.

        Args:
            connection: The transport itself, as Kombu has it.
            timeout: Seconds to wait for one; what is there already is delivered even with 0. None: for ever.

        Raises:
            TimeoutError: there was none.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                self.cycle.get(self._deliver, timeout=left)
                return
            except Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError from None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let an event loop, Celery's, drive this transport."""
        super().register_with_event_loop(connection, loop)
        self.cycle.join_loop(loop)


class TLSTransport(Transport):
    """The transport of ``mtrediss://``.

    Without ``ssl`` options in the URL it does not check the server's certificate, as Kombu's ``rediss://``.
    """

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if not client.ssl:
            logger.warning("rediss:// without ssl options: the server's certificate is not checked")
            client.ssl = {"ssl_cert_reqs": "none"}
        super().__init__(client, **kwargs)


class SentinelTransport(Transport):
    """The transport for a server behind Sentinel."""

    default_port: Any = kombu_redis.SentinelTransport.default_port
    Channel: Any = SentinelChannel
