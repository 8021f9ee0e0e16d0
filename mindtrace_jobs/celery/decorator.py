"""``job_task``: a typed function becomes a Celery task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, overload

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.async_task import AsyncJobTask
from mindtrace_jobs.celery.policy import OPTIONS, policy_from
from mindtrace_jobs.celery.task import InT, JobTask, OutT, schema_name
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.execution.handlers import parameters_of
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import JobSchema


class JobDecorator(Generic[InT, OutT]):
    """Makes a task of a function, or of a coroutine function, that returns the output or None: what ``job_task`` returns.

    Args:
        app, schema, base: As ``job_task``'s.
        name: The task's.
        options: Celery's.
    """

    def __init__(
        self,
        app: Any,
        schema: type[JobSchema[InT, OutT]],
        base: type[JobTask[Any, Any]],
        name: str,
        options: Mapping[str, Any],
    ) -> None:
        self._app, self._schema, self._base, self._name, self._options = app, schema, base, name, options

    @overload
    def __call__(self, function: Callable[..., Coroutine[Any, Any, OutT | None]]) -> AsyncJobTask[InT, OutT]: ...

    @overload
    def __call__(self, function: Callable[..., OutT | None]) -> JobTask[InT, OutT]: ...

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Make and register the task.

        Raises:
            ConfigurationError: the function's signature does not fit the schema.
        """
        bound = bool(self._options.get("bind"))
        is_async = inspect.iscoroutinefunction(function)
        if is_async and bound:
            raise ConfigurationError(
                f"{self._name!r}: bind=True gives a coroutine function a task whose request it cannot see; ask for a "
                "JobContext"
            )
        found = parameters_of(function, self._schema, bound=bound)
        base = AsyncJobTask if is_async and self._base is JobTask else self._base
        task = self._app.task(name=self._name, base=base, schema=self._schema, _read_parameters=found, **self._options)
        return task(function)


def job_task(
    app: Any,
    schema: type[JobSchema[InT, OutT]],
    *,
    retry: RetryPolicy | None = None,
    retry_on: Sequence[type[BaseException]] = (),
    base: type[JobTask[Any, Any]] = JobTask,
    **options: Any,
) -> JobDecorator[InT, OutT]:
    """Make a typed function a Celery task that runs the jobs of a schema.

    ::

        @job_task(app, DetectionSchema, retry_on=(ConnectionError,), max_retries=5, time_limit=600)
        def detect(input: DetectionInput, context: JobContext) -> DetectionOutput: ...

    The input is validated before the function runs, and its output after. A parameter annotated ``Job`` gets the job,
    one annotated ``JobContext`` the context; the function stays callable directly with the input alone. It may be an
    ``async def``: see ``AsyncJobTask``.

    A job that fails is retried by ``retry``, then dead-lettered, as by a Consumer. Raise ``RetryJob`` to retry whatever
    the policy says, ``RejectJob`` to dead-letter at once.

    Args:
        app: The Celery app; ``install(app)`` is called if it was not.
        schema: Its name becomes the task's.
        retry: How often a failing job is run again, and after which errors. Default ``RetryPolicy()``, with the
            ``max_worker_losses`` that the app was installed with.
        retry_on: Exceptions worth another try, in place of the policy's.
        base: A subclass of JobTask with behaviour of your own.
        options: Celery's task options: ``time_limit``, ``soft_time_limit``, ``rate_limit``, ``bind``, ... Those that say
            how a task is retried change the policy: ``max_retries``, ``autoretry_for``, ``dont_autoretry_for``,
            ``default_retry_delay``, ``retry_kwargs``, ``retry_backoff``, ``retry_backoff_max``, ``retry_jitter``.

    Raises:
        ConfigurationError: the schema has no name, or the function's signature does not fit it.
    """
    name = schema_name(schema)
    if installation.find(app) is None:
        from mindtrace_jobs.celery.installing import install

        install(app)
    if retry_on:
        options["autoretry_for"] = tuple(retry_on)
    inherited = {name: getattr(base, name) for name in OPTIONS if name in own_options(base)}
    chosen = {**inherited, **{name: options[name] for name in OPTIONS if name in options}}
    # Retries are this package's; what is left to Celery's own are those that the function asks for by self.retry().
    for option in OPTIONS:
        if option not in ("max_retries", "default_retry_delay"):
            options.pop(option, None)
    options["job_retry"] = policy_from(chosen, retry) if retry is not None else None
    options["job_retry_options"] = chosen
    if retry is not None:
        options.setdefault("max_retries", retry.max_retries)
    # Celery's own writing of "started" knows neither cancelled jobs nor their times.
    options["job_track_started"] = options.pop("track_started", None)
    # Other apps of the process need not have it.
    options.setdefault("shared", False)
    return JobDecorator(app, schema, base, name, options)


def own_options(base: type[Any]) -> set[str]:
    """Names of the attributes that a subclass of JobTask sets itself."""
    return {name for cls in base.__mro__[: base.__mro__.index(JobTask)] for name in vars(cls)}
