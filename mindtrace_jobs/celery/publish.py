"""Producers whose messages RabbitMQ confirms, for jobs of an app that has confirms off for its plain tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu import pools

from mindtrace_jobs.clients import speaks_amqp

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
