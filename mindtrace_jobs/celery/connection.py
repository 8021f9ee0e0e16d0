"""The app's connections, over this package's transports where there is one for the broker.

The setting ``broker_url`` and the environment variables that override it stay as they are; the transport is chosen as a
connection is made. So it does not matter which of them is set, when, or whether a failover list mixes brokers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from mindtrace_jobs.clients.redaction import Redactor
from mindtrace_jobs.transports import ALIASES, REPLACED, our_url, register_aliases

_FOREIGN = {ours: theirs for theirs, ours in REPLACED.items()}


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

        def __init__(self, hostname: Any = "localhost", *args: Any, **kwargs: Any) -> None:
            hostname = _rewritten(hostname)
            if kwargs.get("alternates"):
                kwargs["alternates"] = _rewritten(list(kwargs["alternates"]))
            if _uses_ours(hostname) or kwargs.get("transport") in ALIASES:
                kwargs["transport_options"] = {"lease": self.lease, **(kwargs.get("transport_options") or {})}
            super().__init__(hostname, *args, **kwargs)

        def as_uri(self, include_password: bool = False, *args: Any, **kwargs: Any) -> str:
            # Flower and others tell brokers apart by their scheme.
            scheme, separator, rest = str(super().as_uri(include_password, *args, **kwargs)).partition("://")
            uri = f"{_FOREIGN.get(scheme, scheme)}{separator}{rest}"
            if include_password:
                return uri
            # Kombu takes what is behind a ";" in a password for a further host.
            return Redactor(";".join(map(str, self.alt))).redact(uri)

    JobsConnection.lease = lease
    JobsConnection.__name__ = JobsConnection.__qualname__ = base.__name__
    return cast("type[Any]", JobsConnection)


def _rewritten(urls: Any) -> Any:
    if isinstance(urls, str):
        return our_url(urls)
    return [our_url(url) if isinstance(url, str) else url for url in urls] if isinstance(urls, Sequence) else urls


def _uses_ours(urls: Any) -> bool:
    listed = urls.split(";") if isinstance(urls, str) else urls if isinstance(urls, Sequence) else ()
    return any(isinstance(url, str) and url.partition("://")[0].partition("+")[0] in ALIASES for url in listed)
