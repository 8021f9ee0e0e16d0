"""Broker URLs: made from a host, refused by name where they cannot work."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Any

from mindtrace_jobs.clients.kombu_api import Connection, url_to_parts
from mindtrace_jobs.clients.redaction import Redactor, without_password
from mindtrace_jobs.errors import ConfigurationError

_LARGEST_PORT = 65_535


def address(host: str | None, port: int | str) -> str:
    """``host:port`` for a URL; a host that is not set is this machine.

    Raises:
        ConfigurationError: the host is no name and no address, or the port no number.
    """
    if not str(port).isdecimal() or not 0 < int(port) <= _LARGEST_PORT:
        shown = without_password(port) if isinstance(port, str) else port
        raise ConfigurationError(f"port is {shown!r:.40}; it must be a number from 1 to {_LARGEST_PORT}")
    host = host or "localhost"
    if ":" in host and _is_ipv6(host.strip("[]")):
        return f"[{host.strip('[]')}]:{port}"
    if re.search(r"[/:@?#\s]", host):
        shown = without_password(host)
        if "@" in shown:  # no parser says which of what stands before it is a user's name
            shown = "**@" + shown.rpartition("@")[2]
        raise ConfigurationError(
            f"host is {shown!r}; it must be a name or an address alone: the port has an argument of its "
            "own, and from_url() takes a URL"
        )
    return f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def connection_to(url: str, **options: Any) -> Any:
    """A Kombu connection to a broker's URL, not opened yet.

    Raises:
        ConfigurationError: Kombu cannot read the URL.
    """
    redactor = Redactor(url, options)
    try:
        connection = Connection(url, **options)
        for alternative in connection.alt:
            if "://" in alternative:
                url_to_parts(alternative)  # not when the first broker is down
        return connection
    except ValueError:
        # Its text quotes what stands where the port should: a piece of the password, if that has a slash in it.
        raise ConfigurationError(
            f"{redactor.shown} is no URL of a broker, scheme://user:password@host:port/..., with a number as port; "
            "percent-encode what is special in user and password"
        ) from None
    except TypeError as error:
        raise ConfigurationError(
            f"{redactor.shown} has an option that Kombu does not know: {redactor.redact(str(error))}"
        ) from redactor.cause(error)
