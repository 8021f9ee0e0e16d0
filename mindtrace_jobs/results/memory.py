"""A Celery result backend in this process's memory.

Celery's own in-memory cache forgets the oldest results past 5,000; this one keeps them for as long as they are valid.
Named ``mindtrace_jobs.results.memory:MemoryBackend`` in a ``result_backend`` setting.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from celery.backends.base import KeyValueStoreBackend

from mindtrace_jobs import _forks

_SWEEP_EVERY = 1000


class _Store:
    """Key to (deadline, value); expired entries go when they are met or swept."""

    def __init__(self) -> None:
        self.values: dict[Any, tuple[float, Any]] = {}
        self.lock = threading.RLock()
        self._writes = 0

    def get(self, key: Any) -> Any:
        with self.lock:
            deadline, value = self.values.get(key, (0.0, None))
            return value if deadline > time.monotonic() else None

    def set(self, key: Any, value: Any, seconds: float | None) -> None:
        with self.lock:
            self.values[key] = (time.monotonic() + seconds if seconds else float("inf"), value)
            self._writes += 1
            if self._writes % _SWEEP_EVERY == 0:
                now = time.monotonic()
                self.values = {key: entry for key, entry in self.values.items() if entry[0] > now}


_stores: dict[str, _Store] = {}
_stores_lock = threading.Lock()


def _store(name: str) -> _Store:
    with _stores_lock:
        return _stores.setdefault(name, _Store())


def _after_fork_in_child() -> None:
    # The parent's records stay readable; a lock held by a thread that is not here would stay held for ever.
    global _stores_lock  # noqa: PLW0603
    _stores_lock = threading.Lock()
    for store in _stores.values():
        store.lock = threading.RLock()


_forks.register(after_in_child=_after_fork_in_child)


class MemoryBackend(KeyValueStoreBackend):  # type: ignore[misc]
    """Results in memory, shared by everything in the process that names the same store (the URL's path)."""

    supports_native_join = True
    implements_incr = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app=app, **kwargs)
        self.url = url
        self._store = _store((url or "").rpartition("/")[2])

    def get(self, key: Any) -> Any:
        return self._store.get(key)

    def mget(self, keys: Any) -> list[Any]:
        return [self._store.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        self._store.set(key, value, self.expires)

    def delete(self, key: Any) -> None:
        with self._store.lock:
            self._store.values.pop(key, None)

    def incr(self, key: Any) -> int:
        with self._store.lock:
            value = int(self._store.get(key) or 0) + 1
            self._store.set(key, value, self.expires)
            return value

    def expire(self, key: Any, value: float) -> None:
        with self._store.lock:
            if (current := self._store.get(key)) is not None:
                self._store.set(key, current, value)
