"""``install(app)``: typed jobs on an existing Celery app, and nothing else changed."""

from __future__ import annotations

from typing import Any

from celery import signals

from mindtrace_jobs._arguments import check_count, check_timeout
from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.amqp import accept_jobs, extend_amqp
from mindtrace_jobs.celery.installation import Installation, real_app
from mindtrace_jobs.celery.logs import connect
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.results.store import flush_all
from mindtrace_jobs.routing import JobRouter
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED
from mindtrace_jobs.wire.typed_json import register_types

#: Steps of a worker and of its consumer, by name: a producer imports nothing that only workers need.
_STEPS = (
    ("worker", "mindtrace_jobs.celery.worker.steps:ExtendedConsumer"),
    ("consumer", "mindtrace_jobs.celery.worker.steps:ConsumerTimeoutWarning"),
    ("consumer", "mindtrace_jobs.celery.worker.steps:DeliveryLimitWarning"),
    ("consumer", "mindtrace_jobs.celery.worker.steps:PromptStop"),
)


def install(
    app: Any,
    *,
    lease: float = 60.0,
    dead_letters: bool = True,
    track: bool = False,
    max_worker_losses: int = 3,
    max_decompressed_bytes: int | None = MAX_DECOMPRESSED,
    router: JobRouter | None = None,
) -> None:
    """Let a Celery app run typed jobs. Its plain tasks keep serializer, queues, options, results and wire bytes.

    Call it once where the app is made, before or after it is configured; calling it again only replaces the choices. It

    - accepts the serializer "pydantic" beside what the app accepts; an app that accepts signed messages only
      (``app.setup_security()``, before or after) goes on doing so, and its jobs are signed,
    - routes jobs that the app's own ``task_routes`` do not mention,
    - connects to Redis and memory over this package's transports, which lose no job and renew leases,
    - has log records say which job made them, by a filter on the handlers of Celery's loggers,
    - adds worker steps: one extends the worker's consumer class, the app's own too, so that no message is dropped, others
      warn when RabbitMQ would take long jobs back, or a quorum queue drop jobs, or have an idle worker stop at once.

    It reads no setting before Celery does, so they may be assigned before and after.

    Args:
        app: The Celery app.
        lease: Seconds until a job of a worker that vanished is given to another. A worker that lives renews it.
        dead_letters: Keep what cannot run in ``<queue>.dlq``; without it Celery drops it.
        track: Record the start of every job, so that its status says running; else only of submitted jobs.
        max_worker_losses: How often a job may take its worker process down before it is dead-lettered.
        max_decompressed_bytes: Most bytes that a compressed body, also a plain task's, may have when it is decompressed;
            beyond it is dead-lettered. None: any number. Default 64 MiB.
        router: Where jobs go that the app's own routes do not mention. Default the router of an earlier call, else the
            documented rules.

    Raises:
        ConfigurationError: ``lease``, ``max_worker_losses`` or ``max_decompressed_bytes`` is no positive number.
    """
    app = real_app(app)
    check_timeout("lease", lease, optional=False)
    check_count("max_worker_losses", max_worker_losses)
    if max_decompressed_bytes is not None and max_decompressed_bytes < 1:
        raise ConfigurationError(f"max_decompressed_bytes is {max_decompressed_bytes}; it must be at least 1, or None")
    found = installation.find(app) or Installation(app)
    found.max_decompressed_bytes = max_decompressed_bytes
    found.lease, found.dead_letters, found.track = lease, dead_letters, track
    found.max_worker_losses, found.router = max_worker_losses, router or found.router
    installation.remember(found)
    register_types()
    connect()
    signals.worker_process_shutdown.connect(_flush_records, weak=False)
    extend_amqp(app, lease)
    for blueprint, step in _STEPS:
        app.steps[blueprint].add(step)

    if app.configured:
        accept_jobs(app.conf)
    # Every time the configuration is read, since what was set before is gone then; a worker asks once more.
    app.on_after_configure.connect(_accept, weak=False, dispatch_uid="mindtrace_jobs.install")


def _accept(source: Any, **_: Any) -> None:
    accept_jobs(source)


def _flush_records(**_: Any) -> None:
    """A pool process ends without Python's own exit handlers."""
    flush_all()
