"""Records in Redis, each step in one round trip.

What is written is what Celery's ``RedisBackend`` writes: keys, values, times and channels are its own, so its AsyncResult and
stock workers read and write beside it. Its way there reads the record before, goes through a transaction, and through redis-py's
client, which together take longer than the rest of a short job.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from redis.exceptions import NoPermissionError

from mindtrace_jobs.results.backend import Entry
from mindtrace_jobs.transports.redis.scripts import record_scripts
from mindtrace_jobs.transports.redis.wire import Wire

#: Serializers whose values tell by their first bytes that a job has succeeded.
_READABLE = frozenset({"json", "pydantic"})


class RedisRecords:
    """Writes records where a Celery backend for Redis keeps them. Safe for threads and forks.

    Its connections are made as the backend's own are, and end with the backend: Celery makes one for each thread.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._idle: deque[Wire] = deque()
        # Before the garbage collector comes to their sockets, which say aloud when nobody has closed them.
        weakref.finalize(self, _close, self._idle)
        #: Whether the backend's user may run no scripts.
        self._refused = False

    @property
    def usable(self) -> bool:
        """Whether it can write what this backend keeps; else that is for Celery's own way."""
        backend = self._backend
        return not self._refused and backend.serializer in _READABLE and not backend.compression

    def write(self, entry: Entry, unless: str = "") -> bool | None:
        """Write a record, unless the one that is there says that the job has succeeded.

        Args:
            entry: The record.
            unless: A key whose presence keeps it from being written; "" for none.

        Returns:
            Whether that key was not there; None if the backend's user may run no scripts. Nothing was written then, and
            ``usable`` says so from now on.

        Raises:
            What redis-py raises.
        """
        found = self._run("result", unless, *entry)
        return None if found is None else bool(found == 0)

    def submitted(self, entry: Entry, mark: Entry, cancelled: str) -> bool:
        """Write the record of a job that is about to be published, and a mark that it is not known to be.

        Whatever is there of an earlier job of the same id goes.

        Args:
            entry, mark: What is written.
            cancelled: The key that says of an earlier job that it is cancelled.

        Returns:
            False if the backend's user may run no scripts, as ``write``.

        Raises:
            What redis-py raises.
        """
        return self._run("submitted", mark.key, mark.value, cancelled, *entry) is not None

    def remove(self, key: str) -> None:
        """Remove a value; raises what redis-py raises."""
        with self._wire() as wire:
            wire.call("DEL", key)

    def close(self) -> None:
        """Close the connections; a later write makes new ones."""
        _close(self._idle)

    def _run(self, name: str, *args: Any) -> Any:
        with self._wire() as wire:
            try:
                return wire.script(record_scripts()[name], args=args)
            except NoPermissionError:
                self._refused = True
                return None

    @contextmanager
    def _wire(self) -> Iterator[Wire]:
        try:
            wire = self._idle.pop()
        except IndexError:
            wire = Wire(partial(_connection_to, self._backend.client.connection_pool))
        try:
            yield wire
        finally:
            self._idle.append(wire)


def _connection_to(pool: Any) -> Any:
    # Not made by the pool, which would count it for ever.
    return pool.connection_class(**pool.connection_kwargs)


def _close(idle: deque[Wire]) -> None:
    while idle:
        with suppress(Exception):  # it is given up either way
            idle.pop().close()
