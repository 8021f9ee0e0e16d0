# Kombu is mostly unannotated.
# mypy: disable-error-code="no-untyped-call"
"""The app's connections, over this package's transport where there is one for the broker.

The settings, the environment variables that override them and what a connection tells of itself stay as they are; the
transport is chosen when it is made. So it does not matter which of them is set, when, or whether a failover list mixes
brokers.
"""

from __future__ import annotations

from typing import Any, cast

from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport import get_transport_cls

from mindtrace_jobs.clients.redaction import Redactor
from mindtrace_jobs.transports import ALIASES, REPLACED, register_aliases


class _OverOurTransports(Connection):
    """A Kombu connection that uses our transports for Redis and memory."""

    transport_options: Any

    def get_transport_cls(self) -> Any:
        """The class of the transport that is used now."""
        ours = REPLACED.get(self.transport_cls)
        return super().get_transport_cls() if ours is None else get_transport_cls(ours)

    def as_uri(self, include_password: bool = False, *args: Any, **kwargs: Any) -> str:
        uri = str(super().as_uri(include_password, *args, **kwargs))
        if include_password:
            return uri
        # Kombu takes what is behind a ";" in a password for a further host.
        return Redactor(";".join(map(str, self.alt))).redact(uri)

    def Pool(self, limit: Any = None, **_: Any) -> Any:  # noqa: N802 - Kombu's name
        """A pool of such connections: Kombu's own makes connections of its own class."""
        return _Pool(self, limit)


class _PooledConnection(_OverOurTransports, PooledConnection):
    """Its place is a pool."""


class _Pool(ConnectionPool):
    def new(self) -> Any:
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))


def over_our_transports(base: type[Any], lease: float) -> type[Any]:
    """A subclass of a Kombu connection class that uses our transports for Redis and memory.

    Args:
        base: The app's connection class; one made here before is replaced, not extended.
        lease: Seconds a received job stays with a worker that no longer renews its lease.
    """
    register_aliases()
    base = getattr(base, "stock", base)

    class JobsConnection(_OverOurTransports, base):  # type: ignore[misc]
        """The app's own connection class, over our transports."""

        stock = base

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            others = (str(url).partition("://")[0].partition("+")[0] for url in self.alt)
            if any(name in REPLACED or name in ALIASES for name in (self.transport_cls, *others)):
                # Kombu keeps pools by a connection's options too: over a stock transport there is no lease.
                self.transport_options = {"lease": self.lease, **self.transport_options}

    JobsConnection.lease = lease
    JobsConnection.__name__ = JobsConnection.__qualname__ = base.__name__
    return cast("type[Any]", JobsConnection)
