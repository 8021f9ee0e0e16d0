"""Records in Redis, each step in one round trip.

What is written is what Celery's ``RedisBackend`` writes: keys, values, times and channels are its own, so its AsyncResult and
stock workers read and write beside it. Its way there reads the record before, goes through a transaction, and through redis-py's
client, which together take longer than the rest of a short job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from redis.exceptions import NoPermissionError

from mindtrace_jobs.results.backend import Entry
from mindtrace_jobs.transports.redis.scripts import record_scripts
from mindtrace_jobs.transports.redis.wire import Wire

#: Serializers whose values tell by their first bytes that a job has succeeded.
_READABLE = frozenset({"json", "pydantic"})


class RedisRecords:
    """Writes records where a Celery backend for Redis keeps them. Safe for threads and forks.

    Its connections are made as the backend's own are, and kept for as long as the backend's pool is: Celery makes one
    for each thread.
    """

    def __init__(self) -> None:
        #: The idle ones, by the pool that knows how they are made.
        self._wires: WeakKeyDictionary[Any, deque[Wire]] = WeakKeyDictionary()
        #: Pools whose users may run no scripts.
        self._refused: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    def can_write(self, backend: Any) -> bool:
        """Whether it can write what a backend for Redis keeps; else that is for Celery's own way."""
        return (
            backend.serializer in _READABLE
            and not backend.compression
            and backend.client.connection_pool not in self._refused
        )

    def write(self, backend: Any, entry: Entry, unless: str = "") -> bool | None:
        """Write a record, unless the one that is there says that the job has succeeded.

        Args:
            backend: The backend.
            entry: The record.
            unless: A key whose presence keeps it from being written; "" for none.

        Returns:
            Whether that key was not there; None if the backend's user may run no scripts. Nothing was written then, and
            ``can_write`` says so from now on.

        Raises:
            What redis-py raises.
        """
        found = self._run(backend, "result", unless, *entry)
        return None if found is None else bool(found == 0)

    def submitted(self, backend: Any, entry: Entry, mark: Entry, cancelled: str) -> bool:
        """Write the record of a job that is about to be published, and a mark that it is not known to be.

        Whatever is there of an earlier job of the same id goes.

        Args:
            backend: The backend.
            entry, mark: What is written.
            cancelled: The key that says of an earlier job that it is cancelled.

        Returns:
            False if the backend's user may run no scripts, as ``write``.

        Raises:
            What redis-py raises.
        """
        return self._run(backend, "submitted", mark.key, mark.value, cancelled, *entry) is not None

    def remove(self, backend: Any, *keys: str) -> None:
        """Remove values; raises what redis-py raises."""
        with self._wire(backend.client.connection_pool) as wire:
            wire.call("DEL", *keys)

    def close(self, backend: Any) -> None:
        """Close the connections to a backend, if it has any; a later write makes new ones."""
        for wire in self._wires.pop(backend.client.connection_pool, ()):
            with suppress(Exception):  # it is given up either way
                wire.close()

    def _run(self, backend: Any, name: str, *args: Any) -> Any:
        pool = backend.client.connection_pool
        with self._wire(pool) as wire:
            try:
                return wire.script(record_scripts()[name], args=args)
            except NoPermissionError:
                self._refused[pool] = True
                return None

    @contextmanager
    def _wire(self, pool: Any) -> Iterator[Wire]:
        idle = self._wires.get(pool)
        if idle is None:
            idle = self._wires.setdefault(pool, deque())
        try:
            wire = idle.pop()
        except IndexError:
            wire = Wire(lambda: pool.connection_class(**pool.connection_kwargs))
        try:
            yield wire
        finally:
            idle.append(wire)
