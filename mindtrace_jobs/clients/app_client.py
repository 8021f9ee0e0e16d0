"""A client for the broker of an existing Celery app. Celery itself is not imported here: the app brings what is needed."""

from __future__ import annotations

from functools import partial
from typing import Any

from mindtrace_jobs.clients.base import Client
from mindtrace_jobs.clients.kombu_api import Connection
from mindtrace_jobs.clients.local import LocalClient
from mindtrace_jobs.clients.rabbitmq import RabbitMQClient
from mindtrace_jobs.clients.redis import LEASE, RedisClient
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.transports import REPLACED, our_url, register_aliases
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED

#: What Celery uses when no broker is configured.
_DEFAULT_BROKER = "amqp://"
_REDIS = ("redis", "rediss", "sentinel")
_FOREIGN = {ours: theirs for theirs, ours in REPLACED.items()}
_RABBITMQ = ("amqp", "amqps", "pyamqp", "librabbitmq")


def broker_url(app: Any) -> str:
    """The URL, or several separated by ``;``, that the app publishes to."""
    url = app.conf.broker_write_url or _DEFAULT_BROKER
    return url if isinstance(url, str) else ";".join(url)


def broker_scheme(app: Any) -> str:
    """The scheme of the app's (first) broker, in Kombu's own terms."""
    scheme = broker_url(app).partition("://")[0].partition("+")[0]
    return _FOREIGN.get(scheme, scheme)


def speaks_amqp(app: Any) -> bool:
    """Whether the app's broker is RabbitMQ."""
    return broker_scheme(app) in _RABBITMQ


def client_for(
    app: Any, *, lease: float | None = None, max_decompressed_bytes: int | None = MAX_DECOMPRESSED
) -> Client:
    """A client for the app's broker, with the app's TLS, timeout and transport options.

    Of several brokers for failover the kind of the first one counts.

    Raises:
        ConfigurationError: the broker is neither Redis, RabbitMQ nor memory.
    """
    conf = app.conf
    url, scheme = broker_url(app), broker_scheme(app)
    options = dict(conf.broker_transport_options or {})
    common: dict[str, Any] = {
        "ssl": conf.broker_use_ssl or False,
        "max_decompressed_bytes": max_decompressed_bytes,
    }
    if conf.broker_connection_timeout:
        common["connect_timeout"] = float(conf.broker_connection_timeout)
    if scheme == "memory":
        register_aliases()
        with Connection(our_url(url), transport_options=options) as connection:
            broker_id = connection.transport.broker.broker_id
            return LocalClient(broker_id, max_decompressed_bytes=max_decompressed_bytes)
    if scheme in _REDIS:
        if scheme == "rediss" and not common["ssl"] and "ssl_" not in url.partition("?")[2]:
            # As the app's own connections, for which Kombu checks no certificate then.
            common["ssl"] = {"ssl_cert_reqs": "none"}
        installed = getattr(app.amqp.Connection, "lease", None)
        return RedisClient.from_url(
            url,
            lease=float(lease or options.pop("lease", None) or installed or LEASE),
            transport_options=options,
            **common,
        )
    if scheme in _RABBITMQ:
        # The client confirms by itself, many messages at a time.
        options.pop("confirm_publish", None)
        return RabbitMQClient.from_url(url, transport_options=options, definition=partial(_definition, app), **common)
    # What stands before a misplaced "://" may be a password.
    shown = f" {scheme + '://'!r:.40}" if "://" in url and scheme.isalnum() else ""
    raise ConfigurationError(f"jobs cannot use the Celery app's broker{shown}: it must be Redis, RabbitMQ or memory")


def _definition(app: Any, queue: str) -> Any:
    """The queue as the app declares it, of which RabbitMQ takes no other declaration afterwards."""
    try:
        return app.amqp.queues[queue]
    except KeyError:  # the setting task_create_missing_queues is off
        return None
