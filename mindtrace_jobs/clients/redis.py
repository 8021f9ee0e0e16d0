"""RedisClient: queues on a Redis server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Self
from urllib.parse import quote

from kombu.utils.url import parse_url

from mindtrace_jobs._arguments import check_timeout
from mindtrace_jobs.clients.base import CONNECT_TIMEOUT
from mindtrace_jobs.clients.redaction import first_url, without_password
from mindtrace_jobs.clients.types import Capability, QueueType
from mindtrace_jobs.clients.urls import address, connection_to
from mindtrace_jobs.clients.virtual import VirtualClient
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.jobs import BackendType
from mindtrace_jobs.transports import our_url, register_aliases
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED

#: Transport options that reach the result backend on the same server too.
_SHARED_OPTIONS = ("global_keyprefix", "master_name", "sentinel_kwargs")
#: Seconds for which a worker that stopped renewing keeps a job.
LEASE = 60.0


class RedisClient(VirtualClient):
    """Queues on Redis 6.2 or later, over Kombu's Redis transport made to lose nothing.

    Args:
        host, port, db, username, password: The server.
        ssl: True, or redis-py's TLS options (``ssl_cert_reqs``, ``ssl_ca_certs``, ...). The server's certificate and
            the host's name in it are checked unless ``ssl_cert_reqs`` is "none".
        lease: Seconds a received job stays with a worker that no longer renews its lease; a living worker renews for as
            long as it works. Default 60.
        key_prefix: Prepended to every key, those of results on this server included (there Celery adds "_" to a prefix
            that does not end in one of ``:_-.``).
        connect_timeout: Seconds until an unreachable server is an error. Default 5.
        socket_timeout: Seconds until a server that does not answer a command is an error. Default 30.
        result_backend: URL of a Celery result backend; default this server. On this very database, the default too, a job's
            record is written in the same step as its message.
        max_decompressed_bytes: Most bytes that a compressed body may have when it is decompressed; None: any number.
            Default 64 MiB.
        transport_options: Further options for Kombu's Redis transport.
    """

    backend: ClassVar[BackendType] = BackendType.REDIS
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        db: int = 0,
        username: str | None = None,
        password: str | None = None,
        ssl: bool | Mapping[str, Any] = False,
        *,
        lease: float = LEASE,
        key_prefix: str = "",
        connect_timeout: float = CONNECT_TIMEOUT,
        socket_timeout: float = 30.0,
        result_backend: str | None = None,
        max_decompressed_bytes: int | None = MAX_DECOMPRESSED,
        transport_options: Mapping[str, Any] | None = None,
    ) -> None:
        login = (
            ":".join(quote(part, safe="") for part in (username or "", password or "")) + "@"
            if username or password
            else ""
        )
        scheme = "rediss" if ssl else "redis"
        self._init(
            f"{scheme}://{login}{address(host, port)}/{db}",
            ssl=ssl,
            lease=lease,
            key_prefix=key_prefix,
            connect_timeout=connect_timeout,
            socket_timeout=socket_timeout,
            result_backend=result_backend,
            max_decompressed_bytes=max_decompressed_bytes,
            transport_options=transport_options,
        )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """``redis://``, ``rediss://`` or ``sentinel://``, several separated by ``;``; options as the constructor's.

        ``rediss://`` is TLS as with ``ssl=True``, unless ``ssl`` or the URL (``?ssl_cert_reqs=...``) says more. Sentinel
        needs ``transport_options={"master_name": ...}``.
        """
        client = cls.__new__(cls)
        client._init(url, **options)
        return client

    def _init(
        self,
        url: str,
        *,
        ssl: bool | Mapping[str, Any] = False,
        lease: float = LEASE,
        key_prefix: str = "",
        connect_timeout: float = CONNECT_TIMEOUT,
        socket_timeout: float = 30.0,
        result_backend: str | None = None,
        max_decompressed_bytes: int | None = MAX_DECOMPRESSED,
        transport_options: Mapping[str, Any] | None = None,
    ) -> None:
        check_timeout("lease", lease, optional=False)
        check_timeout("socket_timeout", socket_timeout)
        if isinstance(ssl, Mapping):
            unknown = [name for name in ssl if not str(name).startswith("ssl_")]
            if unknown:
                raise ConfigurationError(f"ssl has {unknown[0]!r}; redis-py's TLS options begin with 'ssl_'")
        elif url.startswith("rediss") and "ssl_" not in url.partition("?")[2]:
            ssl = True
        register_aliases()
        options = {
            "lease": lease,
            "global_keyprefix": key_prefix,
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": connect_timeout,
            "socket_keepalive": True,
            **(transport_options or {}),
        }
        connection = connection_to(
            our_url(url),
            ssl=dict(ssl) if isinstance(ssl, Mapping) else ssl,
            connect_timeout=connect_timeout,
            transport_options=options,
        )
        database = str(connection.virtual_host or "").strip("/")
        if database and not database.isdecimal():
            raise ConfigurationError(
                f"{without_password(url)} names no database: what stands behind the host is a number, as /0"
            )
        # Celery's Redis backend takes one server; its Sentinel backend takes them all.
        own = url if url.startswith("sentinel") else first_url(url)
        self._result_options: dict[str, Any] = {}
        shared = {name: options[name] for name in _SHARED_OPTIONS if options.get(name)}
        if result_backend is not None and not shared and not ssl and _same_database(result_backend, own):
            result_backend = None
        self._keeps_records = result_backend is None
        if result_backend is None:
            if url.startswith("rediss") or ssl:
                checks = dict(ssl) if isinstance(ssl, Mapping) else {}
                self._result_options["redis_backend_use_ssl"] = {"ssl_cert_reqs": "required", **checks}
            if shared:
                self._result_options["result_backend_transport_options"] = shared
        super().__init__(
            connection,
            url,
            connect_timeout=connect_timeout,
            result_backend=result_backend or own,
            max_decompressed_bytes=max_decompressed_bytes,
        )

    def _check_queue(self, name: object) -> None:
        super()._check_queue(name)
        # A queue is the key of its name: one in the place of another key would make the whole database unusable.
        if isinstance(name, str) and _reserved(name):
            raise ConfigurationError(
                f"{name!r} cannot be the name of a queue on Redis, where the transport keeps its records in the key of that "
                "name"
            )

    def declare_queue(self, queue: str, queue_type: QueueType = QueueType.FIFO) -> None:
        from mindtrace_jobs.transports.redis.keys import RESULTS

        self._check_queue(queue)
        if queue.startswith(RESULTS):
            raise ConfigurationError(
                f"{queue!r} cannot be the name of a queue on Redis: Celery keeps the result of a task in the key of that name"
            )
        super().declare_queue(queue, queue_type)

    @property
    def result_options(self) -> dict[str, Any]:
        """Celery settings that the client's own result backend needs: TLS, key prefix, the name of Sentinel's master."""
        return self._result_options

    @property
    def keeps_records(self) -> bool:
        return self._keeps_records


@lru_cache(maxsize=1024)
def _reserved(name: str) -> bool:
    """Whether the transport itself uses the key of this name."""
    # The transport's package loads redis-py.
    from mindtrace_jobs.transports.redis.keys import Keys

    return Keys().reserved(name)


def _same_database(one: str, other: str) -> bool:
    """Whether two URLs are spellings of one database of one server, for one user and with the same options."""
    try:
        first, second = (
            {**_DEFAULTS, **{name: value for name, value in parse_url(url).items() if value}} for url in (one, other)
        )
    except ValueError:  # which is said where it is used
        return False
    return first == second and first["transport"] == "redis" and ";" not in one + other


#: What a URL means that does not say.
_DEFAULTS = {"hostname": "localhost", "port": 6379, "virtual_host": "0"}
