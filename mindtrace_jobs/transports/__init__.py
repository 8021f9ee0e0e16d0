"""Kombu transports that lose nothing: memory and Redis.

Kombu has no entry points for transports; an alias makes one known by URL, so that failover between brokers of several
kinds finds each one's own.
"""

from __future__ import annotations

#: URL scheme -> transport.
ALIASES = {
    "mtmemory": "mindtrace_jobs.transports.memory:Transport",
    "mtredis": "mindtrace_jobs.transports.redis:Transport",
    "mtrediss": "mindtrace_jobs.transports.redis:TLSTransport",
    "mtsentinel": "mindtrace_jobs.transports.redis:SentinelTransport",
}
#: URL scheme of Kombu's own transport -> that of ours.
REPLACED = {"memory": "mtmemory", "redis": "mtredis", "rediss": "mtrediss", "sentinel": "mtsentinel"}


def register_aliases() -> None:
    """Make our schemes known to Kombu. Doing it again does nothing."""
    from kombu.transport import TRANSPORT_ALIASES

    for alias, transport in ALIASES.items():
        TRANSPORT_ALIASES.setdefault(alias, transport)


def our_url(url: str) -> str:
    """A broker URL, or several separated by ``;``, with the schemes of Kombu's transports replaced by ours.

    URLs of other brokers, and ours, stay as they are.
    """
    parts = []
    for one in url.split(";"):
        scheme, separator, rest = one.partition("://")
        parts.append(f"{REPLACED.get(scheme, scheme)}{separator}{rest}")
    return ";".join(parts)
