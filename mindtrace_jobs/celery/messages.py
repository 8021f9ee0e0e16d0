"""What a worker's main process must know of a raw Kombu message: whether it is a task at all, and where it came from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mindtrace_jobs.clients.delivery import DELIVERY_COUNT, message_of
from mindtrace_jobs.message import ATTEMPTS, Message

_BODY_LENGTH = 3


def original(raw: Any) -> Message:
    """The message as it was published. Kombu has unpacked a compressed body, which its header must not deny."""
    message = message_of(raw)
    if message.headers.get("compression") and not raw.errors:
        headers = {name: value for name, value in message.headers.items() if name != "compression"}
        message = replace(message, headers=headers)
    return message


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


def fault_of(headers: Any, payload: Any) -> str | None:
    """Why a message with the header ``task`` is no task message of Celery's protocol 2; None if it is one."""
    if not isinstance(headers.get("id"), str):
        return "the header `id` is no text"
    if isinstance(payload, dict) and "args" in payload:  # body of protocol 1 under headers of protocol 2
        return None
    if not isinstance(payload, list | tuple) or len(payload) != _BODY_LENGTH:
        return "the body is not [args, kwargs, embed]"
    args, kwargs, embed = payload
    if not isinstance(args, list | tuple):
        return "the positional arguments are no list"
    if not isinstance(kwargs, dict):
        return "the keyword arguments are no object"
    if not (embed is None or isinstance(embed, dict)):
        return "the third part of the body is no object"
    limits = headers.get("timelimit")
    if limits and not (isinstance(limits, list | tuple) and len(limits) == 2):
        return "the header `timelimit` is no pair"
    return None


def worker_losses(headers: Any, *, counted: bool) -> int:
    """How often work on the message began and its worker vanished, as far as the message says.

    Args:
        headers: The message's.
        counted: Whether the broker is this package's transport, which counts starts and not deliveries.
    """
    losses, deliveries = (
        value if isinstance(value, int) else 0 for value in (headers.get(ATTEMPTS), headers.get(DELIVERY_COUNT))
    )
    return losses if counted else max(losses, deliveries)
