"""Client: a broker in a handful of verbs. All that differs between brokers is in its subclasses."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self, TypeVar
from weakref import WeakSet

from mindtrace_jobs import _forks
from mindtrace_jobs._arguments import check_count, check_seconds, check_timeout
from mindtrace_jobs._callers import caller_level
from mindtrace_jobs.clients.delivery import Delivery
from mindtrace_jobs.clients.errors import ErrorMapping
from mindtrace_jobs.clients.kombu_messages import prepared
from mindtrace_jobs.clients.names import check_exchange, check_queue, check_routing_key
from mindtrace_jobs.clients.redaction import Redactor
from mindtrace_jobs.clients.session import Pool, Session
from mindtrace_jobs.clients.source import POLL_INTERVAL, Source, consume, drain
from mindtrace_jobs.clients.types import (
    Capability,
    ExchangeType,
    QueueInfo,
    QueueType,
    dead_letter_queue,
    is_dead_letter_queue,
)
from mindtrace_jobs.errors import (
    BrokerUnavailableError,
    ClosedError,
    ConfigurationError,
    JobsError,
    QueueNotFoundError,
    UnconfirmedError,
    UnsupportedError,
)
from mindtrace_jobs.jobs import BackendType
from mindtrace_jobs.transports.contract import EXCHANGE_ARGUMENT, PLAIN, QUEUE_TYPE_ARGUMENT, Record
from mindtrace_jobs.wire.message import Message
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED

T = TypeVar("T")

#: Seconds until an unreachable broker is an error.
CONNECT_TIMEOUT = 5.0
#: AMQP 0-9-1 has 16 bits for it.
LARGEST_PREFETCH = 65_535


class Client(ABC):
    """One broker, spoken to through Kombu. Safe for threads and forks; constructing it connects to nothing.

    Args:
        connection: The Kombu connection to clone for each session. It is never opened itself.
        url: The broker's URL, for messages, where its secrets are left out.
        connect_timeout: Seconds until an unreachable broker raises BrokerUnavailableError.
        answer_timeout: Seconds until one that does not answer does; None: as its transport has it.
        result_backend: URL of the Celery result backend for status and results; None for the client's own default.
        max_decompressed_bytes: Most bytes that a compressed body may have when it is decompressed, beyond which the job is
            dead-lettered; None: any number. Default 64 MiB.
    """

    backend: ClassVar[BackendType]
    capabilities: ClassVar[frozenset[Capability]]

    def __init__(
        self,
        connection: Any,
        url: str,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        answer_timeout: float | None = None,
        result_backend: str | None = None,
        max_decompressed_bytes: int | None = MAX_DECOMPRESSED,
    ) -> None:
        for name, seconds in (("connect_timeout", connect_timeout), ("socket_timeout", answer_timeout)):
            check_timeout(name, seconds)
        if max_decompressed_bytes is not None and max_decompressed_bytes <= 0:
            raise ConfigurationError(
                f"max_decompressed_bytes is {max_decompressed_bytes}; it must be a positive number, or None for no limit"
            )
        self.max_decompressed_bytes = max_decompressed_bytes
        self.connection = connection
        #: Removes the secrets of the URL and the options from texts.
        self.redactor = Redactor(url, connection.ssl, connection.transport_options)
        self.result_backend = result_backend
        self._pool = Pool(connection, connect_timeout, max_decompressed_bytes, answer_timeout)
        #: A block in which what the driver raises comes out as an error of this package.
        self.mapped = ErrorMapping(self.redactor, lambda: self.connection.transport.connection_errors)
        self._known_types: dict[str, QueueType] = {}
        self._warned: set[str] = set()
        _clients.add(self)

    @classmethod
    @abstractmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """A client for a broker URL; ``options`` are the constructor's other arguments."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r})"

    @property
    def where(self) -> str:
        """The broker's URL without its secrets."""
        return self.redactor.shown

    @property
    def result_options(self) -> dict[str, Any]:
        """Celery settings that the client's own result backend needs."""
        return {}

    @property
    def keeps_records(self) -> bool:
        """Whether the records of jobs are kept on the broker's own server, so that one step can do both."""
        return False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._pool.closed

    # --- queues

    def declare_queue(self, queue: str, queue_type: QueueType = QueueType.FIFO) -> None:
        """Make a queue if it does not exist. One that exists is used as it is, with a warning if its type differs.

        On Redis and in memory a queue without a type, as a Celery worker makes it, becomes a priority queue if asked to.

        Raises:
            UnsupportedError: the broker has no such type of queue.
        """
        self._check_queue(queue)
        self._check_type(queue_type)
        self.run(lambda session: self._declare(session, queue, queue_type))

    def delete_queue(self, queue: str) -> None:
        """Remove a queue with its jobs. What workers hold of it does not come back.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        self._check_queue(queue)
        self.run(lambda session: self._delete(session, queue))
        self._known_types.pop(queue, None)

    def purge(self, queue: str) -> int:
        """Remove the jobs that wait in a queue, those that are not due yet included; returns how many.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        self._check_queue(queue)

        def work(session: Session) -> int:
            self.require(session, queue)
            return self._purge(session, queue)

        return self.run(work)

    def count(self, queue: str) -> int:
        """How many jobs are ready to be received.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        self._check_queue(queue)
        return self.run(lambda session: self._info(session, queue).ready)

    def info(self, queue: str) -> QueueInfo:
        """Counts and type of a queue.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        self._check_queue(queue)

        def work(session: Session) -> QueueInfo:
            info = self._info(session, queue)
            try:
                dead = self._info(session, dead_letter_queue(queue)).ready
            except QueueNotFoundError:
                dead = 0
            return info.model_copy(update={"dead_lettered": dead, "type": info.type or self._known_types.get(queue)})

        return self.run(work)

    def exists(self, queue: str) -> bool:
        """Whether there is such a queue."""
        try:
            self.count(queue)
        except QueueNotFoundError:
            return False
        return True

    # --- exchanges

    def declare_exchange(self, exchange: str, exchange_type: ExchangeType = ExchangeType.DIRECT) -> None:
        """Make a durable exchange if it does not exist."""
        check_exchange(exchange)
        arguments = {EXCHANGE_ARGUMENT: True} if self.backend is not BackendType.RABBITMQ else None
        self.run(
            lambda session: session.channel.exchange_declare(
                exchange=exchange, type=str(exchange_type), durable=True, auto_delete=False, arguments=arguments
            )
        )

    def delete_exchange(self, exchange: str) -> None:
        """Remove an exchange and its bindings; the queues stay. An exchange that is not there is no error."""
        self.run(lambda session: session.channel.exchange_delete(exchange))

    def bind_queue(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Let ``exchange`` deliver to ``queue``; ``routing_key`` is a pattern for a topic exchange.

        Raises:
            QueueNotFoundError, ExchangeNotFoundError: one of them is not there.
        """
        self._check_queue(queue)
        check_exchange(exchange)
        check_routing_key(routing_key)

        def work(session: Session) -> None:
            self.require(session, queue)
            session.channel.exchange_declare(exchange=exchange, type="direct", passive=True)
            session.channel.queue_bind(queue=queue, exchange=exchange, routing_key=routing_key)

        self.run(work)

    # --- publishing

    def publish(
        self,
        message: Message,
        *,
        queue: str = "",
        exchange: str = "",
        routing_key: str = "",
        delay: float = 0.0,
        record: Record | None = None,
    ) -> None:
        """Put a message into a queue, declaring it if need be, or hand it to an exchange.

        Returns when the broker has it. A broken connection is tried once more on a new one, so that a broker that
        restarted is no error; the message may then be there twice.

        Args:
            message: What to publish.
            queue: The queue; or
            exchange, routing_key: the exchange and the key it routes by.
            delay: Seconds for which the broker keeps it from being received. Queues only.
            record: Of its job, kept by the broker in the same step; only where it ``keeps_records``. Queues only.

        Raises:
            UnroutableError: no queue is bound to the exchange under this key.
            PublishError: the broker refused the message.
        """
        if not exchange:
            self._check_queue(queue)
            self.warn_of_priority(message.properties.get("priority"), queue)
            self.run(lambda session: self._publish_to_queue(session, message, queue, delay, record))
        elif delay > 0 or record is not None:
            raise ConfigurationError("a delay, or a record, needs a queue: an exchange hands a message on at once")
        else:
            check_exchange(exchange)
            check_routing_key(routing_key)
            self.run(lambda session: self._publish(session, message, exchange, routing_key))

    def publish_copy(self, message: Message, *, queue: str, delay: float = 0.0) -> None:
        """Publish what takes the place of a message that is held; if that fails, it may be tried again.

        As ``publish``, but a broker that takes no messages for a while, being out of memory or disk, is not waited for, and
        is sent nothing, which it would publish later beside the next try.
        """
        self.publish(message, queue=queue, delay=delay)

    def publish_many(self, messages: Sequence[Message], queue: str) -> None:
        """Put many messages into one queue in as few round trips as the broker allows.

        Raises:
            PublishError: its ``failures`` maps the id of each job that was refused to the reason; the others are in
                the queue.
        """
        self._check_queue(queue)
        for message in messages:
            self.warn_of_priority(message.properties.get("priority"), queue)
        if messages:
            self.run(lambda session: self._publish_batch(session, messages, queue))

    # --- receiving

    def get(self, queue: str, timeout: float | None = None) -> Delivery | None:
        """Receive one message, or None when there is none (``timeout``: within that many seconds).

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        self._check_queue(queue)
        check_seconds("timeout", timeout)
        session, raw = self.run(lambda session: (session, self._take(session, queue, timeout or 0.0)), keep=True)
        if raw is None:
            self._pool.release(session)
            return None
        try:
            return self.delivery(session, raw, queue, partial(self._pool.release, session))
        except BaseException:
            # Interrupted by a signal handler, say: nobody knows what the broker is about to answer.
            self._pool.discard(session, lost=True)
            raise

    def consume(self, queues: Sequence[str], prefetch: int = 1) -> Source:
        """A stream of messages from some queues, at most ``prefetch`` of them unsettled at a time.

        Raises:
            QueueNotFoundError: one of the queues is not there.
        """
        if not queues:
            raise ConfigurationError("name at least one queue to consume")
        for queue in queues:
            self._check_queue(queue)
        check_count("prefetch", prefetch, LARGEST_PREFETCH)
        return Source(self, queues, prefetch)

    @abstractmethod
    def browse(self, queue: str, limit: int, offset: int = 0, *, bodies: bool = True) -> Iterator[Message]:
        """Waiting messages in the order they would be received; they stay. They are fetched as they are asked for.

        Args:
            queue: The queue.
            limit: At most how many.
            offset: How many to leave out before them.
            bodies: Fetch their bodies; without, they are only there where the broker sends them anyway.

        Raises:
            QueueNotFoundError: there is no such queue.
        """

    def close(self) -> None:
        """Close every connection. Using the client afterwards, or waiting, raises ClosedError; closing again does nothing."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- for the other classes of this package

    def connect(self) -> Session:
        """A session of one's own, outside the pool. Close it."""
        return self._pool.connect()

    @abstractmethod
    def delivery(
        self, session: Session, raw: Any, queue: str, on_settled: Callable[[], None] | None = None
    ) -> Delivery:
        """The delivery of a message: of a consumer's, or of a ``get`` if ``on_settled`` is called when it is settled."""

    def delay_route(self, queue: str, delay: float, priority: int = 0) -> tuple[str, str] | None:
        """The exchange and routing key from which a message of this priority reaches a queue after ``delay`` seconds.

        What lies between is declared if need be. None where messages are held back by a property of their own, see
        ``transports.contract``.
        """
        del queue, delay, priority
        return None

    @abstractmethod
    def delivery_of(self, raw: Any, queue: str) -> Delivery:
        """The delivery of a message that a Celery worker consumed over a channel of its own."""

    def call_mapped(self, call: Callable[..., T], *args: Any) -> T:
        """Call a function; what the driver raises comes out as an error of this package, causes kept."""
        with self.mapped:
            return call(*args)

    @abstractmethod
    def require(self, session: Session, queue: str) -> None:
        """Raise QueueNotFoundError unless the queue exists."""

    def run(self, work: Callable[[Session], T], *, keep: bool = False) -> T:
        """Call ``work`` with a session; on a connection that broke while it lay idle, once more with a new one."""
        while True:
            with self.mapped:
                session = self._pool.acquire()
            try:
                result = self._work(work, session)
            except BrokerUnavailableError as error:
                if not session.used or isinstance(error, UnconfirmedError):
                    raise
                # It broke while it lay idle, and so may have the others.
                self._pool.close_idle()
            else:
                if not keep:
                    self._pool.release(session)
                return result

    def _work(self, work: Callable[[Session], T], session: Session) -> T:
        try:
            with self.mapped:
                return work(session)
        except JobsError as error:
            # Found by our own code, the channel is as it was. A driver's error leaves it closed, or, on RabbitMQ, opened
            # again without its confirm mode.
            if error.__cause__ is None and not isinstance(error, BrokerUnavailableError):
                self._pool.release(session)
            else:
                self._pool.discard(session, lost=isinstance(error, BrokerUnavailableError))
            raise
        except BaseException:
            # Interrupted by a signal handler, say: nobody knows what the broker is about to answer.
            self._pool.discard(session, lost=True)
            raise

    # --- for subclasses

    def _check_type(self, queue_type: QueueType) -> None:
        if queue_type is QueueType.STACK and Capability.STACK not in self.capabilities:
            raise UnsupportedError(
                f"{self.backend} has no last-in-first-out queues: use queue_type='fifo' or 'priority' here, or the local "
                "or Redis backend"
            )

    def _check_queue(self, name: object) -> None:
        """Raise ConfigurationError unless this broker can have a queue of this name."""
        check_queue(name)

    def warn_of_priority(self, priority: object, queue: str) -> None:
        """Warn once if jobs with a priority are about to be published where priorities do not mean what they say."""
        key = f"priority:{queue}"
        if not priority or key in self._warned or is_dead_letter_queue(queue):
            return
        known = self._known_types.get(queue) or self._type_of(queue)
        if known == PLAIN:
            self._warn_once(
                key,
                f"queue {queue!r} has no type, as whoever made it first knows none (a Celery worker, say), and priorities "
                f"there are not this package's: declare_queue({queue!r}, queue_type='priority') makes it a priority queue, "
                "also while workers run",
            )
        elif known is not None and known != QueueType.PRIORITY:
            self._warn_once(
                key,
                f"queue {queue!r} is of type {known}, where priorities are ignored: declare it with "
                "queue_type='priority'",
            )

    def _type_of(self, queue: str) -> str | None:
        """The type of a queue that was not declared here, "" for a plain one; None where the broker does not tell."""
        del queue
        return None

    def _warn_once(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(text, RuntimeWarning, stacklevel=caller_level())

    @abstractmethod
    def _declare(self, session: Session, queue: str, queue_type: QueueType) -> None: ...

    @abstractmethod
    def _delete(self, session: Session, queue: str) -> None: ...

    def _purge(self, session: Session, queue: str) -> int:
        return int(session.channel.queue_purge(queue) or 0)

    @abstractmethod
    def _info(self, session: Session, queue: str) -> QueueInfo: ...

    @abstractmethod
    def _publish(
        self, session: Session, message: Message, exchange: str, routing_key: str, **properties: Any
    ) -> None: ...

    @abstractmethod
    def _publish_to_queue(
        self, session: Session, message: Message, queue: str, delay: float, record: Record | None
    ) -> None: ...

    @abstractmethod
    def _publish_batch(self, session: Session, messages: Sequence[Message], queue: str) -> None: ...

    def _take(self, session: Session, queue: str, timeout: float) -> Any:
        raw = session.channel.basic_get(queue)
        if raw is not None:
            return raw
        self.require(session, queue)
        return self._wait(session, queue, timeout) if timeout > 0 else None

    def _wait(self, session: Session, queue: str, timeout: float) -> Any:
        """Consume one message: the broker says when there is one."""
        box: list[Any] = []
        deadline = time.monotonic() + timeout
        consumer = consume(session, [queue], 1, lambda raw, _: box.append(raw))
        try:
            while not box and (left := deadline - time.monotonic()) > 0:
                if self.closed:
                    raise ClosedError("this client was closed while it waited for a message")
                drain(session, min(left, POLL_INTERVAL))
        finally:
            consumer.cancel()
        return box[0] if box else None

    def _send(
        self,
        session: Session,
        message: Message,
        exchange: str,
        routing_key: str,
        properties: Mapping[str, Any],
        publish: Callable[..., Any] | None = None,
    ) -> None:
        """Hand one message to the channel, or to another ``publish``."""
        raw = prepared(session.channel, message, properties)
        (publish or session.channel.basic_publish)(raw, exchange=exchange, routing_key=routing_key, mandatory=True)

    def _after_fork_in_child(self) -> None:
        self._pool.after_fork_in_child()


def queue_arguments(queue_type: QueueType) -> dict[str, Any]:
    """How the memory and Redis transports are told a queue's type."""
    return {QUEUE_TYPE_ARGUMENT: str(queue_type)}


_clients: WeakSet[Client] = WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork_in_child()


_forks.register(after_in_child=_after_fork_in_child)
