"""Publishing many messages in few round trips, for Kombu's ``Producer.batch()`` and the clients."""

from __future__ import annotations

from typing import Any, Protocol

from kombu.exceptions import BatchPublishError

from mindtrace_jobs.transports.contract import Payload
from mindtrace_jobs.transports.redis.exchanges import Exchanges
from mindtrace_jobs.transports.redis.scripts import Script
from mindtrace_jobs.transports.redis.store import PORTION_SIZE, Store

#: Messages in one call of the script: bounds how long the server is busy with it.
_CALL_SIZE = 50
#: The place in the arguments of a message where it is itself.
_TEXT = 2


class BatchRefusedError(BatchPublishError):
    """The server refused some of a batch; what is not named has arrived.

    Attributes:
        refused: What the server said, by the correlation id of each message that has one.
    """

    def __init__(self, text: str, refused: dict[str, str]) -> None:
        super().__init__(text)
        self.refused = refused


class PublishingChannel(Protocol):
    """What a batch needs of its channel."""

    store: Store
    exchanges: Exchanges

    def basic_publish(self, message: Payload, exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Add a message to the batch ``_publish_batch`` where it belongs."""


class PublishBatch:
    """Collects publishes and sends them in one pipeline, messages to one queue in calls of several.

    Args:
        channel: The channel to publish through.
        max_size: Messages after which it sends by itself.
    """

    def __init__(self, channel: PublishingChannel, max_size: int) -> None:
        self.channel = channel
        self._max_size = max_size
        self._calls: list[tuple[Script, list[Any]]] = []
        #: The correlation ids of the messages of each call, and of the one that is being added.
        self._ids: list[list[Any]] = []
        self._id: Any = None
        self._mandatory: dict[int, tuple[str, str]] = {}
        self._published: list[tuple[str, str]] = []
        self._last: tuple[Any, ...] | None = None
        #: Messages, and bytes, that the last call still takes.
        self._room, self._space = 0, 0
        self._count = 0
        self._failed: BaseException | None = None
        self._closed = False

    def publish(self, message: Payload, exchange: str, routing_key: str, mandatory: bool = False, **kwargs: Any) -> Any:
        """Add a prepared message, as ``basic_publish``.

        Raises:
            BatchPublishError: the batch failed before.
        """
        self._check()
        self._id = message["properties"].get("correlation_id")
        result = self.channel.basic_publish(
            message, exchange, routing_key, mandatory=mandatory, **kwargs, _publish_batch=self
        )
        if self._count >= self._max_size:
            self.flush()
        return result

    def to_queue(self, call: tuple[Any, ...], message: tuple[Any, ...]) -> None:
        """Add a message for a queue: the arguments of the script ``publish``."""
        if call == self._last and self._room > 0 and self._space > 0:
            self._calls[-1][1].extend(message)
            self._ids[-1].append(self._id)
            self._room -= 1
        else:
            self._add("publish", [*call, *message])
            self._last, self._room, self._space = call, _CALL_SIZE - 1, PORTION_SIZE
        self._space -= len(message[_TEXT])
        self._count += 1

    def to_exchange(self, args: tuple[Any, ...], *, mandatory: bool) -> None:
        """Add a message for an exchange: the arguments of the script ``route``."""
        if mandatory:
            self._mandatory[len(self._calls)] = (args[0], args[2])
        self._add("route", list(args))
        self._last = None
        self._count += 1

    def _add(self, script: str, args: list[Any]) -> None:
        self._calls.append((self.channel.store.scripts[script], args))
        self._ids.append([self._id])

    def to_subscribers(self, topic: str, payload: str) -> None:
        """Add a broadcast to a PUB/SUB channel."""
        self._published.append((topic, payload))
        self._count += 1

    def flush(self) -> None:
        """Send what was collected.

        Raises:
            BatchPublishError: some of it may not have arrived; the cause says why.
            BatchRefusedError: the server refused some of it.
            ChannelError: a mandatory message found no queue; the others arrived.
        """
        self._check()
        calls, ids, mandatory, published = self._calls, self._ids, self._mandatory, self._published
        self._reset()
        try:
            replies = self.channel.store.wire.scripts(calls) if calls else []
            if published:
                replies += self.channel.store.wire.pipeline([("PUBLISH", *one) for one in published])
        except BaseException as error:
            self._failed = error
            if isinstance(error, Exception):
                raise BatchPublishError(
                    f"publishing a batch failed, some of it may not have arrived: {error}"
                ) from error
            raise
        refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if refusal is not None:
            self._failed = refusal
            refused = {
                one: str(reply)
                for group, reply in zip(ids, replies, strict=False)
                if isinstance(reply, Exception)
                for one in group
                if isinstance(one, str)
            }
            raise BatchRefusedError(f"the server refused some of a batch: {refusal}", refused) from refusal
        for index, (exchange, routing_key) in mandatory.items():
            if not replies[index]:
                self.channel.exchanges.unroutable(exchange, routing_key)

    def discard(self) -> None:
        """Forget what was not sent."""
        self._reset()
        self._closed = True

    def close(self) -> None:
        """End the batch."""
        self._closed = True

    def _reset(self) -> None:
        self._calls, self._ids, self._mandatory, self._published = [], [], {}, []
        self._last, self._room, self._count = None, 0, 0

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("this batch is closed")
        if self._failed is not None:
            raise BatchPublishError("this batch failed before and takes no more") from self._failed
