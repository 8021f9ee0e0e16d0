"""Queues of RabbitMQ that exist with other arguments than the app's are used as they are: declaring closes the channel."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import Any

from amqp.exceptions import PreconditionFailed

log = logging.getLogger("mindtrace_jobs.celery")

#: Argument by which RabbitMQ knows the type of a queue.
QUEUE_TYPE = "x-queue-type"
QUORUM = "quorum"
#: What RabbitMQ says of a queue that has a type of its own.
_OTHER_TYPE = re.compile(rf"arg '{QUEUE_TYPE}' for queue .* current is the value '(\w+)'")


def declare_or_adopt(queue: Any, connection: Any) -> None:
    """Declare a queue as Celery does; if it exists with other arguments, see that it is bound and leave it alone.

    A queue that turns out to be a quorum queue says so from then on, as Celery must know: such a queue refuses consumers
    whose prefetch count is global.

    Args:
        queue: Kombu's, of the app.
        connection: Kombu's, to RabbitMQ. It gets a channel for each attempt.
    """
    try:
        with connection.channel() as channel:
            queue(channel).declare()
    except PreconditionFailed as error:
        queue.no_declare = True
        found = _OTHER_TYPE.search(str(error))
        if found is not None:
            queue.queue_arguments = {**(queue.queue_arguments or {}), QUEUE_TYPE: found[1]}
        _bind(queue, connection)
        log.warning(
            "queue %s exists with other arguments and is used as it is (%s)",
            queue.name,
            error,
            extra={"action": "declare_queue", "queue": queue.name},
        )


def _bind(queue: Any, connection: Any) -> None:
    """What declaring would have done after the queue, or the exchange, was found to be another."""
    named = queue.exchange is not None and queue.exchange.name
    if named:
        with suppress(PreconditionFailed), connection.channel() as channel:
            queue.exchange(channel).declare()
    with suppress(PreconditionFailed), connection.channel() as channel:
        queue(channel).queue_declare()
    with connection.channel() as channel:
        if named:
            queue(channel).queue_bind()
        for binding in queue.bindings:
            binding.declare(channel)
            binding.bind(queue, channel=channel)
