"""What a queue is and what a backend can do."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

#: Suffix of the queue that keeps what cannot be run.
DEAD_LETTER_SUFFIX = ".dlq"


class QueueType(StrEnum):
    """The order in which a queue hands over its jobs."""

    #: First in, first out. Priorities are ignored.
    FIFO = "fifo"
    #: Higher priority first, first in first out among equals.
    PRIORITY = "priority"
    #: Last in, first out. Priorities are ignored. Not on RabbitMQ.
    STACK = "stack"


class ExchangeType(StrEnum):
    """How an exchange chooses the queues for a message (AMQP 0-9-1)."""

    #: The queues bound with exactly the routing key.
    DIRECT = "direct"
    #: The queues whose binding pattern matches: ``*`` one word, ``#`` any number of words, separated by dots.
    TOPIC = "topic"
    #: Every bound queue.
    FANOUT = "fanout"


class Capability(StrEnum):
    """What not every backend can do. The conformance suite holds each client to what it declares."""

    #: Last-in-first-out queues.
    STACK = "stack"
    #: Jobs waiting in other processes or on other machines can be consumed.
    DISTRIBUTED = "distributed"
    #: Jobs outlive a restart of the broker.
    DURABLE = "durable"
    #: ``queue_info`` knows how many jobs are received and not yet acknowledged.
    COUNTS_UNACKNOWLEDGED = "counts_unacknowledged"
    #: The broker counts how often work on a job began and its worker vanished.
    COUNTS_LOSSES = "counts_losses"
    #: Results and status can be kept without a ``result_backend`` of their own.
    RESULTS = "results"


class QueueInfo(BaseModel):
    """A queue at one moment. None: this broker does not tell.

    Attributes:
        type: As it was declared first; also None for a plain queue on Redis or in memory, one that somebody made who knows
            no types, such as a Celery worker.
        ready: Jobs waiting to be received.
        unacknowledged: Jobs received and not yet acknowledged.
        delayed: Jobs waiting for their time.
        consumers: Consumers that hold or wait for jobs.
        dead_lettered: Jobs in the queue's dead-letter queue.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    type: QueueType | None = None
    ready: int
    unacknowledged: int | None = None
    delayed: int | None = None
    consumers: int | None = None
    dead_lettered: int = 0


def dead_letter_queue(queue: str) -> str:
    """The name of the queue that keeps what ``queue`` could not run. A dead-letter queue is its own."""
    return origin_queue(queue) + DEAD_LETTER_SUFFIX


def origin_queue(queue: str) -> str:
    """The queue that a dead-letter queue belongs to; any other queue itself."""
    return queue.removesuffix(DEAD_LETTER_SUFFIX)


def is_dead_letter_queue(queue: str) -> bool:
    """Whether jobs in this queue are dead already."""
    return queue.endswith(DEAD_LETTER_SUFFIX)
