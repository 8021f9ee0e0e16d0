"""Producers of jobs on RabbitMQ: the broker confirms each, also for apps that have confirms off for their plain tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import MessageNacked
from kombu import Queue, pools
from kombu.exceptions import OperationalError
from kombu.messaging import Producer

from mindtrace_jobs.celery.queues import declare_or_adopt
from mindtrace_jobs.clients import speaks_amqp

#: Seconds to wait for the broker's confirm.
CONFIRM_TIMEOUT = 30.0


class JobsProducer(Producer):
    """A Kombu producer that also publishes to queues which exist with other arguments than the app's."""

    def maybe_declare(self, entity: Any, retry: bool = False, **retry_policy: Any) -> Any:
        """Declare an exchange or a queue once on a connection."""
        is_queue = isinstance(entity, Queue)
        if is_queue and not entity.no_declare and hash(entity) not in self.connection.declared_entities:
            declare_or_adopt(entity, self.connection)
        declare: Any = super().maybe_declare
        return declare(entity, retry, **retry_policy)


class _Producers(pools.PoolGroup):
    def create(self, connection: Any, limit: Any) -> Any:
        return pools.ProducerPool(pools.connections[connection], limit=limit, Producer=JobsProducer)


_group: Any = _Producers
_producers = pools.register_group(_group(limit=pools.use_global_limit))


@contextmanager
def confirming_producer(app: Any) -> Iterator[Any]:
    """A producer on a pooled connection in confirm mode; None on other brokers than RabbitMQ.

    Raises:
        kombu.exceptions.OperationalError: what is published with it is refused.
    """
    if not speaks_amqp(app):
        yield None
        return
    connection = app.connection_for_write(transport_options={"confirm_publish": True})
    with _producers[connection].acquire(block=True) as producer:
        try:
            yield producer
        except OperationalError as error:
            if not isinstance(error.__cause__, MessageNacked):
                raise
            # Kombu's has no text.
            raise OperationalError("RabbitMQ refused the job (basic.nack): is its queue full?") from error.__cause__
