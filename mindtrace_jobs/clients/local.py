"""LocalClient: queues in this process's memory."""

from __future__ import annotations

from typing import Any, ClassVar, Self
from urllib.parse import quote, unquote, urlsplit

from mindtrace_jobs.clients.base import CONNECT_TIMEOUT
from mindtrace_jobs.clients.kombu_api import Connection
from mindtrace_jobs.clients.redaction import without_password
from mindtrace_jobs.clients.types import Capability
from mindtrace_jobs.clients.virtual import VirtualClient
from mindtrace_jobs.jobs import BackendType
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED


class LocalClient(VirtualClient):
    """Queues in memory, over Kombu's memory transport made to keep this package's promises.

    Jobs live as long as the process. Clients of one ``broker_id`` in one process share queues; other ids are strangers.

    Args:
        broker_id: Which of the process's brokers to use.
        result_backend: URL of a Celery result backend; default in memory, per broker id.
        max_decompressed_bytes: Most bytes that a compressed body may have when it is decompressed; None: any number.
            Default 64 MiB.
    """

    backend: ClassVar[BackendType] = BackendType.LOCAL
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {Capability.STACK, Capability.COUNTS_UNACKNOWLEDGED, Capability.COUNTS_LOSSES, Capability.RESULTS}
    )

    def __init__(
        self,
        broker_id: str = "default",
        *,
        result_backend: str | None = None,
        max_decompressed_bytes: int | None = MAX_DECOMPRESSED,
    ) -> None:
        self.broker_id = broker_id
        connection = Connection(
            "memory://localhost",  # without a host Kombu logs a warning for every connection
            transport="mindtrace_jobs.transports.memory:Transport",
            transport_options={"broker_id": broker_id},
        )
        super().__init__(
            connection,
            f"memory://{quote(without_password(broker_id), safe='*')}",
            connect_timeout=CONNECT_TIMEOUT,
            result_backend=result_backend
            or f"mindtrace_jobs.results.memory:MemoryBackend+memory://local/{quote(broker_id, safe='')}",
            max_decompressed_bytes=max_decompressed_bytes,
        )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """``memory://`` or ``memory://broker_id``."""
        parts = urlsplit(url)
        return cls(unquote(parts.netloc or parts.path.lstrip("/")) or "default", **options)
