"""The stack with quorum queues."""

from __future__ import annotations

from kombu import Exchange, Queue

from tests.jobs.celery.stack import app
from tests.jobs.celery.workers import QUORUM_QUEUES

app.conf.task_queues = [
    Queue(name, Exchange(name), routing_key=name, queue_arguments=arguments)
    for name, arguments in QUORUM_QUEUES.items()
]
# Celery makes 28 queues for messages with an ETA; as quorum queues they would take seconds.
app.conf.broker_native_delayed_delivery_queue_type = "classic"
