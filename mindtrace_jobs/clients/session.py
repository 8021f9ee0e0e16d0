"""Connections, kept for reuse and safe for threads and forks.

A Kombu connection belongs to one thread at a time. A session is one connection with one channel; the pool lends each to
one caller and opens another when none is idle. After a fork the child drops what it inherited without a word to the
broker, since a protocol close, or a shutdown of the shared socket, would end the parent's connection too.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from mindtrace_jobs.clients.fork_locks import hold_over_forks
from mindtrace_jobs.errors import ClosedError
from mindtrace_jobs.transports.packed import keep_packed


class Session:
    """One connection, one channel, for one thread at a time.

    Args:
        connection: The connection, not opened yet.
        connect_timeout: Seconds until an unreachable broker is an error.
        max_decompressed_bytes: Most bytes that a compressed body may have when it is decompressed; None: any number.
    """

    def __init__(self, connection: Any, connect_timeout: float, max_decompressed_bytes: int | None) -> None:
        self.connection = connection
        self.used = False
        hold_over_forks(type(connection))
        connection.ensure_connection(
            max_retries=max(1, len(connection.alt)),
            interval_start=0,
            interval_step=0.1,
            timeout=connect_timeout,
            reraise_as_library_errors=False,
        )
        self.channel: Any = connection.default_channel
        keep_packed(self.channel, max_decompressed_bytes)
        hold_over_forks(type(self.channel))
        #: What a client keeps with this channel, such as its publisher confirms.
        self.extra: Any = None

    def close(self) -> None:
        """End the connection; what it still holds unacknowledged goes back to the broker."""
        with suppress(Exception):  # it is gone either way
            self.connection.release()

    def drop(self) -> None:
        """Close the descriptor and say nothing: in a forked child, or when nobody answers."""
        driver = getattr(self.connection, "_connection", None)
        # py-amqp's, as far as there is one: its property would connect. Kombu's virtual transports have none.
        transport = getattr(driver, "_transport", None)
        sock = getattr(transport, "sock", None)
        if sock is not None and transport is not None:
            transport.sock = None
            os.close(sock.detach())


class Pool:
    """Sessions to one broker, lent to one thread each.

    Args:
        template: The connection every session is a clone of.
        connect_timeout, max_decompressed_bytes: As Session's.
        idle_limit: Sessions kept open when nobody uses them.
    """

    def __init__(
        self, template: Any, connect_timeout: float, max_decompressed_bytes: int | None, idle_limit: int = 8
    ) -> None:
        self._template = template
        self._connect_timeout = connect_timeout
        self._max_decompressed_bytes = max_decompressed_bytes
        self._idle_limit = idle_limit
        self._idle: deque[Session] = deque()
        self._lent: WeakSet[Session] = WeakSet()
        self._lock = threading.Lock()
        self.closed = False

    def acquire(self) -> Session:
        """A session nobody else uses; raises what the driver raises when no broker answers."""
        with self._lock:
            if self.closed:
                raise ClosedError("this client is closed; make a new one")
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = self.connect()
        with self._lock:
            self._lent.add(session)
        return session

    def connect(self) -> Session:
        """A new session that never goes back to the pool by itself."""
        if self.closed:
            raise ClosedError("this client is closed; make a new one")
        return Session(self._template.clone(), self._connect_timeout, self._max_decompressed_bytes)

    def release(self, session: Session) -> None:
        """Give a healthy session back."""
        session.used = True
        with self._lock:
            self._lent.discard(session)
            if not self.closed and len(self._idle) < self._idle_limit:
                self._idle.append(session)
                return
        session.close()

    def discard(self, session: Session, *, lost: bool = False) -> None:
        """Close a session that may be broken; ``lost``: nobody answers on it, so say no goodbye that waits for one."""
        with self._lock:
            self._lent.discard(session)
        if lost:
            session.drop()
        session.close()

    def close_idle(self) -> None:
        """Close what nobody uses: after one broken connection the others are likely to be broken too."""
        with self._lock:
            idle, self._idle = list(self._idle), deque()
        for session in idle:
            session.close()

    def close(self) -> None:
        """Close every idle session, and each lent one when it comes back."""
        self.closed = True
        self.close_idle()

    def after_fork_in_child(self) -> None:
        """Start empty; the parent's locks may be held by threads that do not exist here."""
        inherited = [*self._idle, *self._lent]
        self._idle, self._lent, self._lock = deque(), WeakSet(), threading.Lock()
        for session in inherited:
            session.drop()
        # Never collected, so that no destructor of a driver speaks on the parent's connections.
        _INHERITED.extend(inherited)


_INHERITED: list[Session] = []
