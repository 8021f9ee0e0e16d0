"""The app's connections, over this package's transport where there is one for the broker.

The settings, the environment variables that override them and what a connection tells of itself stay as they are; the
transport is chosen when it is made. So it does not matter which of them is set, when, or whether a failover list mixes
brokers.
"""

from __future__ import annotations

from typing import Any, cast

from kombu.transport import get_transport_cls

from mindtrace_jobs.clients.redaction import Redactor
from mindtrace_jobs.transports import ALIASES, REPLACED, register_aliases


def over_our_transports(base: type[Any], lease: float) -> type[Any]:
    """A subclass of a Kombu connection class that uses our transports for Redis and memory.

    Args:
        base: The app's connection class; one made here before is replaced, not extended.
        lease: Seconds a received job stays with a worker that no longer renews its lease.
    """
    register_aliases()
    base = getattr(base, "stock", base)

    class JobsConnection(base):  # type: ignore[misc]
        """The app's own connection class, over our transports."""

        stock = base
        transport_options: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            others = (str(url).partition("://")[0].partition("+")[0] for url in self.alt)
            if any(name in REPLACED or name in ALIASES for name in (self.transport_cls, *others)):
                # Kombu's pools tell connections apart by their options: over a stock transport there is no lease.
                self.transport_options = {"lease": self.lease, **self.transport_options}

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

    JobsConnection.lease = lease
    JobsConnection.__name__ = JobsConnection.__qualname__ = base.__name__
    return cast("type[Any]", JobsConnection)
