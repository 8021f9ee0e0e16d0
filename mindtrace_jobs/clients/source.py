"""The stream of deliveries that a consumer reads."""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from mindtrace_jobs.clients.delivery import Delivery
from mindtrace_jobs.clients.kombu_api import Consumer, Queue
from mindtrace_jobs.clients.session import ENDING_TIMEOUT, Session
from mindtrace_jobs.errors import BrokerError, BrokerUnavailableError, ClosedError
from mindtrace_jobs.transports.contract import JobsChannel

log = logging.getLogger("mindtrace_jobs.clients")

#: Longest time in seconds until a wait notices that another thread has closed its client.
POLL_INTERVAL = 0.25


class Broker(Protocol):
    """The part of a client that a stream needs."""

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""

    def connect(self) -> Session:
        """A session of one's own."""

    def require(self, session: Session, queue: str) -> None:
        """Raise QueueNotFoundError unless the queue exists."""

    @property
    def mapped(self) -> AbstractContextManager[None]:
        """A block in which driver errors become errors of this package."""

    def delivery(self, session: Session, raw: Any, queue: str) -> Delivery:
        """The delivery of a message that came to a consumer."""


class Source:
    """The stream of deliveries from some queues, over a connection of its own.

    Made by ``Client.consume``. Belongs to one thread. A lost connection is made again by ``next``; what had been
    delivered over the old one comes again.
    """

    def __init__(self, client: Broker, queues: Sequence[str], prefetch: int) -> None:
        self._client = client
        self._queues = list(queues)
        self._prefetch = prefetch
        self._session: Session | None = None
        self._consumer: Any = None
        self._ready: deque[Delivery] = deque()
        #: Deliveries that stay unsettled, and are made up for.
        self._aside = 0
        #: When the broker last said something.
        self._heard = time.monotonic()
        #: Whether the last thing that happened was an error.
        self._failed = False
        self._closed = False
        self._open()

    def put_back(self, delivery: Delivery) -> None:
        """Have a delivery that ``next`` returned be the next one again: nothing could be done with it yet."""
        self._ready.appendleft(delivery)

    def set_aside(self) -> Callable[[], None]:
        """A delivery stays unsettled: have another delivered in its place. Returns what to call when it is settled.

        Raises:
            BrokerError: the broker did not take that.
        """
        session = self._session
        if session is None:
            return lambda: None
        self._aside += 1
        if isinstance(session.channel, JobsChannel):
            self._set_prefetch()
        elif self._aside % self._prefetch == 0:
            # RabbitMQ counts for each consumer by itself what it has not acknowledged, and a new one begins at 0.
            with self._client.mapped:
                self._consumer.cancel()
                self._consumer = consume(session, self._queues, self._prefetch, self._receive)

        def settled() -> None:
            if session is not self._session:
                return  # this one began to count anew
            self._aside -= 1
            if isinstance(session.channel, JobsChannel):
                self._set_prefetch()

        return settled

    @property
    def _silent(self) -> bool:
        """Whether the broker has said nothing for as long as it may take for an answer."""
        assert self._session is not None
        patience = self._session.answer_timeout
        return patience is not None and time.monotonic() - self._heard >= patience

    def _set_prefetch(self) -> None:
        assert self._session is not None
        with self._client.mapped:
            self._session.channel.basic_qos(0, self._prefetch + self._aside, False)

    def _open(self) -> None:
        self._aside, self._heard = 0, time.monotonic()
        with self._client.mapped:
            session = self._session = self._client.connect()
            try:
                for queue in self._queues:
                    self._client.require(session, queue)
                self._consumer = consume(session, self._queues, self._prefetch, self._receive)
            except BaseException:
                self._session = None
                session.close()
                raise

    def _receive(self, raw: Any, queue: str) -> None:
        assert self._session is not None
        self._ready.append(self._client.delivery(self._session, raw, queue))

    def next(self, timeout: float | None = None) -> Delivery | None:
        """The next delivery, or None when ``timeout`` seconds passed without one (None: wait for ever).

        Raises:
            BrokerUnavailableError: the connection was lost and no broker answers within the connect timeout. Calling
                again tries again.
            BrokerError: the broker answers with an error, and did so before on an earlier connection. Calling again
                tries again.
            ClosedError: the source is closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            if self._closed or self._client.closed:
                raise ClosedError("this source, or its client, is closed")
            left = POLL_INTERVAL if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._drain(min(left, POLL_INTERVAL)) and deadline is not None and left <= POLL_INTERVAL:
                return None
        return self._ready.popleft()

    def read_sent(self) -> None:
        """Read what the broker has sent already: on a channel its answer to a question comes behind that.

        Raises:
            BrokerUnavailableError: the connection is lost, or the broker does not answer.
        """
        if self._session is not None:
            with self._client.mapped:
                self._session.channel.basic_qos(0, self._prefetch, False)
            self._heard = time.monotonic()

    @property
    def buffered(self) -> int:
        """How many deliveries wait in this process."""
        return len(self._ready)

    def _drain(self, timeout: float) -> bool:
        """Wait for something to arrive; False when nothing did in time."""
        if self._session is None:
            self._open()
        assert self._session is not None
        try:
            with self._client.mapped:
                arrived = drain(self._session, timeout)
            if arrived:
                self._heard = time.monotonic()
            elif self._silent:
                # Nothing need come from an idle broker, nor from one that is frozen: only an answer tells.
                self.read_sent()
        except BrokerError as error:
            # A channel closed by the broker is lost like a connection. What was buffered goes back by itself; the next
            # round makes a new connection.
            log.warning("consuming is interrupted: %s", error, extra={"action": "reconnect"})
            self._ready.clear()
            if isinstance(error, BrokerUnavailableError):
                self._session.drop()
            self._session.close()
            self._session = None
            if self._failed:
                raise  # a new connection is no remedy, and the caller knows how long to wait
            self._failed = True
            return True
        self._failed = False
        return arrived

    def close(self) -> None:
        """Stop receiving and requeue what was delivered but not handed out, in order."""
        if self._closed:
            return
        self._closed = True
        if self._session is None:
            return
        try:
            self._session.answer_within(ENDING_TIMEOUT)
            with self._client.mapped:
                self._consumer.cancel()  # more may arrive until the broker confirms it
                while self._ready:
                    self._ready.pop().requeue()
        except BrokerUnavailableError:
            self._session.drop()  # the broker takes back what a lost connection held
        finally:
            self._session.close()
            self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def drain(session: Session, timeout: float) -> bool:
    """Let the connection deliver what has arrived; False when nothing did within ``timeout`` seconds.

    Raises:
        ConnectionError: the connection was lost before.
    """
    if session.lost:
        raise ConnectionResetError(errno.ECONNRESET, "the connection was lost")
    try:
        # Some drivers take 0 for "no timeout".
        session.connection.drain_events(timeout=max(timeout, 0.001))
    except TimeoutError as error:
        # A socket that gave up on its peer raises the same class, but with an error number.
        if error.errno is not None:
            raise
        return False
    return True


def consume(session: Session, queues: Sequence[str], prefetch: int, receive: Callable[[Any, str], None]) -> Any:
    """Start a Kombu consumer that passes each raw message and its queue to ``receive``."""
    channel = session.channel
    channel.basic_qos(0, prefetch, False)
    consumers = [
        Consumer(
            channel,
            queues=[Queue(queue, channel=channel)],
            auto_declare=False,
            on_message=lambda raw, queue=queue: receive(raw, queue),
            # Without it what cannot be unpacked would raise here, again and again, and hold up everything behind it.
            on_decode_error=lambda raw, _error, queue=queue: receive(raw, queue),
        )
        for queue in queues
    ]
    for consumer in consumers:
        consumer.consume()
    return _Consumers(consumers)


class _Consumers:
    def __init__(self, consumers: Sequence[Any]) -> None:
        self._consumers = consumers

    def cancel(self) -> None:
        for consumer in self._consumers:
            consumer.cancel()
