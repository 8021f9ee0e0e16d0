"""The thread that keeps this process's leases alive and requeues what dead holders held.

One native thread per process, so that leases are renewed while the main thread runs a job, whatever the job does short
of holding the interpreter's lock. It asks the server for nothing unless this process receives messages.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import select
import sys
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from redis.exceptions import RedisError, ResponseError

from mindtrace_jobs import _forks
from mindtrace_jobs.transports.redis.connections import Connections
from mindtrace_jobs.transports.redis.store import Store
from mindtrace_jobs.transports.redis.wire import Wire

logger = logging.getLogger(__name__)

_SHORTEST_SWEEP, _LONGEST_SWEEP = 0.5, 15.0
#: Seconds until a renewal that failed is tried again, and between two reports of that.
_LONGEST_RETRY, _SAY_EVERY = 1.0, 30.0


class Holder(Protocol):
    """A channel's deliveries: where their leases are, how to reach that server, and the seconds between renewals."""

    store: Store
    connections: Connections
    renew_every: float

    def renew(self, wire: Wire) -> None:
        """Renew what is held and consumed, and learn what is held no longer."""


class LeaseKeeper:
    """Renews the leases of the holders of this process; safe for threads and forks."""

    def __init__(self) -> None:
        self._reset()

    def add(self, holder: Holder) -> None:
        """Renew for this holder until ``discard``.

        Raises:
            OSError, RuntimeError: the system has no descriptor or thread left for that.
        """
        with self._lock:
            if not self._pipe:
                self._start()
            self._holders[id(holder)] = weakref.ref(holder)
        self._wake()

    def discard(self, holder: Holder) -> None:
        """Renew no longer for it."""
        with self._lock:
            self._holders.pop(id(holder), None)
        self._wake()

    def finish(self, holder: Holder) -> None:
        """Renew for this holder, though nobody else refers to it any more, until it says ``discard``."""
        self.add(holder)
        with self._lock:
            self._holders[id(holder)] = lambda: holder

    def sweep(self, holder: Holder) -> int:
        """Restore what expired on a holder's server now, unless that was done a moment ago; returns how many."""
        server = holder.connections.server
        if time.monotonic() < self._next_sweep.get(server, 0.0):
            return 0
        self._next_sweep[server] = time.monotonic() + sweep_every(holder.store.lease)
        return holder.store.restore_expired(holder.store.wire)

    def after_fork_in_child(self) -> None:
        """There is no thread here, and nothing of what the parent holds is ours."""
        for descriptor in self._pipe:
            os.close(descriptor)
        for wire in self._wires.values():
            wire.drop()
        self._reset()

    # --- details

    def _reset(self) -> None:
        self._lock = _original("_thread", "allocate_lock")()
        self._holders: dict[int, Callable[[], Holder | None]] = {}
        self._wires: dict[Hashable, Wire] = {}
        self._next_sweep: dict[Hashable, float] = {}
        #: When it was last said of a server that it refuses.
        self._said: dict[Hashable, float] = {}
        #: To the thread, while there is one.
        self._pipe: tuple[int, ...] = ()

    def _start(self) -> None:
        pipe, wires = os.pipe(), dict[Hashable, Wire]()
        try:
            for descriptor in pipe:
                os.set_blocking(descriptor, False)
            _original("_thread", "start_new_thread")(self._run, (pipe, wires))
        except BaseException:
            for descriptor in pipe:
                os.close(descriptor)
            raise
        self._pipe, self._wires = pipe, wires

    def _wake(self) -> None:
        with self._lock:
            if self._pipe:
                # A full pipe wakes it up as well.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._pipe[1], b"x")

    def _live(self) -> list[Holder]:
        holders = [reference() for reference in list(self._holders.values())]
        return [holder for holder in holders if holder is not None]

    def _run(self, pipe: tuple[int, ...], wires: dict[Hashable, Wire]) -> None:
        try:
            while True:
                with self._lock:
                    holders = self._live()
                    if not holders:
                        # A holder that comes now starts another thread.
                        self._pipe, self._wires = (), {}
                        return
                try:
                    pause = self._tick(holders, wires)
                except Exception:
                    # Without renewal everything this process holds would be run again elsewhere: go on.
                    logger.exception("renewing leases failed unexpectedly")
                    pause = _LONGEST_RETRY
                holders.clear()
                self._wait(pipe[0], pause)
        finally:
            for descriptor in pipe:
                os.close(descriptor)
            for wire in wires.values():
                wire.close()

    def _tick(self, holders: list[Holder], wires: dict[Hashable, Wire]) -> float:
        """Renew and sweep what is due; returns the seconds until there is something to do again."""
        pause = _LONGEST_SWEEP
        servers: dict[Hashable, list[Holder]] = {}
        for holder in holders:
            servers.setdefault(holder.connections.server, []).append(holder)
            pause = min(pause, holder.renew_every)
        for server in set(wires) - set(servers):
            wires.pop(server).close()
        for server, group in servers.items():
            interval = sweep_every(min(holder.store.lease for holder in group))
            wire = wires.get(server)
            if wire is None:
                # One that does not answer must leave time to try again, and to renew on the other servers.
                wire = wires[server] = Wire(group[0].connections.connector(group[0].renew_every))
            try:
                for holder in group:
                    holder.renew(wire)
                if time.monotonic() >= self._next_sweep.get(server, 0.0):
                    self._next_sweep[server] = time.monotonic() + interval
                    group[0].store.restore_expired(wire)
            except (RedisError, OSError) as error:
                # A lost connection is nothing new to whoever consumes; what the server refuses may be to everybody.
                now = time.monotonic()
                said = isinstance(error, ResponseError) and self._said.get(server, -math.inf) + _SAY_EVERY <= now
                if said:
                    self._said[server] = now
                level = logging.WARNING if said else logging.DEBUG
                logger.log(level, "renewing leases failed, tried again every second: %s", error)
                wire.close()
                wires.pop(server, None)
                pause = min(pause, _LONGEST_RETRY)
            pause = min(pause, interval)
        return pause

    @staticmethod
    def _wait(reader: int, seconds: float) -> None:
        # Not select(), which takes no descriptor from 1024 on.
        poller = _original("select", "poll")()
        poller.register(reader, select.POLLIN)
        if poller.poll(seconds * 1000):
            os.read(reader, 4096)


def sweep_every(lease: float) -> float:
    """Seconds between the sweeps of a process."""
    return max(_SHORTEST_SWEEP, min(_LONGEST_SWEEP, lease / 4))


def _original(module: str, name: str) -> Any:
    """A function as it was before gevent replaced it: the keeper must run beside the loop, not in it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(importlib.import_module(module), name)


keeper = LeaseKeeper()
_forks.register(after_in_child=keeper.after_fork_in_child)
