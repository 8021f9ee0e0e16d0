"""The stack with a queue that an exchange fills, by a routing key that is not the queue's name."""

from __future__ import annotations

from kombu import Exchange, Queue

from tests.jobs.celery.stack import app

app.conf.task_queues = [Queue("media_jobs", Exchange("media", "direct"), routing_key="frames")]
app.conf.worker_log_format = "<%(queue)s> %(message)s"
