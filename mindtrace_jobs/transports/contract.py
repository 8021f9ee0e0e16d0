"""What the memory and Redis channels offer beyond Kombu's virtual channel, and the names they write on the wire.

The clients speak to both transports through :class:`JobsChannel`, whose docstrings are the contract that both keep.
This module loads neither Kombu nor a driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

#: A message as a transport keeps it: ``body``, ``headers``, ``properties``, ``content-type``, ``content-encoding``.
Payload = dict[str, Any]

#: Queue argument that names the queue's type, one of ``QUEUE_TYPES``.
QUEUE_TYPE_ARGUMENT: Final = "x-job-queue"
#: Exchange argument: a fanout exchange declared with it keeps a copy in each bound queue, as AMQP does.
EXCHANGE_ARGUMENT: Final = "x-job-exchange"
#: Message property: seconds, from publishing on, before which the message is not handed out.
DELAY_PROPERTY: Final = "delay"
#: Message property: the :class:`Record` of its job, kept in the step that adds the message to its queue. Only for a channel
#: that ``keeps_records``.
RECORD_PROPERTY: Final = "record"

FIFO: Final = "fifo"
PRIORITY: Final = "priority"
STACK: Final = "stack"
#: The type of a queue declared without ``QUEUE_TYPE_ARGUMENT``: it behaves as on Kombu's own transport.
PLAIN: Final = ""
QUEUE_TYPES: Final = frozenset({FIFO, PRIORITY, STACK, PLAIN})


class Record(NamedTuple):
    """The status of a job, to be kept on the broker's own server in the same step as its message starts or ends.

    Attributes:
        key, value: As the result backend would write them.
        seconds: How long to keep it; 0 is for ever.
        cancel_key: A key whose presence says that the job is cancelled, and is not to be started; "" for none.
    """

    key: str
    value: bytes | str
    seconds: int
    cancel_key: str = ""


class PublishBatch(Protocol):
    """Messages collected to be published together."""

    def publish(self, message: Payload, exchange: str, routing_key: str, mandatory: bool = False) -> Any:
        """As ``JobsChannel.basic_publish``, but sent later."""

    def flush(self) -> None:
        """Send what was collected.

        Raises:
            kombu.exceptions.BatchPublishError: some of it was not published. An attribute ``refused``, if it has one,
                maps the correlation id of each message that the broker refused to what it said.
        """


@runtime_checkable
class JobsChannel(Protocol):
    """A Kombu channel that keeps typed queues, holds and counts what it delivers, and never drops in silence.

    Broker errors are raised as AMQP's: ``amqp.exceptions.ChannelError`` with AMQP's reply code.

    Attributes:
        keeps_records: Whether it can keep a :class:`Record` in the same step as it starts or acknowledges a message.
            Passing one to a channel that cannot raises NotImplementedError.
        puts_off: Set it to have what need not be waited for, starts and acknowledgements, sent together: with the channel's
            next command, by ``flush``, or by Celery's event loop when it waits next. Default False.
        least_claim: Set it to receive no more, where that costs a round trip, until at least so many, or half of the
            prefetch count, may be received. Default 1. For who holds more than it runs.
        lost_deliveries: Delivery tags of messages that were requeued behind this channel's back, as far as it has noticed:
            somebody else may run them too.
    """

    keeps_records: bool
    puts_off: bool
    least_claim: int
    lost_deliveries: set[str]

    def answer_within(self, seconds: float) -> None:
        """From now on take a server for lost that does not answer so soon: the channel is about to be closed."""

    # --- queues

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make a queue; returns ``(queue, message_count, consumer_count)``.

        The type in ``arguments[QUEUE_TYPE_ARGUMENT]`` is recorded by the first declaration. A later one with another
        type changes nothing and does not fail; but a plain queue becomes a priority queue, as whoever starts first may be
        one who knows no types.

        Raises:
            ChannelError: 404 if ``passive`` and there is no such queue; 406 if the type is not in ``QUEUE_TYPES``.
        """

    def queue_type(self, queue: str) -> str | None:
        """The recorded type, ``PLAIN`` ("") if declared without one, None if there is no such queue."""

    def queue_stats(self, queue: str) -> dict[str, int]:
        """Counts by the keys ready, unacknowledged, delayed and consumers; all zero for an unknown queue."""

    def queue_purge(self, queue: str) -> int:
        """Remove ready and delayed messages, not those being held; returns how many."""

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> None:
        """Remove a queue, whoever declared it, with its bindings and messages.

        Messages being held are forgotten with it: requeued later, they do not return. With ``if_unused`` or
        ``if_empty`` a queue that has consumers, or ready or delayed messages, is left alone. An unknown queue is no
        error.
        """

    def peek(self, queue: str, limit: int, offset: int = 0, *, bodies: bool = True) -> list[Payload]:
        """Ready messages in delivery order, left where they are; delayed ones are not included.

        Each is what ``Channel.Message(payload, channel=channel)`` takes. It cannot be acknowledged.

        Args:
            queue: The queue.
            limit: At most how many.
            offset: How many to leave out before them.
            bodies: Whether they have their bodies. Without, they may all the same where that costs nothing.
        """

    # --- exchanges

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        """Make an exchange of type direct, topic or fanout, known to every process that uses the broker.

        Raises:
            ChannelError: 404 if ``passive`` and there is no such exchange.
        """

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Remove an exchange and its bindings; the queues stay. An unknown exchange is no error."""

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Let ``exchange`` deliver to ``queue``; ``routing_key`` is a pattern for a topic exchange."""

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Undo ``queue_bind`` with the same arguments. A binding that is not there is no error."""

    # --- messages

    def basic_publish(self, message: Payload, exchange: str, routing_key: str, mandatory: bool = False) -> Any:
        """Put a message into the queue ``routing_key`` (``exchange=""``), made if need be, or hand it to an exchange.

        A message with ``properties[DELAY_PROPERTY]`` greater than 0 is held back for so many seconds. With
        ``properties[RECORD_PROPERTY]`` the record of its job is kept in the same step; what is there under its
        ``cancel_key`` goes.

        Raises:
            ChannelError: if ``mandatory``, 404 when there is no such exchange and 312 when it has no queue for it.
        """

    def basic_get(self, queue: str, no_ack: bool = False) -> Any | None:
        """The next message as a Kombu message, held until it is acknowledged or rejected; None if there is none."""

    def basic_consume(self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str) -> Any:
        """Let ``drain_events`` of the connection pass the queue's messages to ``callback``.

        At most ``prefetch_count`` of them are held at a time, see ``basic_qos``.
        """

    def basic_cancel(self, consumer_tag: str) -> Any:
        """Stop a consumer. What it was delivered stays held by the channel."""

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Limit how many consumed messages this channel holds at a time; 0 means no limit."""

    def start(self, delivery_tag: str, record: Record | None = None) -> bool:
        """Record that work on a held message begins now.

        Should its holder vanish, the header ``x-attempts`` of the message that comes back is one higher: when its lease
        expires, or when the channel is closed before the message is acknowledged or rejected. A message that is not
        held any more is ignored.

        Args:
            delivery_tag: The message.
            record: Kept in the same step. Without one the broker's word is not waited for.

        Returns:
            False if ``record.cancel_key`` is there: nothing is changed then. Else True.
        """

    def holds(self, delivery_tag: str) -> bool:
        """Whether a message is still this channel's: neither settled nor requeued by others.

        May ask the broker, and raise what that raises.
        """

    def acknowledge(self, delivery_tag: str, record: Record | None = None) -> None:
        """The work is done: forget the message, and wait for the broker's word.

        ``lost_deliveries`` tells afterwards whether the message had been requeued by others before. ``record`` is kept in the
        same step, unless it had. If the broker does not take it, this raises, and the broker is told again, as long as the
        channel is open, until ``release``.
        """

    def ack_nowait(self, delivery_tag: str, record: Record | None = None) -> None:
        """As ``acknowledge``, without waiting: it may be sent together with the channel's next command.

        For who goes on to receive, or calls ``flush`` before doing anything else for long. A message that had been requeued before shows in ``lost_deliveries`` at the latest with that command. If the broker
        does not take it, it is told again as after ``acknowledge``; that raises only if it shows at once, and the next
        ``start`` waits for the broker's word.
        """

    def flush(self) -> None:
        """Send what was put off."""

    def replace(self, delivery_tag: str, message: Payload, queue: str) -> None:
        """Put a message into a queue, made if need be, in the place of a held one, which is forgotten: in one step.

        A held message that had been requeued by others before shows in ``lost_deliveries`` afterwards, and nothing is
        published. If the broker refuses, the message is held as before.

        Args:
            delivery_tag: The held message.
            message: As for ``basic_publish``; it may be delayed.
            queue: The queue.
        """

    def release(self, delivery_tag: str) -> None:
        """Hold a message no longer that could not be settled: it comes back as if its holder had vanished."""

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """As ``ack_nowait``. With ``multiple`` also all that this channel was given before it.

        Never touches another's delivery: if the message was requeued by others before, a warning is logged, at
        the latest with the channel's next command.
        """

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a held message, or with ``requeue`` requeue it behind all that wait, as Kombu's own transports.

        What comes back has ``headers["redelivered"]`` and ``properties["delivery_info"]["redelivered"]`` set to True,
        and the header ``x-delivery-count`` one higher. Only a consumed message on which ``start`` was not called
        (prefetched and returned) keeps its count.
        """

    def requeue(self, delivery_tag: str) -> None:
        """Requeue a held message in front, the next to be delivered of its priority; else as ``basic_reject``."""

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        """Collects messages to publish in few round trips; sends them by itself whenever there are ``max_size``."""

    def close(self) -> None:
        """Cancel the consumers and put everything held back to the front of its queue, in the original order."""
