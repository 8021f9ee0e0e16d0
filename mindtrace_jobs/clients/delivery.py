"""A message received from a queue, and its broker's way to start, settle and count it."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

from mindtrace_jobs.clients.kombu_messages import message_of, prepared
from mindtrace_jobs.clients.types import is_dead_letter_queue
from mindtrace_jobs.errors import BrokerError, JobsError, LeaseLostError
from mindtrace_jobs.transports.contract import DELAY_PROPERTY, JobsChannel, Record
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import Message

log = logging.getLogger("mindtrace_jobs.clients")


class RecordWrite(Protocol):
    """A job's record on its way to the result backend.

    Attributes:
        inline: What the broker's channel may keep in the same step as it starts or acknowledges the message; None where
            the records are kept elsewhere. Reading it may raise EncodeError.
    """

    @property
    def inline(self) -> Record | None: ...

    def start(self) -> bool:
        """Write that the job runs, unless it is cancelled; returns whether it may run. Errors are logged."""

    def finish(self) -> None:
        """Write how it ended, now or when the result backend takes it.

        Raises:
            EncodeError: the output would not come back as it is.
        """


class Publisher(Protocol):
    """The part of a client that publishes."""

    def publish_copy(self, message: Message, *, queue: str, delay: float = 0.0) -> None:
        """Put into a queue what takes the place of a message that is held."""


class Delivery(ABC):
    """One message, received and not yet settled. Settle it exactly once: ``acknowledge`` or ``requeue``.

    Belongs to the thread that received it. Closing what it was received from requeues it.

    Args:
        message: The message.
        queue: Where it was received from.
    """

    def __init__(self, message: Message, queue: str) -> None:
        self.message = message
        self.queue = queue
        #: Whether it was received from a dead-letter queue.
        self.dead = is_dead_letter_queue(queue)
        #: Whether it was acknowledged or requeued.
        self.settled = False
        #: Whether a copy waits in its place, so that settling it did not end the job.
        self.postponed = False

    @property
    def replaced_in_one_step(self) -> bool:
        """Whether ``replace`` is one step on the broker."""
        return False

    @property
    def redelivered(self) -> bool:
        """Whether somebody received it before, and returned it or vanished."""
        return False

    @property
    def delivery_count(self) -> int:
        """How often the broker delivered it before, if it counts that."""
        return 0

    @property
    def losses(self) -> int:
        """How often work on it began and its worker vanished, as far as the message says."""
        return wire.count(self.message.headers, wire.LOSSES)

    @property
    def log_fields(self) -> dict[str, Any]:
        """``extra`` of log records about it."""
        return wire.log_fields(self.message.headers, self.queue, self.losses)

    @property
    def counted(self) -> bool:
        """Whether the broker itself counts lost workers, so that ``losses`` is all there is to know."""
        return True

    def started_before(self) -> int:
        """How often work on it is known to have begun and not ended, where the broker does not count by itself."""
        return 0

    @abstractmethod
    def confirm(self) -> None:
        """Make sure that the message is still this process's, before anything is decided about it.

        Costs a question to the broker only if the lease may have run out, as after a pause of this process.

        Raises:
            LeaseLostError: it is not: it is run again elsewhere.
            BrokerUnavailableError: it cannot be known.
        """

    @abstractmethod
    def start(self, write: RecordWrite | None = None, *, exact: bool = False) -> bool:
        """Record that work on it begins now, so that it is known should this process vanish.

        Args:
            write: The record that says so, written in the same step where the server can.
            exact: Whether the very first start has to be known where the broker does not count by itself, which costs
                two round trips a job.

        Returns:
            False if the record says that the job is cancelled: work must not begin.

        Raises:
            BrokerUnavailableError: the connection is lost; the broker will hand the message to somebody else.
        """

    @abstractmethod
    def acknowledge(self, write: RecordWrite | None = None, *, at_once: bool = False) -> None:
        """Remove it from the broker: its work is done.

        Args:
            write: The job's final record, written before, or in the same step where the server can.
            at_once: It was received a moment ago, so that there is no need to wait for whether the lease had run out.

        Raises:
            LeaseLostError: its lease had run out; what somebody else holds now is left alone.
            BrokerUnavailableError: the connection is lost; the broker will deliver the message again.
            EncodeError: the output would not come back as it is; the message is not acknowledged.
        """

    def replace(self, publisher: Publisher, message: Message, queue: str, delay: float = 0.0) -> None:
        """Publish a message in its place, and acknowledge it: in one step where the broker can, else in this order.

        If the message is not published, this is not settled, and may be tried again.

        Args:
            publisher: The client.
            message, queue, delay: As for ``Client.publish``.

        Raises:
            LeaseLostError: its lease had run out; where it is one step nothing is published then.
            PublishError, BrokerError: the message is not published, as far as is known.
        """
        publisher.publish_copy(message, queue=queue, delay=delay)
        self.acknowledge()

    @abstractmethod
    def requeue(self) -> None:
        """Return it to the front of its queue. Raises as ``acknowledge`` does."""

    def ended(self) -> None:  # noqa: B027 - most brokers keep nothing
        """Remove what the broker keeps of its starts beside the message; for whoever acknowledges it in another way."""


class KombuDelivery(Delivery):
    """A delivery that is settled over the Kombu channel it came over.

    Args:
        raw: Kombu's message.
        queue: Where it was received from.
        mapped: Calls a function and turns what the driver raises into errors of this package.
        on_settled: Called once it is settled.
    """

    def __init__(
        self, raw: Any, queue: str, *, mapped: Callable[..., Any], on_settled: Callable[[], None] | None = None
    ) -> None:
        super().__init__(message_of(raw), queue)
        self._raw = raw
        self._mapped = mapped
        self._on_settled = on_settled

    @property
    def redelivered(self) -> bool:
        info = self._raw.delivery_info or {}
        return bool(info.get("redelivered") or self._raw.headers.get(wire.REDELIVERED))

    @property
    def delivery_count(self) -> int:
        return wire.count(self._raw.headers, wire.DELIVERY_COUNT)

    def requeue(self) -> None:
        self._settle(self._raw.requeue)

    def _settle(self, how: Callable[..., None], *args: Any) -> None:
        try:
            self._mapped(how, *args)
        finally:
            self.settled = True
            if self._on_settled is not None:
                self._on_settled()


class ChannelDelivery(KombuDelivery):
    """A delivery over a channel of this package's transports, which hold messages under leases and count losses.

    Args:
        raw, queue, mapped, on_settled: As KombuDelivery's.
        channel: The channel it came over.
        streamed: It came to a consumer: the broker's word on an acknowledgement comes with the next command.
    """

    def __init__(
        self,
        raw: Any,
        queue: str,
        channel: JobsChannel,
        *,
        streamed: bool,
        mapped: Callable[..., Any],
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(raw, queue, mapped=mapped, on_settled=on_settled)
        self._channel = channel
        self._streamed = streamed

    @property
    def replaced_in_one_step(self) -> bool:
        return True

    def confirm(self) -> None:
        if not self._mapped(self._channel.holds, self._raw.delivery_tag):
            raise LeaseLostError(
                f"the lease of a job from {self.queue!r} ran out, so it is run again elsewhere: was this process "
                "paused, or cut off from the broker?"
            )

    def start(self, write: RecordWrite | None = None, *, exact: bool = False) -> bool:  # noqa: ARG002 - it counts
        record = None if write is None else write.inline
        if write is not None and record is None and not write.start():
            return False
        return bool(self._mapped(self._channel.start, self._raw.delivery_tag, record))

    def acknowledge(self, write: RecordWrite | None = None, *, at_once: bool = False) -> None:
        record = None if write is None else write.inline
        if write is not None and record is None:
            write.finish()
        tag = self._raw.delivery_tag
        try:
            self._settle(
                self._channel.ack_nowait if self._streamed or at_once else self._channel.acknowledge, tag, record
            )
        except JobsError:
            if at_once or not self._streamed:
                self._channel.release(tag)
                raise
            # The channel tells the broker again, and has said so. While the broker takes nothing the next start fails.
        self._check_lease()

    def replace(self, publisher: Publisher, message: Message, queue: str, delay: float = 0.0) -> None:
        del publisher  # one step of its own channel
        properties = {DELAY_PROPERTY: delay} if delay > 0 else {}
        self._mapped(self._channel.replace, self._raw.delivery_tag, prepared(self._channel, message, properties), queue)
        self._settle(lambda: None)
        self._check_lease()

    def _check_lease(self) -> None:
        if self._raw.delivery_tag in self._channel.lost_deliveries:
            raise LeaseLostError(
                f"the lease of a job from {self.queue!r} ran out before it was acknowledged, so it is run again "
                "elsewhere: was this process paused, or cut off from the broker?"
            )

    def requeue(self) -> None:
        tag = self._raw.delivery_tag
        try:
            self._settle(self._channel.requeue, tag)
        except BaseException:
            self._channel.release(tag)
            raise


class StartMarks(Protocol):
    """Durable marks on a broker that does not count: each says that work on a message began once more."""

    def count(self, key: str) -> int:
        """The number of marks for a message."""

    def add(self, key: str, number: int) -> int:
        """Make the ``number``-th mark, from 1; returns the number."""

    def remove(self, key: str, count: int) -> int:
        """Remove the first ``count`` marks; returns how many."""


class AmqpDelivery(KombuDelivery):
    """A delivery over AMQP, whose broker only says that a message was delivered before, begun or not.

    So the start of a message that was delivered before leaves a mark on the broker. A first start leaves none, which
    makes it as cheap as without counting: see ``mindtrace_jobs.execution.outcome.Losses``.

    Args:
        raw, queue, mapped, on_settled: As KombuDelivery's.
        marks: The broker's marks.
    """

    def __init__(
        self,
        raw: Any,
        queue: str,
        marks: StartMarks,
        *,
        mapped: Callable[..., Any],
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(raw, queue, mapped=mapped, on_settled=on_settled)
        self._marks = marks
        self._marked: int | None = None

    @property
    def counted(self) -> bool:
        return False

    @cached_property
    def _key(self) -> str:
        """Names the message on the broker: its queue, its job, which retry it is, and how often it was copied."""
        headers = self.message.headers
        job = str(headers.get("id") or "").encode("utf-8", "surrogatepass") or self.message.body
        parts = (self.queue.encode(), job, b"%d.%d" % (wire.count(headers, "retries"), self.losses))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]

    def started_before(self) -> int:
        if self._marked is None:
            self._marked = self._try(lambda: self._marks.count(self._key)) or 0 if self.redelivered else 0
        return self._marked

    def confirm(self) -> None:
        """What AMQP delivers stays with the channel, as long as that is open."""
        if not self._raw.channel.is_open:
            raise LeaseLostError(
                f"the connection over which a job from {self.queue!r} came is lost, so it is delivered again"
            )

    def start(self, write: RecordWrite | None = None, *, exact: bool = False) -> bool:
        if write is not None and not write.start():
            return False
        if self.redelivered or exact:
            number = self.started_before() + 1
            if self._try(lambda: self._marks.add(self._key, number)) is not None:
                self._marked = number
        return True

    def acknowledge(self, write: RecordWrite | None = None, *, at_once: bool = False) -> None:  # noqa: ARG002
        if write is not None:
            write.finish()
        self._settle(self._raw.ack)
        self.ended()

    def ended(self) -> None:
        if self._marked:
            marked, self._marked = self._marked, None
            self._try(lambda: self._marks.remove(self._key, marked))

    def _try(self, call: Callable[[], int]) -> int | None:
        """Call the marks; what the broker refuses is logged, as it must keep no job from running. None if it does."""
        try:
            return call()
        except BrokerError as error:
            log.warning(
                "lost workers of a job cannot be counted: %s",
                error,
                extra={"action": "count_losses", **self.log_fields},
            )
            return None
