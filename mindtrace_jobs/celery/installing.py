"""``install(app)``: typed jobs on an existing Celery app, and nothing else changed."""

from __future__ import annotations

from typing import Any

from celery.utils.imports import symbol_by_name

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.connection import over_our_transports
from mindtrace_jobs.celery.consumer import JobsConsumer, JobsConsumerMixin, with_jobs
from mindtrace_jobs.celery.installation import Installation, real_app
from mindtrace_jobs.celery.steps import ConsumerTimeoutWarning
from mindtrace_jobs.celery.typed_json import register_types
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.routing import JobRouter

SERIALIZER = "pydantic"
_STOCK_CONSUMER = "celery.worker.consumer:Consumer"
# By name, as the consumer: settings can then be printed, copied and written to a file.
_ROUTER = "mindtrace_jobs.routing:documented_router"


def install(
    app: Any,
    *,
    lease: float = 60.0,
    dead_letters: bool = True,
    track: bool = False,
    max_worker_losses: int = 3,
    router: JobRouter | None = None,
) -> None:
    """Let a Celery app run typed jobs. Its plain tasks keep serializer, queues, options, results and wire bytes.

    Call it once where the app is made, before or after it is configured; calling it again only replaces the choices. It

    - accepts the serializer "pydantic" beside what the app accepts,
    - appends a router for jobs behind the app's own ``task_routes``,
    - extends the worker's consumer class, the app's own too, so that no message is dropped,
    - connects to Redis and memory over this package's transports, which lose no job and renew leases,
    - adds a worker step that warns when RabbitMQ would take long jobs back.

    Args:
        app: The Celery app.
        lease: Seconds until a job of a worker that vanished is given to another. A worker that lives renews it.
        dead_letters: Keep what cannot run in ``<queue>.dlq``; without it Celery drops it.
        track: Record the start of every job, so that its status says running; else only of submitted jobs.
        max_worker_losses: How often a job may take its worker process down before it is dead-lettered.
        router: Where jobs go that the app's own routes do not mention. Default the router of an earlier call, else the
            documented rules.

    Raises:
        ConfigurationError: ``lease`` or ``max_worker_losses`` is not positive.
    """
    app = real_app(app)
    if lease <= 0:
        raise ConfigurationError(f"lease is {lease}; it must be a positive number of seconds")
    if max_worker_losses < 1:
        raise ConfigurationError(f"max_worker_losses is {max_worker_losses}; it must be at least 1")
    known = installation.find(app)
    found = known or Installation(app)
    found.lease, found.dead_letters, found.track = lease, dead_letters, track
    found.max_worker_losses = max_worker_losses
    found.router = router or found.router
    installation.remember(found)
    register_types()
    app.amqp.Connection = over_our_transports(app.amqp.Connection, lease)
    app.steps["consumer"].add(ConsumerTimeoutWarning)

    def apply(**_: Any) -> None:
        _configure(app, found.router)

    if app.configured:
        apply()
    # Every time the configuration is read, since what was set before is gone then.
    app.on_after_configure.connect(apply, weak=False, dispatch_uid="mindtrace_jobs.install")


def _configure(app: Any, router: JobRouter | None) -> None:
    conf = app.conf
    changes: dict[str, Any] = {}
    for name in ("accept_content", "result_accept_content"):
        accepted = conf.get(name)
        if accepted and SERIALIZER not in accepted:
            changes[name] = [*accepted, SERIALIZER]
    routes = conf.task_routes
    listed = list(routes) if isinstance(routes, list | tuple) else [] if routes is None else [routes]
    ours = [route for route in listed if isinstance(route, JobRouter) or route == _ROUTER]
    if not ours:
        changes["task_routes"] = [*listed, router or _ROUTER]
    elif router is not None and router not in ours:
        changes["task_routes"] = [*(route for route in listed if route not in ours), router]
    consumer = _consumer_class(conf.worker_consumer)
    if consumer is not None:
        changes["worker_consumer"] = consumer
    if changes:
        conf.update(changes)


def _consumer_class(configured: Any) -> Any:
    """The setting ``worker_consumer`` that extends the app's own; None if it does so already."""
    if configured == _STOCK_CONSUMER:
        return f"{JobsConsumer.__module__}:{JobsConsumer.__qualname__}"
    base = symbol_by_name(configured)
    return None if issubclass(base, JobsConsumerMixin) else with_jobs(base)
