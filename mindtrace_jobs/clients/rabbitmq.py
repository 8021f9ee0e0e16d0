"""RabbitMQClient: queues on a RabbitMQ server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self
from urllib.parse import quote

from amqp.exceptions import NotFound, PreconditionFailed

from mindtrace_jobs._arguments import check_timeout
from mindtrace_jobs.clients import delay_queues
from mindtrace_jobs.clients.base import CONNECT_TIMEOUT, Client
from mindtrace_jobs.clients.confirms import Confirms
from mindtrace_jobs.clients.delivery import AmqpDelivery
from mindtrace_jobs.clients.kombu_api import Exchange, Queue
from mindtrace_jobs.clients.kombu_messages import message_of
from mindtrace_jobs.clients.session import Session
from mindtrace_jobs.clients.start_marks import QueueMarks
from mindtrace_jobs.clients.types import Capability, QueueInfo, QueueType
from mindtrace_jobs.clients.urls import address, connection_to
from mindtrace_jobs.errors import (
    BrokerError,
    BrokerUnavailableError,
    PublishError,
    QueueNotFoundError,
    UnroutableError,
)
from mindtrace_jobs.jobs import MAX_PRIORITY, BackendType
from mindtrace_jobs.transports.contract import Record
from mindtrace_jobs.wire.message import Message
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED

#: Messages sent before their confirms are waited for. A broker that has more than it can store stops reading for a while,
#: and py-amqp gives up a connection on which nothing moves for a second.
_UNCONFIRMED = 500


class RabbitMQClient(Client):
    """Queues on RabbitMQ 3.10 or later, over Kombu's py-amqp transport as it is.

    Queues are durable, messages persistent, every publish is confirmed by the broker and ``mandatory``.

    Args:
        host, port, username, password, virtual_host: The server.
        ssl: True, or py-amqp's TLS options (``ca_certs``, ``certfile``, ``cert_reqs``, ...).
        connect_timeout: Seconds until an unreachable server is an error. Default 5.
        confirm_timeout: Seconds to wait for the broker's confirm of what was published. Default 30.
        socket_timeout: Seconds until a broker that does not answer a method is an error. Default 30.
        result_backend: URL of the Celery result backend for status and results. Without one they are not kept.
        max_decompressed_bytes: Most bytes that a compressed body may have when it is decompressed; None: any number.
            Default 64 MiB.
        transport_options: Further options for Kombu's pyamqp transport.
        definition: Given a name, the Kombu queue as which others declare it, None if they do not. Default: as Celery
            declares a queue that its configuration does not name.
    """

    backend: ClassVar[BackendType] = BackendType.RABBITMQ
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.DISTRIBUTED, Capability.DURABLE})

    def __init__(
        self,
        host: str = "localhost",
        port: int = 5672,
        username: str = "guest",
        password: str = "guest",  # noqa: S107 - RabbitMQ's own default account
        virtual_host: str = "/",
        ssl: bool | Mapping[str, Any] = False,
        **options: Any,
    ) -> None:
        scheme = "amqps" if ssl else "amqp"
        login = f"{quote(username or 'guest', safe='')}:{quote(password or 'guest', safe='')}"
        self._init(f"{scheme}://{login}@{address(host, port)}/{quote(virtual_host, safe='')}", ssl=ssl, **options)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """``amqp://`` or ``amqps://``, several separated by ``;``; options as the constructor's."""
        client = cls.__new__(cls)
        client._init(url, **options)
        return client

    def _init(
        self,
        url: str,
        *,
        ssl: bool | Mapping[str, Any] = False,
        connect_timeout: float = CONNECT_TIMEOUT,
        confirm_timeout: float = 30.0,
        socket_timeout: float = 30.0,
        result_backend: str | None = None,
        max_decompressed_bytes: int | None = MAX_DECOMPRESSED,
        transport_options: Mapping[str, Any] | None = None,
        definition: Callable[[str], Any] | None = None,
    ) -> None:
        check_timeout("confirm_timeout", confirm_timeout, optional=False)
        self.confirm_timeout = confirm_timeout
        self._definition = definition
        self._marks = QueueMarks(self)
        connection = connection_to(
            _over_py_amqp(url),
            ssl=dict(ssl) if isinstance(ssl, Mapping) else ssl,
            connect_timeout=connect_timeout,
            transport_options=dict(transport_options or {}),
        )
        super().__init__(
            connection,
            url,
            connect_timeout=connect_timeout,
            answer_timeout=socket_timeout,
            result_backend=result_backend,
            max_decompressed_bytes=max_decompressed_bytes,
        )

    def declare_queue(self, queue: str, queue_type: QueueType = QueueType.FIFO) -> None:
        try:
            super().declare_queue(queue, queue_type)
            # The broker does not tell.
            self._known_types.setdefault(queue, queue_type)
        except BrokerError as error:
            if not isinstance(error.__cause__, PreconditionFailed):
                raise
            # A queue cannot be declared again with other arguments (AMQP 0-9-1), and is not ours to replace.
            self._warn_once(
                f"type:{queue}",
                f"queue {queue!r} exists with other arguments and is used as it is, not as {str(queue_type)!r}"
                + ("; priorities may not work there" if queue_type is QueueType.PRIORITY else "")
                + f" ({error.__cause__})",
            )

    def delivery(
        self, session: Session, raw: Any, queue: str, on_settled: Callable[[], None] | None = None
    ) -> AmqpDelivery:
        del session  # its messages are settled over the channel that they name
        return AmqpDelivery(raw, queue, self._marks, mapped=self.call_mapped, on_settled=on_settled)

    def delivery_of(self, raw: Any, queue: str) -> AmqpDelivery:
        return AmqpDelivery(raw, queue, self._marks, mapped=self.call_mapped)

    def delay_route(self, queue: str, delay: float, priority: int = 0) -> tuple[str, str]:
        return self.run(lambda session: self._delay_route(session, queue, delay, priority))

    def browse(self, queue: str, limit: int, offset: int = 0, *, bodies: bool = True) -> Iterator[Message]:
        del bodies  # AMQP has no headers without them
        with self.mapped:
            session = self.connect()
            try:
                # AMQP cannot look without receiving; closing the channel requeues everything in its place.
                with session.connection.channel() as channel:
                    for number in range(offset + limit):
                        raw = channel.basic_get(queue)
                        if raw is None:
                            return
                        if number >= offset:
                            yield message_of(session.channel.Message(raw, channel=channel))
            finally:
                session.close()

    def require(self, session: Session, queue: str) -> None:
        self._passive(session, queue)

    def _passive(self, session: Session, queue: str) -> tuple[int, int]:
        """Ready messages and consumers; on a channel of its own, which the answer "no such queue" closes."""
        try:
            with session.connection.channel() as channel:
                _, ready, consumers = channel.queue_declare(queue, passive=True)
                return ready, consumers
        except NotFound:
            pass
        raise QueueNotFoundError(
            f"there is no queue {queue!r} at {self.where}: declare_queue() makes it, so does publishing to it"
        )

    def _declare(self, session: Session, queue: str, queue_type: QueueType) -> None:
        defined = self._definition(queue) if self._definition and queue_type is QueueType.FIFO else None
        if defined is not None:
            defined(session.channel).declare()
            return
        # Exactly what Celery declares for a queue that its configuration does not name.
        arguments = {"x-max-priority": MAX_PRIORITY} if queue_type is QueueType.PRIORITY else None
        exchange = Exchange(queue, type="direct")
        Queue(queue, exchange, routing_key=queue, queue_arguments=arguments)(session.channel).declare()

    def _delete(self, session: Session, queue: str) -> None:
        self.require(session, queue)
        delay_queues.delete(session.connection, queue, exchanges=True)
        session.channel.queue_delete(queue)

    def _purge(self, session: Session, queue: str) -> int:
        # First what would come into the queue.
        delayed = delay_queues.delete(session.connection, queue)
        return delayed + super()._purge(session, queue)

    def _info(self, session: Session, queue: str) -> QueueInfo:
        ready, consumers = self._passive(session, queue)
        return QueueInfo(name=queue, ready=ready, consumers=consumers)

    def _take(self, session: Session, queue: str, timeout: float) -> Any:
        raw = session.channel.basic_get(queue)  # "not found" for a queue that is not there
        if raw is None:
            return self._wait(session, queue, timeout) if timeout > 0 else None
        return session.channel.message_to_python(raw)

    def _publish(self, session: Session, message: Message, exchange: str, routing_key: str, **properties: Any) -> None:
        refused = self._confirmed(session, [message], exchange, routing_key, **properties)
        for key, (reason, unroutable) in refused.items():
            kind = UnroutableError if unroutable else PublishError
            raise kind(f"job {key}: {reason}. bind_queue() before publishing", {key: reason})

    def _publish_to_queue(
        self, session: Session, message: Message, queue: str, delay: float, record: Record | None
    ) -> None:
        del record  # it keeps none
        if delay > 0:
            exchange, key = self._delay_route(session, queue, delay, message.properties.get("priority") or 0)
            refused = self._confirmed(session, [message], exchange, key)
        else:
            refused = self._put(session, [message], queue)
        _check(refused, 1, queue)

    def publish_copy(self, message: Message, *, queue: str, delay: float = 0.0) -> None:
        self._check_queue(queue)

        def work(session: Session) -> None:
            if not self._confirms(session).broker_takes_messages():
                raise BrokerUnavailableError(
                    f"{self.where} takes no messages now: memory or disk run out (see its log)"
                )
            self._publish_to_queue(session, message, queue, delay, None)

        self.run(work)

    def _publish_batch(self, session: Session, messages: Sequence[Message], queue: str) -> None:
        refused: dict[str, tuple[str, bool]] = {}
        for start in range(0, len(messages), _UNCONFIRMED):
            refused |= self._put(session, messages[start : start + _UNCONFIRMED], queue)
        _check(refused, len(messages), queue)

    def _put(self, session: Session, messages: Sequence[Message], queue: str) -> dict[str, tuple[str, bool]]:
        refused = self._confirmed(session, messages, "", queue)
        if any(unroutable for _, unroutable in refused.values()):
            # Cheaper than asking before every publish whether the queue is there.
            self._declare(session, queue, QueueType.FIFO)
            again = [message for message in messages if refused.get(_key(message), ("", False))[1]]
            kept = {key: why for key, why in refused.items() if not why[1]}
            refused = kept | self._confirmed(session, again, "", queue)
        return refused

    def _confirmed(
        self, session: Session, messages: Sequence[Message], exchange: str, routing_key: str, **properties: Any
    ) -> dict[str, tuple[str, bool]]:
        confirms = self._confirms(session)
        for message in messages:
            confirms.expect(_key(message))
            self._send(session, message, exchange, routing_key, properties)
        return confirms.wait()

    def _confirms(self, session: Session) -> Confirms:
        if session.extra is None:
            session.extra = Confirms(session, self.confirm_timeout)
        confirms: Confirms = session.extra
        return confirms

    def _delay_route(self, session: Session, queue: str, delay: float, priority: int) -> tuple[str, str]:
        self.require_or_declare(session, queue)
        return delay_queues.declare(session.channel, queue, delay, priority)

    def require_or_declare(self, session: Session, queue: str) -> None:
        """Make the queue unless it is there, whatever its type."""
        try:
            self.require(session, queue)
        except QueueNotFoundError:
            self._declare(session, queue, QueueType.FIFO)


def _over_py_amqp(url: str) -> str:
    """The URL with py-amqp named as its transport.

    For a bare ``amqp`` Kombu tries to import librabbitmq each time a connection is made. A process that forks while
    another thread is at that hands its child the import's lock, which nobody will ever release.
    """
    return ";".join(f"py{part}" if part.startswith("amqp://") else part for part in url.split(";"))


def _check(refused: Mapping[str, tuple[str, bool]], total: int, queue: str) -> None:
    """Raise PublishError if the broker refused any of so many messages to a queue."""
    if refused:
        failures = {key: reason for key, (reason, _) in refused.items()}
        first = next(iter(failures.items()))
        raise PublishError(
            f"{len(failures)} of {total} job(s) not published to {queue!r}, the first {first[0]}: {first[1]}", failures
        )


def _key(message: Message) -> str:
    return str(message.properties.get("correlation_id", ""))
