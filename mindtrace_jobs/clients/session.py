"""Connections, kept for reuse and safe for threads and forks.

A Kombu connection belongs to one thread at a time. A session is one connection with one channel; the pool lends each to
one caller and opens another when none is idle. After a fork the child drops what it inherited without a word to the
broker, since a protocol close, or a shutdown of the shared socket, would end the parent's connection too.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from amqp import Connection as AmqpConnection
from kombu.transport.virtual import Transport as VirtualTransport

from mindtrace_jobs.clients.fork_locks import hold_over_forks
from mindtrace_jobs.errors import ClosedError
from mindtrace_jobs.transports.contract import JobsChannel
from mindtrace_jobs.transports.packed import keep_packed

#: Seconds for each answer of a broker whose connection is about to be closed, and for its part in closing it.
ENDING_TIMEOUT, GOODBYE_TIMEOUT = 4.0, 2.0


class Session:
    """One connection, one channel, for one thread at a time.

    Args:
        connection: The connection, not opened yet.
        connect_timeout: Seconds until an unreachable broker is an error.
        max_decompressed_bytes: Most bytes that a compressed body may have when it is decompressed; None: any number.
        answer_timeout: Seconds until a broker that does not answer counts as lost; None: as the transport has it.
    """

    def __init__(
        self,
        connection: Any,
        connect_timeout: float,
        max_decompressed_bytes: int | None,
        answer_timeout: float | None = None,
    ) -> None:
        self.connection = connection
        self.answer_timeout = answer_timeout
        self.used = False
        hold_over_forks(type(connection))
        connection.ensure_connection(
            max_retries=max(1, len(connection.alt)),
            interval_start=0,
            interval_step=0.1,
            timeout=connect_timeout,
            reraise_as_library_errors=False,
        )
        if answer_timeout is not None:
            answer_within(connection, answer_timeout)
        self.channel: Any = connection.default_channel
        keep_packed(self.channel, max_decompressed_bytes)
        hold_over_forks(type(self.channel))
        #: What a client keeps with this channel, such as its publisher confirms.
        self.extra: Any = None

    @property
    def lost(self) -> bool:
        """Whether the driver has noticed that the connection is gone, while something was written to it, say.

        Kombu makes another one then when it is asked to read, silently, with none of this one's consumers.
        """
        driver = self.connection._connection
        return isinstance(driver, AmqpConnection) and not driver.connected

    def answer_within(self, seconds: float) -> None:
        """From now on take the broker for lost if it does not answer so soon."""
        answer_within(self.connection, seconds)

    def close(self) -> None:
        """End the connection; what it still holds unacknowledged goes back to the broker.

        One that does not answer is waited for ``GOODBYE_TIMEOUT`` seconds.
        """
        with suppress(Exception):  # it is gone either way
            self.answer_within(GOODBYE_TIMEOUT)
            self.connection.release()

    def drop(self) -> None:
        """Close the descriptor and say nothing: in a forked child, or when nobody answers."""
        transport = _amqp_transport(self.connection)
        if transport is not None and transport.sock is not None:
            sock, transport.sock = transport.sock, None
            os.close(sock.detach())


def answer_within(connection: Any, seconds: float) -> None:
    """Have a connection that is open take its broker for lost if that does not answer so soon.

    AMQP's methods wait without limit for their answers, and so for ever for a broker that is frozen.

    Args:
        connection: Kombu's.
        seconds: For each answer.
    """
    amqp_transport, transport = _amqp_transport(connection), connection.transport
    if amqp_transport is not None and amqp_transport.sock is not None:
        amqp_transport.sock.settimeout(seconds)
    elif isinstance(transport, VirtualTransport):
        for channel in transport.channels:
            if isinstance(channel, JobsChannel):  # a stock transport has others
                channel.answer_within(seconds)


def _amqp_transport(connection: Any) -> Any:
    """py-amqp's transport, if there is one already: the public properties would connect."""
    driver = connection._connection
    return driver._transport if isinstance(driver, AmqpConnection) else None


class Pool:
    """Sessions to one broker, lent to one thread each.

    Args:
        template: The connection every session is a clone of.
        connect_timeout, max_decompressed_bytes, answer_timeout: As Session's.
        idle_limit: Sessions kept open when nobody uses them.
    """

    def __init__(
        self,
        template: Any,
        connect_timeout: float,
        max_decompressed_bytes: int | None,
        answer_timeout: float | None = None,
        idle_limit: int = 8,
    ) -> None:
        self._template = template
        self._connect_timeout = connect_timeout
        self._max_decompressed_bytes = max_decompressed_bytes
        self._answer_timeout = answer_timeout
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
        return Session(
            self._template.clone(), self._connect_timeout, self._max_decompressed_bytes, self._answer_timeout
        )

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
        lost = False
        for session in idle:
            if lost:
                session.drop()
            start = time.monotonic()
            session.close()
            # Where one was waited for in vain, the others would be.
            lost = lost or time.monotonic() - start >= GOODBYE_TIMEOUT

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
