"""How the jobs of a run get onto the queue: as whoever consumes them expects."""

from __future__ import annotations

from typing import Any, Protocol
from uuid import uuid4

from celery import Celery
from kombu import Connection, Exchange, Producer, Queue

from mindtrace_jobs import Orchestrator
from mindtrace_jobs.testing.models import image_job
from mindtrace_jobs.transports import our_url, register_aliases
from tests.jobs.loss.plan import QUEUE, Kind, token


class Publisher(Protocol):
    """Publishes numbered jobs, straight to the broker."""

    def publish(self, numbers: range) -> None:
        """Returns when the broker has them all."""

    def close(self) -> None:
        """Close the connection."""


class JobPublisher:
    """Typed jobs."""

    def __init__(self, url: str) -> None:
        self._orchestrator = Orchestrator.from_url(url)
        self._orchestrator.declare_queue(QUEUE)

    def publish(self, numbers: range) -> None:
        self._orchestrator.publish_many(QUEUE, [image_job(token(number)) for number in numbers])

    def close(self) -> None:
        self._orchestrator.close()


class StockPublisher:
    """Celery tasks or JSON messages, with stock Kombu.

    Args:
        url: The broker.
        tasks: Whether to publish tasks.
    """

    def __init__(self, url: str, *, tasks: bool) -> None:
        self._url = url
        self._app: Any = Celery("publisher", set_as_current=False) if tasks else None
        with self._connection() as connection:
            Queue(QUEUE, Exchange(QUEUE), QUEUE, channel=connection.default_channel).declare()

    def publish(self, numbers: range) -> None:
        with self._connection() as connection:
            producer = Producer(connection.default_channel, auto_declare=False)
            for number in numbers:
                self.send(producer, number)

    def send(self, producer: Producer, number: int, *, eta: str | None = None) -> None:
        """Publish one; a task may have a time, in ISO format, before which its worker must not start it."""
        body, headers, properties = self._message(number)
        if eta is not None:
            headers["eta"] = eta
        producer.publish(
            body,
            exchange="",
            routing_key=QUEUE,
            serializer="json",
            headers=headers,
            delivery_mode=2,
            **properties,
        )

    def close(self) -> None:
        pass

    def _connection(self) -> Any:
        return Connection(self._url, transport_options={"confirm_publish": True} if "amqp" in self._url else {})

    def _message(self, number: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        if self._app is None:
            return {"token": token(number)}, {}, {}
        task = self._app.amqp.as_task_v2(str(uuid4()), "loss.work", args=(token(number),))
        return task.body, task.headers, {"correlation_id": task.properties["correlation_id"]}


class MixedPublisher:
    """Celery tasks, every other one over this package's transport."""

    def __init__(self, url: str) -> None:
        register_aliases()
        self._publishers = [StockPublisher(url, tasks=True), StockPublisher(our_url(url), tasks=True)]

    def publish(self, numbers: range) -> None:
        for one, share in zip(self._publishers, (numbers[::2], numbers[1::2]), strict=True):
            one.publish(share)

    def close(self) -> None:
        for one in self._publishers:
            one.close()


def publisher(kind: Kind, url: str) -> Publisher:
    """The publisher for a kind of consumer."""
    if kind is Kind.MIXED:
        return MixedPublisher(url)
    return JobPublisher(url) if kind.typed else StockPublisher(url, tasks=bool(kind.pool))
