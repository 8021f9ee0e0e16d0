"""What the clients over this package's own transports, memory and Redis, have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mindtrace_jobs.clients.base import Client, queue_arguments
from mindtrace_jobs.clients.delivery import ChannelDelivery
from mindtrace_jobs.clients.errors import map_error
from mindtrace_jobs.clients.kombu_messages import message_of
from mindtrace_jobs.clients.session import Session
from mindtrace_jobs.clients.types import QueueInfo, QueueType
from mindtrace_jobs.errors import AccessDeniedError, PublishError, QueueNotFoundError
from mindtrace_jobs.transports.contract import DELAY_PROPERTY, PLAIN, RECORD_PROPERTY, Record
from mindtrace_jobs.wire.message import Message


class VirtualClient(Client):
    """A client whose channel is a :class:`mindtrace_jobs.transports.contract.JobsChannel`."""

    def browse(self, queue: str, limit: int, offset: int = 0, *, bodies: bool = True) -> Iterator[Message]:
        def page(session: Session) -> list[Message]:
            self.require(session, queue)
            channel = session.channel
            found = channel.peek(queue, min(left, most), offset, bodies=bodies)
            return [message_of(channel.Message(raw, channel=channel)) for raw in found]

        left, most = limit, _PAGE if bodies else _PAGE_OF_HEADERS
        while left > 0:
            messages = self.run(page)
            yield from messages
            if len(messages) < min(left, most):
                return
            left, offset = left - len(messages), offset + len(messages)

    def delivery(
        self, session: Session, raw: Any, queue: str, on_settled: Callable[[], None] | None = None
    ) -> ChannelDelivery:
        return ChannelDelivery(
            raw,
            queue,
            session.channel,
            streamed=on_settled is None,
            mapped=self.call_mapped,
            on_settled=on_settled,
        )

    def delivery_of(self, raw: Any, queue: str) -> ChannelDelivery:
        return ChannelDelivery(raw, queue, raw.channel, streamed=True, mapped=self.call_mapped)

    def count(self, queue: str) -> int:
        self._check_queue(queue)

        def work(session: Session) -> int:
            ready = int(session.channel._size(queue))
            if not ready:
                self.require(session, queue)
            return ready

        return self.run(work)

    def require(self, session: Session, queue: str) -> None:
        if session.channel.queue_type(queue) is None:
            raise QueueNotFoundError(
                f"there is no queue {queue!r} at {self.where}: declare_queue() makes it, so does publishing to it"
            )

    def _declare(self, session: Session, queue: str, queue_type: QueueType) -> None:
        session.channel.queue_declare(queue, durable=True, auto_delete=False, arguments=queue_arguments(queue_type))
        found = session.channel.queue_type(queue)
        if found != queue_type:
            self._warn_once(
                f"type:{queue}",
                f"queue {queue!r} exists with type {found or 'plain'!r} and is used as it is, not as {str(queue_type)!r}; "
                "delete_queue() it first to change its type",
            )
        if found:
            self._known_types[queue] = QueueType(found)

    def _type_of(self, queue: str) -> str | None:
        found: str | None = self.run(lambda session: session.channel.queue_type(queue))
        if found == PLAIN:
            return found  # somebody else's, which may become a priority queue any time
        # Publishing makes a queue that is not there, of the default type.
        kind = self._known_types[queue] = QueueType.FIFO if found is None else QueueType(found)
        return kind

    def _delete(self, session: Session, queue: str) -> None:
        self.require(session, queue)
        session.channel.queue_delete(queue)

    def _info(self, session: Session, queue: str) -> QueueInfo:
        found = session.channel.queue_type(queue)
        if found is None:
            self.require(session, queue)
        stats = session.channel.queue_stats(queue)
        return QueueInfo(name=queue, type=QueueType(found) if found else None, **stats)

    def _publish(self, session: Session, message: Message, exchange: str, routing_key: str, **properties: Any) -> None:
        self._send(session, message, exchange, routing_key, properties)

    def _publish_to_queue(
        self, session: Session, message: Message, queue: str, delay: float, record: Record | None
    ) -> None:
        told: dict[str, Any] = {DELAY_PROPERTY: delay} if delay > 0 else {}
        if record is not None:
            told[RECORD_PROPERTY] = record
        self._publish(session, message, "", queue, **told)

    def _publish_batch(self, session: Session, messages: Sequence[Message], queue: str) -> None:
        for start in range(0, len(messages), _BATCH_SIZE):
            batch = session.channel.create_publish_batch(_BATCH_SIZE)
            try:
                for message in messages[start : start + _BATCH_SIZE]:
                    self._send(session, message, "", queue, {}, batch.publish)
                batch.flush()
            except Exception as error:
                refused: dict[str, str] = dict(getattr(error, "refused", ()))
                if not refused or isinstance(map_error(error, self.redactor, ()), AccessDeniedError):
                    raise
                # What comes after would be refused as well.
                for message in messages[start + _BATCH_SIZE :]:
                    refused[str(message.properties.get("correlation_id"))] = "not sent"
                first = next(iter(refused.items()))
                raise PublishError(
                    f"{len(refused)} of {len(messages)} job(s) not published to {queue!r}, the first {first[0]}: "
                    f"{first[1]}",
                    refused,
                ) from error


#: Messages fetched at once by who looks at a queue, with and without their bodies.
_PAGE, _PAGE_OF_HEADERS = 20, 500
#: Commands sent to the broker at once.
_BATCH_SIZE = 1000
