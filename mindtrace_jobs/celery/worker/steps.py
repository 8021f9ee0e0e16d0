"""Worker steps: what happens once when a worker starts."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.utils.imports import symbol_by_name
from celery.worker.consumer.tasks import Tasks

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.amqp import accept_jobs
from mindtrace_jobs.celery.queues import QUEUE_TYPE, QUORUM
from mindtrace_jobs.celery.worker.consumer import with_jobs

log = logging.getLogger("mindtrace_jobs.celery")

#: Seconds after which RabbitMQ takes back an unacknowledged message by default, since the version that does so.
_CONSUMER_TIMEOUT = 30 * 60
_FIRST_VERSION = (3, 8, 17)
_QUEUE_ARGUMENT = "x-consumer-timeout"

#: Seconds between two looks of a worker's loop whether the worker is to stop.
_LOOK_EVERY = 1.0
#: How often a quorum queue delivers a message again if it does not say so itself, since the version that has a limit.
_DELIVERY_LIMIT = 20
_FIRST_LIMITED_VERSION = (4, 0, 0)
_LIMIT_ARGUMENT = "x-delivery-limit"


class ExtendedConsumer(bootsteps.Step):  # type: ignore[misc]
    """Has the worker use its consumer class, whichever that is, with jobs, and accept jobs.

    Here and not in the settings, so that only workers import the class, and only when they start; by then nobody
    assigns settings any more.
    """

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        # Steps are made before any of them makes what it is for.
        accept_jobs(worker.app.conf)
        worker.consumer_cls = with_jobs(symbol_by_name(worker.consumer_cls))


class PromptStop(bootsteps.StartStopStep):  # type: ignore[misc]
    """Has an idle worker see within a second that it is to stop.

    A signal does not end the loop's wait (PEP 475): that ends when a message comes, a timer is due, or after ten seconds.
    AMQP sends nothing to an idle worker, and without events (``--without-heartbeat``) no timer is due.
    """

    requires = (Tasks,)
    _entry: Any = None

    def start(self, consumer: Any) -> None:
        """Have a timer be due each second."""
        self._entry = consumer.timer.call_repeatedly(_LOOK_EVERY, _nothing)

    def stop(self, consumer: Any) -> None:
        """Remove it: with the next connection comes another."""
        del consumer
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.cancel()


def _nothing() -> None:
    """That the loop comes round is all."""


class ConsumerTimeoutWarning(bootsteps.StartStopStep):  # type: ignore[misc]
    """Warns when a job may run longer than RabbitMQ leaves it unacknowledged.

    The server's setting cannot be read over AMQP, so its default is taken, unless the queue says otherwise.
    """

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        """Compare time limits with the server's default."""
        if consumer.connection.transport.driver_type != "amqp":
            return
        version = server_version(consumer.connection)
        if version is None or version < _FIRST_VERSION:
            return
        conf = consumer.app.conf
        for task in list(consumer.app.tasks.values()):
            if not getattr(task, "is_job", False):
                continue
            limit = task.time_limit or conf.task_time_limit
            if limit is not None and limit <= _CONSUMER_TIMEOUT:
                continue
            queue = consumer.app.amqp.queues.consume_from.get(task.queue_name)
            if queue is None or _QUEUE_ARGUMENT in (queue.queue_arguments or {}):
                continue
            log.warning(
                "task %s may run for %s, but RabbitMQ by default gives a job that is not acknowledged within 30 minutes "
                "to another worker: raise consumer_timeout on the server, declare queue %s with %r (from RabbitMQ "
                "3.12 on), or set a time_limit of at most %d s",
                task.name,
                "any time" if limit is None else f"{limit:g} s",
                queue.name,
                _QUEUE_ARGUMENT,
                _CONSUMER_TIMEOUT,
                extra={"action": "check_consumer_timeout", "job_name": task.name, "queue": queue.name},
            )


class DeliveryLimitWarning(bootsteps.StartStopStep):  # type: ignore[misc]
    """Warns when a quorum queue would drop a job before it is dead-lettered for losing its worker.

    Arguments are those of the app's ``task_queues``; what a policy of the server says cannot be read over AMQP.
    """

    requires = (Tasks,)

    def start(self, consumer: Any) -> None:
        """Compare the queues' limits with the number of workers a job may lose."""
        if consumer.connection.transport.driver_type != "amqp":
            return
        found = installation.find(consumer.app)
        losses = found.max_worker_losses if found is not None else 0
        limited = (server_version(consumer.connection) or ()) >= _FIRST_LIMITED_VERSION
        for queue in consumer.app.amqp.queues.consume_from.values():
            arguments = queue.queue_arguments or {}
            limit = arguments.get(_LIMIT_ARGUMENT, _DELIVERY_LIMIT if limited else None)
            if arguments.get(QUEUE_TYPE) != QUORUM or limit is None or "x-dead-letter-exchange" in arguments:
                continue
            if limit < losses:
                log.warning(
                    "queue %s drops a job that it has delivered %d times, but jobs are dead-lettered when they have lost "
                    "%d workers: declare it with %r of %d or more, or give it an x-dead-letter-exchange",
                    queue.name,
                    limit + 1,
                    losses,
                    _LIMIT_ARGUMENT,
                    losses,
                    extra={"action": "check_delivery_limit", "queue": queue.name},
                )


def server_version(connection: Any) -> tuple[int, ...] | None:
    """The version in RabbitMQ's greeting."""
    properties = getattr(connection.connection, "server_properties", None) or {}
    text = properties.get("version", "")
    text = text.decode() if isinstance(text, bytes) else str(text)
    parts = text.split(".")[:3]
    return tuple(int(part) for part in parts) if parts and all(part.isdigit() for part in parts) else None
