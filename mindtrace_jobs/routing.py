"""Which queue a job belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from mindtrace_jobs import registry
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.jobs import Job, JobInput

#: The documented rules: first match wins.
DEFAULT_RULES: tuple[tuple[str, str], ...] = (("*vbrain*", "vbrain_jobs"), ("*detection*", "detection_jobs"))
DEFAULT_QUEUE = "default_jobs"


class JobRouter:
    """Maps a job to a queue: by name, else by input type, else the default.

    Args:
        rules: ``(pattern, queue)`` pairs tried in order against the job's name. A pattern is a shell-style glob
            (``"*vbrain*"``, case-sensitive) or a compiled regular expression that is searched for.
        types: Input class to queue; a subclass without an entry of its own uses its nearest base's.
        default: The queue of jobs that nothing else matches. None: routing such a job raises ConfigurationError.

    An instance is also a Celery router: ``task_routes = [JobRouter()]``. It answers for registered schemas only and
    leaves every other task to the routers after it.
    """

    def __init__(
        self,
        rules: Iterable[tuple[str | re.Pattern[str], str]] = DEFAULT_RULES,
        types: Mapping[type[JobInput], str] | None = None,
        default: str | None = DEFAULT_QUEUE,
    ) -> None:
        self._rules: list[tuple[str | re.Pattern[str], str]] = []
        self._types = dict(types or {})
        self.default = default
        try:
            for pattern, queue in rules:
                self.add_rule(pattern, queue)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"`rules` are pairs (pattern, queue): {error}") from error

    def add_rule(self, pattern: str | re.Pattern[str], queue: str) -> None:
        """Send jobs whose name matches to ``queue``, unless an earlier rule matches.

        Raises:
            ConfigurationError: the pattern is neither a glob nor a compiled regular expression.
        """
        if not (isinstance(pattern, str) or hasattr(pattern, "search")):
            raise ConfigurationError(f"a pattern is a glob or a compiled regular expression, not {pattern!r}")
        self._rules.append((pattern, queue))

    def add_type(self, input_type: type[JobInput], queue: str) -> None:
        """Send jobs with this input type to ``queue``, unless a rule matches their name."""
        self._types[input_type] = queue

    def route(self, job: Job[Any]) -> str:
        """The queue of ``job``.

        Raises:
            ConfigurationError: nothing matches and there is no default.
        """
        return self.queue_for(job.name, type(job.payload.input))

    def queue_for(self, name: str, input_type: type[JobInput] | None = None) -> str:
        """The queue of a job of this name and input type; raises as :meth:`route` does."""
        queue = self._by_name(name) or self._by_type(input_type) or self.default
        if queue is None:
            raise ConfigurationError(
                f"no rule routes job {name!r} and the router has no default: add_rule(pattern, queue), or name the "
                "queue with publish_message(queue, job)"
            )
        return queue

    def queues_for(self, input_type: type[JobInput]) -> list[str]:
        """The queues where jobs with this input may arrive: what a worker specialized in it consumes, sorted."""
        found = ((name, registry.find_schema(name)) for name in registry.schema_names())
        inputs = {name: schema.input_type() for name, schema in found if schema}
        queues = {self.queue_for(name, cls) for name, cls in inputs.items() if issubclass(cls, input_type)}
        queues |= {queue for cls, queue in self._types.items() if issubclass(cls, input_type)}
        typed = self._by_type(input_type)
        if typed:
            queues.add(typed)
        if not queues and self.default:
            queues.add(self.default)
        return sorted(queues)

    def __call__(self, name: str, *_args: Any, **_options: Any) -> dict[str, str] | None:
        """Celery's router protocol (``task_routes``)."""
        schema = registry.find_schema(name)
        return None if schema is None else {"queue": self.queue_for(name, schema.input_type())}

    def _by_name(self, name: str) -> str | None:
        for pattern, queue in self._rules:
            if fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.search(name):
                return queue
        return None

    def _by_type(self, input_type: type[JobInput] | None) -> str | None:
        return next(
            (self._types[cls] for cls in (input_type.__mro__ if input_type else ()) if cls in self._types), None
        )


#: The documented rules, for settings that name a router: ``task_routes = ["mindtrace_jobs.routing:documented_router"]``.
documented_router = JobRouter()


class AppRouter(JobRouter):
    """Routes as a Celery app does: its ``task_routes`` first, for what they do not mention the documented rules.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app

    def route(self, job: Job[Any]) -> str:
        queue = super().route(job)
        try:
            self._app.amqp.queues[queue]
        except KeyError as error:
            raise ConfigurationError(
                f"job {job.name!r} belongs to queue {queue!r}, which is not in the app's task_queues, and its "
                "task_create_missing_queues is off: add it, name another in task_routes, or submit(job, queue=...)"
            ) from error
        return queue

    def queue_for(self, name: str, input_type: type[JobInput] | None = None) -> str:
        route = self._app.amqp.router.lookup_route(name, (), {}, {}, None)
        queue = route.get("queue") if isinstance(route, Mapping) else route
        if queue is None:
            return super().queue_for(name, input_type)
        queue = self._app.amqp.queues.aliases.get(queue, queue)
        return str(getattr(queue, "name", queue))
