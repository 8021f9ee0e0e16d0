"""A complete Celery configuration for typed jobs: point an app to it, or copy what you need.

    app = Celery("project")
    app.config_from_object("celeryconfig")
    mindtrace_jobs.celery.install(app)

Each setting stands here for the reason beside it; what Celery does well by default is left out. Broker and result backend
come from the environment, and are in memory if it names none: enough to try jobs out in one process.
"""

from __future__ import annotations

import os

# Broker and results --------------------------------------------------------------------------------------------------

#: redis://host:6379/0, sentinel://..., amqp://user:password@host/vhost, or several separated by ";" for failover.
broker_url = os.environ.get("CELERY_BROKER_URL", "memory://")

#: Where status and results are kept, readable by everybody: redis://host:6379/1. Not rpc://, which only the publisher
#: can read.
result_backend = os.environ.get(
    "CELERY_RESULT_BACKEND", "mindtrace_jobs.results.memory:MemoryBackend+memory://local/default"
)

#: One day. Results are for whoever waits, not an archive.
result_expires = 24 * 60 * 60

#: Keeps name, worker and arguments with the results of plain tasks; JobRecord does not need it.
result_extended = True

#: A worker that starts before its broker waits for it instead of ending.
broker_connection_retry_on_startup = True

#: Seconds until a broker that does not answer is an error.
broker_connection_timeout = 5.0

#: An unanswered command fails after 30 seconds instead of never, on brokers and results alike.
redis_socket_timeout = 30.0
redis_socket_connect_timeout = 5.0

# RabbitMQ --------------------------------------------------------------------------------------------------------------

#: Publishing returns when RabbitMQ has the message. Jobs do that always; this makes plain tasks do it too.
#: (The Redis and memory transports do not know the option, and ignore it.)
broker_transport_options = {"confirm_publish": True}

# What is accepted ------------------------------------------------------------------------------------------------------

#: No pickle: a message must not choose what code runs. ``install`` adds "pydantic".
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"

# How work is done ------------------------------------------------------------------------------------------------------

#: A worker takes a job when a process is free for it; others that wait stay with whoever is free first.
worker_prefetch_multiplier = 1

#: Plain tasks like jobs: acknowledged when done, and run again if their worker is lost.
task_acks_late = True
task_reject_on_worker_lost = True

#: A job that has started goes on when the connection to the broker is lost; at worst it is run twice.
worker_cancel_long_running_tasks_on_connection_loss = False

#: At a cold shutdown jobs get 30 seconds to end by themselves; what does not goes back to its queue.
worker_soft_shutdown_timeout = 30.0
worker_enable_soft_shutdown_on_idle = True

#: A hang is ended some time. Half an hour is what RabbitMQ leaves a job unacknowledged by default; a task that needs
#: longer says so itself (and RabbitMQ's consumer_timeout must be raised).
task_soft_time_limit = 25 * 60
task_time_limit = 28 * 60

#: Processes are replaced now and then, against leaks in native libraries.
worker_max_tasks_per_child = 1000

# What monitors see -----------------------------------------------------------------------------------------------------

#: Flower and ``celery events`` follow a job from its publishing on.
worker_send_task_events = True
task_send_sent_event = True

#: Status "running" for plain tasks too; submitted jobs have it anyway.
task_track_started = True

#: Times without daylight saving.
timezone = "UTC"
enable_utc = True
