"""How jobs are published to RabbitMQ where that differs from plain tasks: confirmed, and to queues as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from kombu import pools

from mindtrace_jobs.clients import speaks_amqp

log = logging.getLogger("mindtrace_jobs.celery")

#: Seconds to wait for the broker's confirm.
CONFIRM_TIMEOUT = 30.0


@contextmanager
def confirming_producer(app: Any) -> Iterator[Any]:
    """A producer on a pooled connection in confirm mode; None where the app's own will do.

    That is so on other brokers than RabbitMQ, and if the app has ``confirm_publish`` on.
    """
    if not speaks_amqp(app) or (app.conf.broker_transport_options or {}).get("confirm_publish"):
        yield None
        return
    connection = app.connection_for_write(transport_options={"confirm_publish": True})
    with pools.producers[connection].acquire(block=True) as producer:
        yield producer


def exists_otherwise(error: Any) -> bool:
    """Whether publishing failed because the queue exists with other arguments than the app declares.

    Jobs are then published without declaring it, as a worker then consumes it.

    Args:
        error: amqp's PreconditionFailed. Of an exchange it would not say that the queue exists.
    """
    found = bool(error.method_name == "Queue.declare")
    if found:
        _warn(str(error))
    return found


@cache
def _warn(fault: str) -> None:
    """Once for each queue."""
    log.warning("a queue of jobs is not what the app declares, and is used as it is: %s", fault)
