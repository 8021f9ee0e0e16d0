"""What ``install`` adds to an app's messaging: our transports, a route for jobs, and the serializer "pydantic".

The routes and the connections are added where Celery looks them up (``app.amqp``) and not to the settings: so settings
may be assigned before or after, in any order, and nothing of the app's AMQP is made before Celery itself makes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from celery.app.amqp import AMQP
from celery.app.routes import MapRoute, Router
from celery.utils.functional import maybe_evaluate
from celery.utils.imports import symbol_by_name

from mindtrace_jobs import registry
from mindtrace_jobs._callers import caller_level
from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.connection import over_our_transports
from mindtrace_jobs.routing import documented_router
from mindtrace_jobs.wire.signing import signed_only

SERIALIZER = "pydantic"
#: A name that no task has.
_ANY_TASK = "mindtrace_jobs.any task"
#: Options with which the caller says where a task goes.
_CHOSEN = ("queue", "exchange", "routing_key")
#: How settings may name the router of the documented rules.
_DOCUMENTED = (documented_router, "mindtrace_jobs.routing:documented_router")


class _CatchAllWarning:
    """A Celery router that routes nothing, but warns of jobs that the app's routes send where they send any task.

    There a worker without this package may receive them, and Celery discards what it does not know.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        self._router = Router(routes)
        self._checked: set[str] = set()

    def __call__(self, name: str, _args: Any, _kwargs: Any, options: Mapping[str, Any] | None, **_: Any) -> None:
        chosen = any((options or {}).get(option) for option in _CHOSEN)
        if chosen or name in self._checked or registry.find_schema(name) is None:
            return
        self._checked.add(name)
        route = self._taken(name)
        if route is not None:
            queue = route.get("queue") if isinstance(route, Mapping) else route
            warnings.warn(
                f"job {name!r} goes where the app's task_routes send any task, queue {getattr(queue, 'name', queue)!r}: a "
                "worker there on which mindtrace_jobs is not installed discards it. Name the job, or a pattern of jobs' "
                "names, before the route that matches everything",
                RuntimeWarning,
                stacklevel=caller_level(),
            )

    def _taken(self, name: str) -> Any:
        """The route of a job, if it is one that takes any task."""
        for router in map(maybe_evaluate, self._router.routes):
            route = self._router.query_router(router, name, (), {}, {}, None)
            if route is None:
                continue
            if isinstance(router, MapRoute):
                named = name in router.map or not next(p for p in router.patterns if p.match(name)).match(_ANY_TASK)
                return None if named else route
            try:
                return route if route == self._router.query_router(router, _ANY_TASK, (), {}, {}, None) else None
            except Exception:  # an app's router need not know this name
                return None
        return None


class JobsAMQPMixin:
    """An app's AMQP API, with a route for jobs and connections over our transports."""

    app: Any
    #: The routes as they are written in the settings.
    _written: Sequence[Any] = ()

    @cached_property
    def Connection(self) -> type[Any]:  # noqa: N802 - Celery's name
        """The connection class of the app, over our transports."""
        return over_our_transports(cast("Any", super()).Connection, installation.of(self.app).lease)

    def flush_routes(self) -> None:
        """Read the app's own routes again."""
        cast("Any", super()).flush_routes()
        written = self.app.conf.task_routes
        self._written = list(written) if isinstance(written, list | tuple) else [] if written is None else [written]

    @property
    def routes(self) -> Sequence[Any]:
        """The app's own routes (``task_routes``); behind them the router for jobs."""
        found = list(cast("Any", super()).routes)
        check = _CatchAllWarning(found)
        router = installation.of(self.app).router
        if router is None:
            return [check, *found, documented_router]
        # Documented rules in the settings answer for every job: the router that was chosen would never be asked.
        kept = [route for route, written in zip(found, self._written, strict=True) if written not in _DOCUMENTED]
        return [check, *kept, router]


class JobsAMQP(JobsAMQPMixin, AMQP):  # type: ignore[misc]
    """Celery's own AMQP API, extended; a class that can be named, so that an installed app can be pickled."""


def extend_amqp(app: Any, lease: float) -> None:
    """Let the AMQP API of an app, made or not, connect over our transports and route jobs.

    Args:
        app: The Celery app.
        lease: Seconds a received job stays with a worker that no longer renews its lease.
    """
    app.amqp_cls = _extended(symbol_by_name(app.amqp_cls))
    made = app.__dict__.get("amqp")
    if made is None:
        return
    connection = made.Connection
    made.__class__ = _extended(type(made))
    made.Connection = over_our_transports(connection, lease)
    made.__dict__.pop("router", None)
    if app.configured:
        made.flush_routes()


def _extended(base: type[Any]) -> type[Any]:
    if issubclass(base, JobsAMQPMixin):
        return base
    return JobsAMQP if base is AMQP else type(base.__name__, (JobsAMQPMixin, base), {"__module__": base.__module__})


def accept_jobs(conf: Any) -> None:
    """Add the serializer "pydantic" to what an app accepts, unless it accepts signed content only."""
    for name in ("accept_content", "result_accept_content"):
        accepted = conf.get(name)
        if accepted and SERIALIZER not in accepted and not signed_only(accepted):
            # Under the name it was changed under before, of those that Celery looks for (``namespace``).
            key = next((key for key in conf._to_keys(name) if key in conf.changes), name)
            conf.update({key: [*accepted, SERIALIZER]})
