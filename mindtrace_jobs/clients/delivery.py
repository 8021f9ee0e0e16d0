"""A message taken from a queue, and the stream of them a consumer reads."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from mindtrace_jobs.clients.kombu_api import Consumer, Queue
from mindtrace_jobs.clients.types import is_dead_letter_queue
from mindtrace_jobs.errors import BrokerError, BrokerUnavailableError, ClosedError, LeaseLostError
from mindtrace_jobs.logs import message_fields
from mindtrace_jobs.message import ATTEMPTS, Message
from mindtrace_jobs.transports.protocol import Record

if TYPE_CHECKING:
    from types import TracebackType

    from mindtrace_jobs.clients.base import Client
    from mindtrace_jobs.clients.session import Session

log = logging.getLogger("mindtrace_jobs.clients")

#: How often RabbitMQ's quorum queues, and this package's transports, delivered a message before.
DELIVERY_COUNT = "x-delivery-count"
_DELIVERY_HEADERS = {"redelivered", DELIVERY_COUNT}
#: Names how a producer packed the body. Kombu has unpacked it by now, or noted in ``errors`` that it could not.
_COMPRESSION = "compression"
#: Longest time in seconds until a wait notices that another thread has closed its client.
GLANCE = 0.25
#: AMQP 0-9-1 basic properties that belong to the message.
_PROPERTIES = {"correlation_id", "reply_to", "priority", "message_id", "timestamp", "type", "app_id"}


class Delivery:
    """One message, taken and not yet settled. Settle it exactly once: ``acknowledge`` or ``requeue``.

    Belongs to the thread that took it. Closing what it was taken from puts it back on its queue.
    """

    def __init__(
        self, client: Client, session: Session, raw: Any, queue: str, settled: Callable[[], None] | None = None
    ) -> None:
        self._client = client
        self._session = session
        self._raw = raw
        self._on_settled = settled
        #: Whether it was acknowledged or put back.
        self.settled = False
        #: Whether a copy waits in its place, so that settling it did not end the job.
        self.postponed = False
        self.queue = queue
        self.message = message_of(raw)

    @property
    def redelivered(self) -> bool:
        """Whether somebody took it before and gave it back or vanished."""
        info = self._raw.delivery_info or {}
        return bool(info.get("redelivered") or self._raw.headers.get("redelivered"))

    @property
    def counted(self) -> bool:
        """Whether the broker itself counts, on this queue, how often the message came back."""
        return self._client.counts_attempts or DELIVERY_COUNT in self._raw.headers

    @property
    def attempts(self) -> int:
        """How often work on it began and its worker vanished, as far as the broker counts."""
        attempts = _count(self._raw.headers.get(ATTEMPTS))
        return (
            attempts if self._client.counts_attempts else max(attempts, _count(self._raw.headers.get(DELIVERY_COUNT)))
        )

    @property
    def log_fields(self) -> dict[str, Any]:
        """``extra`` of log records about it."""
        return message_fields(self.message.headers, self.queue, self.attempts)

    @property
    def dead(self) -> bool:
        """Whether it was taken from a dead-letter queue."""
        return is_dead_letter_queue(self.queue)

    @property
    def lost(self) -> bool:
        """Whether its lease is known to have run out: the broker gave, or will give, the message to somebody else."""
        return self._raw.delivery_tag in getattr(self._session.channel, "lost_deliveries", ())

    def confirm(self) -> None:
        """Make sure that the message is still this process's, before anything is decided about it.

        Costs a question to the broker only if the lease may have run out, as after a pause of this process.

        Raises:
            LeaseLostError: it is not: it is run again elsewhere.
            BrokerUnavailableError: it cannot be known.
        """
        holds = getattr(self._session.channel, "holds", None)
        if holds is not None:
            with self._client.mapped():
                held = holds(self._raw.delivery_tag)
            if not held:
                raise LeaseLostError(
                    f"the lease of a job from {self.queue!r} ran out, so it is run again elsewhere: was this process "
                    "paused, or cut off from the broker?"
                )

    def mark_started(self) -> None:
        """Record that work on it begins now, so that it is known should this process vanish.

        Raises:
            BrokerUnavailableError: the connection is lost; the broker will hand the message to somebody else.
        """
        mark = getattr(self._session.channel, "mark_started", None)
        if mark is not None:
            with self._client.mapped():
                mark(self._raw.delivery_tag)

    def begin(self, record: Record) -> bool:
        """As ``mark_started``, and keep the job's record in the same step; only where ``client.keeps_records``.

        Returns:
            False if the record that is there says that the job was cancelled; nothing is changed then.
        """
        with self._client.mapped():
            return bool(self._session.channel.begin(self._raw.delivery_tag, record))

    def acknowledge(self, record: Record | None = None, *, at_once: bool = False) -> None:
        """The work is done: remove it from the broker.

        Args:
            record: Of its job, kept in the same step unless the lease had run out; only where ``client.keeps_records``.
            at_once: It was taken a moment ago, so that there is no need to wait for whether the lease had run out.

        Raises:
            LeaseLostError: its lease had run out; what somebody else holds now is left alone.
            BrokerUnavailableError: the connection is lost; the broker will deliver the message again.
        """
        # In a stream the broker's word is not waited for: the next command brings it.
        name = "acknowledge_soon" if self._on_settled is None or at_once else "acknowledge"
        acknowledge = getattr(self._session.channel, name, None)
        self._settle(self._raw.ack if acknowledge is None else partial(acknowledge, self._raw.delivery_tag, record))
        if self.lost:
            raise LeaseLostError(
                f"the lease of a job from {self.queue!r} ran out before it was acknowledged, so it is run again "
                "elsewhere: was this process paused, or cut off from the broker?"
            )

    def requeue(self) -> None:
        """Put it back at the front of its queue. Raises as ``acknowledge`` does."""
        self._settle(self._raw.requeue)

    def _settle(self, how: Callable[[], None]) -> None:
        try:
            with self._client.mapped():
                how()
        except BaseException:
            # Nobody works on it any more, so nobody may hold it.
            let_go = getattr(self._session.channel, "let_go", None)
            if let_go is not None:
                let_go(self._raw.delivery_tag)
            raise
        finally:
            self.settled = True
            if self._on_settled is not None:
                self._on_settled()


class Source:
    """The stream of deliveries from some queues, over a connection of its own.

    Made by ``Client.consume``. Belongs to one thread. A lost connection is made again by ``next``; what had been
    delivered over the old one comes again.
    """

    def __init__(self, client: Client, queues: Sequence[str], prefetch: int) -> None:
        self._client = client
        self._queues = list(queues)
        self._prefetch = prefetch
        self._session: Session | None = None
        self._consumer: Any = None
        self._ready: deque[Delivery] = deque()
        #: Whether the last thing that happened was an error.
        self._failed = False
        self._closed = False
        self._open()

    def _open(self) -> None:
        with self._client.mapped():
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
        self._ready.append(Delivery(self._client, self._session, raw, queue))

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
            left = GLANCE if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._drain(min(left, GLANCE)) and deadline is not None and left <= GLANCE:
                return None
        return self._ready.popleft()

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
            with self._client.mapped():
                arrived = drain(self._session, timeout)
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
        """Stop taking and give back what was delivered but not handed out, in order."""
        if self._closed:
            return
        self._closed = True
        if self._session is None:
            return
        try:
            with self._client.mapped():
                self._consumer.cancel()  # more may arrive until the broker confirms it
                while self._ready:
                    self._ready.pop().requeue()
        except BrokerUnavailableError:
            pass  # the broker takes back what a lost connection held
        finally:
            self._session.close()
            self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def message_of(raw: Any) -> Message:
    """What Kombu delivered, without what belongs to this one delivery: publishing it again makes an equal message."""
    body = raw.body.encode("utf-8", "surrogatepass") if isinstance(raw.body, str) else bytes(raw.body or b"")
    gone = _DELIVERY_HEADERS if raw.errors else _DELIVERY_HEADERS | {_COMPRESSION}
    headers = {name: value for name, value in raw.headers.items() if name not in gone}
    properties = {name: value for name, value in raw.properties.items() if name in _PROPERTIES and value is not None}
    return Message(body, headers, raw.content_type, raw.content_encoding, properties)


def drain(session: Session, timeout: float) -> bool:
    """Let the connection deliver what has arrived; False when nothing did within ``timeout`` seconds."""
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
