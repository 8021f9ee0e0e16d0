"""Copies of held messages, such as retries and dead letters, on a RabbitMQ that may take no messages for a while.

While its memory or disk runs out RabbitMQ reads nothing more from a connection that publishes. What was sent by then is
published when that is over, whether its connection was closed or not. So a copy without a confirm must not be sent again,
and until its confirm is there no other is sent. See https://www.rabbitmq.com/docs/connection-blocked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

from mindtrace_jobs.clients.confirms import Confirms
from mindtrace_jobs.clients.session import Session
from mindtrace_jobs.errors import BrokerError, BrokerUnavailableError, UnconfirmedError

T = TypeVar("T")

#: Seconds to wait for the confirm of a copy before its job waits aside.
_TIMEOUT = 2.0
#: Seconds without a confirm from which on another connection is asked whether the broker takes messages.
_ASK_AFTER = 10.0

#: For each key that the broker did not take: what it said, and whether no queue was there to take it.
Refused = dict[str, tuple[str, bool]]


class Publishing(Protocol):
    """The part of a client that publishes with confirms."""

    @property
    def mapped(self) -> AbstractContextManager[None]:
        """A block in which driver errors become errors of this package."""

    def run(self, work: Callable[[Session], T], *, keep: bool = False) -> T:
        """Call a function with a session, which stays the caller's if it is to ``keep`` it."""

    def release(self, session: Session) -> None:
        """Give a healthy session back."""

    def discard(self, session: Session) -> None:
        """Close a session that may be broken."""

    def confirms(self, session: Session) -> Confirms:
        """The confirms of a session."""


class Copies:
    """The copies that one client publishes, of which at most one is without a confirm. Safe for threads.

    Args:
        client: What publishes.
    """

    def __init__(self, client: Publishing) -> None:
        self._client = client
        self.forget()

    def forget(self) -> None:
        """In a forked child: what is on its way is the parent's."""
        self._lock = threading.Lock()
        #: The original of the copy that has no confirm, its session, and since when.
        self._waiting: tuple[Any, Session, float] | None = None
        #: What became of copies whose confirm came late, by their originals.
        self._late: WeakKeyDictionary[Any, Refused] = WeakKeyDictionary()

    def close(self) -> None:
        """Wait for no confirm any more."""
        with self._lock:
            if self._waiting is not None:
                self._client.discard(self._waiting[1])
                self._waiting = None

    def publish(self, original: Any, send: Callable[[Session, float], Refused]) -> Refused:
        """Publish a copy, unless that is there by now.

        Args:
            original: What it is a copy of, compared by identity.
            send: Publishes with a session, and waits so many seconds for the confirm.

        Raises:
            UnconfirmedError: no confirm yet. Calling again learns of it.
            BrokerUnavailableError: an earlier copy has no confirm yet, so that this one was not sent; or no broker answers.
        """
        with self._lock:
            if self._waiting is not None:
                self._look(*self._waiting)
            late = self._late.pop(original, None)
            if late is not None and not any(unroutable for _, unroutable in late.values()):
                return late

            def work(session: Session) -> tuple[Session, Refused | UnconfirmedError]:
                try:
                    return session, send(session, _TIMEOUT)
                except UnconfirmedError as error:
                    return session, error

            session, answer = self._client.run(work, keep=True)
            if isinstance(answer, UnconfirmedError):
                self._waiting = original, session, time.monotonic()
                raise answer
            self._client.release(session)
            return answer

    def _look(self, original: Any, session: Session, since: float) -> None:
        """Look whether the confirm that is missing has come."""
        try:
            with self._client.mapped:
                refused = self._client.confirms(session).wait(0.0)
        except UnconfirmedError:
            if time.monotonic() - since < _ASK_AFTER or not self._takes_messages():
                raise BrokerUnavailableError(
                    "the broker takes no messages now, as one that was published before is not confirmed yet: memory or "
                    "disk may have run out (see its log)"
                ) from None
            # Its connection must be lost, and nobody has said so.
        except BrokerError:
            pass  # lost with its connection: nobody knows whether it is there
        else:
            self._late[original] = refused
            self._client.release(session)
            self._waiting = None
            return
        self._client.discard(session)
        self._waiting = None

    def _takes_messages(self) -> bool:
        """Ask over another connection, with a message that the broker drops as no queue is there for it."""

        def work(session: Session) -> None:
            confirms = self._client.confirms(session)
            confirms.expect("")
            message = session.channel.prepare_message(b"")
            session.channel.basic_publish(message, exchange="", routing_key=f"mindtrace.nowhere.{uuid4().hex}")
            confirms.wait(_TIMEOUT)

        try:
            self._client.run(work)
        except UnconfirmedError:
            return False
        return True
