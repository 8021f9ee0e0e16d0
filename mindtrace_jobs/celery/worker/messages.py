"""Kombu messages as a worker's main process handles them: never decoded, where they are from, who settles them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery.app.task import Context

from mindtrace_jobs._serializer_entry import CONTENT_TYPE
from mindtrace_jobs.celery.records import MARKS
from mindtrace_jobs.clients import Delivery, RecordWrite
from mindtrace_jobs.clients.delivery import Publisher
from mindtrace_jobs.clients.kombu_messages import body_of
from mindtrace_jobs.errors import JobsError
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import SIGNED_CONTENT_TYPE, Message

log = logging.getLogger("mindtrace_jobs.celery")

#: Fields of protocol 2 that are attributes of Celery's request.
_FIELDS = frozenset(
    {
        "eta",
        "expires",
        "group",
        "group_index",
        "headers",
        "id",
        "ignore_result",
        "origin",
        "parent_id",
        "replaced_task_nesting",
        "retries",
        "root_id",
        "shadow",
        "stamped_headers",
        "stamps",
        "timelimit",
    }
)
#: Fields that protocol 1 has beside them, and protocol 2 in its body.
_IN_BODY = frozenset({"args", "callbacks", "chain", "chord", "errbacks", "kwargs", "taskset", "utc"})
#: Attributes of Celery's request that no header may set.
_NOT_HEADERS = (frozenset(dir(Context)) - _FIELDS) | MARKS
#: Attribute of a Kombu message: the ReceivedJob that was made of it.
RECEIVED = "job_received"


def queue_of(raw: Any, task_consumer: Any) -> str:
    """The queue a message was delivered from.

    Args:
        raw: The Kombu message.
        task_consumer: The worker's Kombu consumer.
    """
    info = raw.delivery_info or {}
    tag = info.get("consumer_tag")
    for queue, known in getattr(task_consumer, "_active_tags", {}).items():
        if tag is not None and known == tag:
            return str(queue)
    exchange, key = info.get("exchange") or "", str(info.get("routing_key") or "")
    queues = list(getattr(task_consumer, "queues", ()))
    if exchange and key not in {queue.name for queue in queues}:
        # Virtual transports do not say which consumer a message is for.
        for queue in queues:
            if queue.exchange is not None and queue.exchange.name == exchange:
                return str(queue.name)
    return key


class WorkerDelivery(Delivery):
    """A delivery that Celery settles, on the thread that owns the channel.

    Args:
        broker: The delivery in the broker's own terms.
        acknowledge, requeue: Celery's ways to settle it.
        replaced: Called when another message took its place, so that Celery has nothing to settle.
    """

    def __init__(
        self,
        broker: Delivery,
        acknowledge: Callable[[], object],
        requeue: Callable[[], object],
        replaced: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(broker.message, broker.queue)
        self._broker = broker
        self._acknowledge = acknowledge
        self._requeue = requeue
        self._replaced = replaced

    @property
    def redelivered(self) -> bool:
        return self._broker.redelivered

    @property
    def delivery_count(self) -> int:
        return self._broker.delivery_count

    @property
    def counted(self) -> bool:
        return self._broker.counted

    def started_before(self) -> int:
        return self._broker.started_before()

    def confirm(self) -> None:
        self._broker.confirm()

    def start(self, write: RecordWrite | None = None, *, exact: bool = False) -> bool:
        return self._broker.start(write, exact=exact)

    def acknowledge(self, write: RecordWrite | None = None, *, at_once: bool = False) -> None:  # noqa: ARG002
        if write is not None:
            write.finish()
        self._acknowledge()
        self.settled = True
        self._broker.ended()

    def replace(self, publisher: Publisher, message: Message, queue: str, delay: float = 0.0) -> None:
        if not self._broker.replaced_in_one_step:
            super().replace(publisher, message, queue, delay)
            return
        self._broker.replace(publisher, message, queue, delay)
        self.settled = True
        self._replaced()

    def requeue(self) -> None:
        self._requeue()
        self.settled = True

    def remove(self) -> None:
        """Acknowledge the message. One that came over a connection that is lost meanwhile is delivered again."""
        try:
            self._broker.acknowledge()
        except JobsError as error:
            log.warning("not acknowledged: %s", error, extra={"action": "acknowledge", **self.log_fields})

    def return_untouched(self) -> None:
        """Requeue it in front. A connection that is lost meanwhile returns it too."""
        try:
            self._broker.requeue()
        except JobsError as error:
            log.warning("not requeued: %s", error, extra={"action": "requeue_job", **self.log_fields})

    def ended(self) -> None:
        self._broker.ended()

    def settled_by(
        self, acknowledge: Callable[[], object], requeue: Callable[[], object], replaced: Callable[[], object]
    ) -> None:
        """From here on a request settles it."""
        self._acknowledge, self._requeue, self._replaced = acknowledge, requeue, replaced


class _Hidden(bytes):
    """The body of a typed job, in which Celery's log lines show no data."""

    def __repr__(self) -> str:
        return "a typed job's data, kept where it can be looked at"


class _Proxy:
    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class Undecoded(_Proxy):
    """A message whose body Celery takes for a task's with nothing in it: it is decoded where the job runs."""

    payload: Any = ((), {}, None)
    body: Any = b""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self.headers = sound_headers(raw.headers)


class Refused(_Proxy):
    """A message that Celery may log and report as refused, but neither settle nor print the data of."""

    @property
    def body(self) -> Any:
        """As it was delivered, but a typed job's, or one that is signed, is not printed."""
        if self._raw.content_type in (CONTENT_TYPE, SIGNED_CONTENT_TYPE):
            return _Hidden(body_of(self._raw))
        return b"" if self._raw.packed is None else self._raw.packed

    def ack(self, *_: Any, **__: Any) -> None:
        """Nothing: it is acknowledged once it is dead-lettered."""

    reject = ack_log_error = reject_log_error = ack


def sound_headers(headers: Mapping[str, Any], protocol: int = 2) -> dict[str, Any]:
    """The headers of a job's message as Celery can use them.

    Celery makes each header an attribute of its request. Left out is what is not of the type that the protocol says, and
    what would replace an attribute that is none of the message's.

    Args:
        headers: The message's; of protocol 1 its body.
        protocol: The version of Celery's protocol.
    """
    taken = _NOT_HEADERS if protocol == 2 else _NOT_HEADERS - _IN_BODY
    wrong = wire.wrong_fields(headers)
    return {name: value for name, value in headers.items() if name not in taken and name not in wrong}


def are_limits(value: Any) -> bool:
    """Whether a header ``timelimit`` holds what the pool can count down: a pair of None or positive seconds."""
    if not value:
        return True
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(one is None or (type(one) in (int, float) and 0 < one < float("inf")) for one in value)
    )


def protocol_violation(payload: Any) -> str | None:
    """Why a body is none of Celery's protocol 2; None if it is one."""
    if isinstance(payload, dict) and "args" in payload:  # body of protocol 1 under headers of protocol 2
        return None
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        return "the body is not [args, kwargs, embed]"
    args, kwargs, embed = payload
    if not isinstance(args, list | tuple):
        return "the positional arguments are no list"
    if not isinstance(kwargs, dict):
        return "the keyword arguments are no object"
    if not (embed is None or isinstance(embed, dict)):
        return "the third part of the body is no object"
    return None


def undecoded(handle: Callable[..., Any], may_start: Callable[[Any, Mapping[str, Any]], bool]) -> Callable[..., Any]:
    """A task's strategy of Celery, to which messages are handed undecoded.

    Args:
        handle: Celery's.
        may_start: Called with each message and its headers; returns whether it is to be run. Celery decodes a message of
            protocol 1, which has its headers in the body, to find the task.
    """

    def on_job(message: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
        if body is not None:
            body = sound_headers(body, protocol=1)
        headers = message.headers if body is None else {**(message.headers or {}), **body}
        if not may_start(message, headers):
            return None
        return handle(Undecoded(message) if body is None else message, body, *args, **kwargs)

    return on_job
