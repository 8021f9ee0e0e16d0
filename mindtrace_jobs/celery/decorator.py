"""``job_task``: a typed function becomes a Celery task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, overload

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.async_task import AsyncJobTask
from mindtrace_jobs.celery.parameters import parameters_of
from mindtrace_jobs.celery.task import InT, JobTask, OutT, schema_name
from mindtrace_jobs.errors import ConfigurationError, JobCancelledError, RejectJob, RetryJob
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

    A job that fails is retried for the errors in ``retry_on``, with exponential backoff and jitter, then dead-lettered.
    Raise ``RetryJob`` to retry whatever ``retry_on`` says, ``RejectJob`` to dead-letter at once.

    Args:
        app: The Celery app; ``install(app)`` is called if it was not.
        schema: Its name becomes the task's.
        retry_on: Exceptions worth another try.
        base: A subclass of JobTask with behaviour of your own.
        options: Celery's task options: ``max_retries`` (default 3), ``retry_backoff`` (seconds or True),
            ``retry_backoff_max``, ``retry_jitter``, ``time_limit``, ``soft_time_limit``, ``rate_limit``, ``bind``, ...

    Raises:
        ConfigurationError: the schema has no name, or the function's signature does not fit it.
    """
    name = schema_name(schema)
    if installation.find(app) is None:
        from mindtrace_jobs.celery.installing import install

        install(app)
    if retry_on:
        options["autoretry_for"] = tuple(retry_on)
    options["dont_autoretry_for"] = (*options.get("dont_autoretry_for", ()), RejectJob, RetryJob, JobCancelledError)
    # Other apps of the process need not have it.
    options.setdefault("shared", False)

    return JobDecorator(app, schema, base, name, options)
