"""Waiting for messages without receiving any and without asking again and again.

The claim is sent over a connection with server-assisted client-side caching on (``CLIENT TRACKING``). A claim that finds
less than it wanted has read the keys of its queues, so the server tells this connection when one of them changes,
whoever changes it: a publisher of this package, a stock one, a restore. In between nothing is sent but a claim every few
seconds, in case the server or something on the way lost the thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from mindtrace_jobs.transports.redis.store import Claim, Store
from mindtrace_jobs.transports.redis.wire import NOT_NOW, Posted, Wire

logger = logging.getLogger(__name__)

#: Seconds between claims of an idle consumer that the server wakes up.
SAFETY_POLL = 5.0
#: The same when the server refuses to.
POLL = 0.1
#: Seconds after which a claim is tried again that a server refused which will serve again.
_FIRST_PAUSE = 0.5


class Waiter:
    """A consumer's claims and its sleep between them. Belongs to one thread.

    Args:
        store: Where to claim.
        make: Makes a redis-py connection for a version of the protocol, not yet connected.
        safety_poll: Seconds between claims while nothing happens.
        tracking: Ask the server to wake it; else it claims every 100 ms.
    """

    def __init__(
        self, store: Store, make: Callable[[int], Any], safety_poll: float = SAFETY_POLL, *, tracking: bool = True
    ) -> None:
        self._store = store
        self._make = make
        self._safety_poll = safety_poll
        self._tracking = tracking
        self._protocol = 3 if tracking else 2
        self._armed = False
        self._told = False
        self._again_at = 0.0
        #: When a server that refused is asked again, whatever happens before.
        self._not_before = 0.0
        self._pause = _FIRST_PAUSE
        self.wire = Wire(lambda: make(self._protocol), self._connected, self._read)

    @property
    def connection(self) -> Any:
        """redis-py's connection, connected; its socket becomes readable when there is something to claim."""
        try:
            return self.wire.connect()
        except ResponseError:
            if self._protocol == 2:
                raise
            # No RESP3: the server is too old for tracking on one connection, or the user may not HELLO.
            self._protocol, self._tracking = 2, False
            return self.wire.connect()

    def claim(
        self,
        queues: Sequence[tuple[str, bool]],
        wanted: int,
        share: int,
        first: Callable[[], Posted | None] = lambda: None,
    ) -> Claim:
        """Take what is there, see ``Store.claim``; what comes later will wake this waiter if less was there.

        Args:
            queues, wanted, share: As there.
            first: Returns what is sent along, and done before.
        """
        try:
            if not self.wire.connected:
                self.connection  # noqa: B018 - connects, by another protocol if it has to
            claim = self._store.claim(queues, wanted, share, self.wire, first())
        except NOT_NOW as error:
            return self._refused(error)
        self._pause = _FIRST_PAUSE
        # What was said before the reply was about an earlier claim.
        self._told = False
        self.wake()
        self._armed = claim.short and not self._told
        pause = self._safety_poll if self._tracking else POLL
        # A little later than due, so as not to come too early by a rounding.
        self._again_at = time.monotonic() + min(pause, pause if claim.due is None else claim.due + 0.001)
        return claim

    def _refused(self, error: Exception) -> Claim:
        """Nothing can be taken now; it is tried again with growing pauses. Nobody else can take anything either."""
        logger.warning("nothing can be received, tried again in %.1f s: %s", self._pause, error)
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, self._safety_poll)
        return Claim([], True, None)

    def wake(self) -> None:
        """Read what made the socket readable."""
        if self.wire.connection is not None:
            self._read(self.wire.connection)

    def disarm(self) -> None:
        """Wait no longer: a claim is worthwhile now."""
        self._armed = False

    @property
    def left(self) -> float:
        """Seconds until the next claim, if nothing happens before; 0 if one is worthwhile now."""
        at = max(self._not_before, self._again_at) if self._armed else self._not_before
        return max(0.0, at - time.monotonic())

    def close(self) -> None:
        """Close the connection."""
        self._armed = False
        self.wire.close()

    def drop(self) -> None:
        """In a forked child: forget the connection without a word to the server."""
        self._armed = False
        self.wire.drop()

    # --- details

    def _connected(self, connection: Any) -> None:
        self._armed = False
        if not self._tracking:
            return
        connection._parser.set_invalidation_push_handler(self._invalidated)
        try:
            connection.send_command("CLIENT", "TRACKING", "ON", "NOLOOP")
            connection.read_response()
        except ResponseError as error:
            self._tracking = False
            logger.warning("the server refuses CLIENT TRACKING (%s): polling every %d ms", error, POLL * 1000)

    def _invalidated(self, response: Any) -> Any:
        self._told = True
        self._armed = False
        return response

    def _read(self, connection: Any) -> None:
        try:
            while connection._sock is not None and connection.can_read(timeout=0):
                connection.read_response(push_request=True, disable_decoding=True)
        except (RedisConnectionError, OSError):
            self._armed = False
            connection.disconnect()
            raise
