"""``job_task``: a typed function becomes a Celery task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import update_wrapper
from typing import Any, Generic, overload

from celery import Task
from celery._state import _get_active_apps, connect_on_app_finalize, get_current_app
from celery.local import Proxy

from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.async_task import AsyncJobTask
from mindtrace_jobs.celery.bases import base_of, mixed
from mindtrace_jobs.celery.policy import OPTIONS, policy_from
from mindtrace_jobs.celery.task import InT, JobTask, OutT, schema_name
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.execution.handlers import Parameters, is_async, parameters_of
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import JobSchema


class JobDecorator(Generic[InT, OutT]):
    """Makes a task of a callable, or of one that is async, that returns the output or None: what ``job_task`` returns.

    Args:
        make: Makes and registers the task, given a function and its parameters.
        schema: What the task takes and returns.
        bound: Whether the function's first parameter is the task.
    """

    def __init__(
        self, make: Callable[[Any, Parameters], Any], schema: type[JobSchema[InT, OutT]], *, bound: bool
    ) -> None:
        self._make, self._schema, self._bound = make, schema, bound

    @overload
    def __call__(self, function: Callable[..., Coroutine[Any, Any, OutT | None]]) -> AsyncJobTask[InT, OutT]: ...

    @overload
    def __call__(self, function: Callable[..., OutT | None]) -> JobTask[InT, OutT]: ...

    def __call__(self, function: Callable[..., Any]) -> Any:
        """Make and register the task.

        Raises:
            ConfigurationError: the function's signature does not fit the schema.
        """
        if not callable(function):
            raise ConfigurationError(f"job_task makes a task of a function, not of {function!r:.80}")
        found = parameters_of(function, self._schema, bound=self._bound)
        if self._bound and is_async(function):
            raise ConfigurationError(
                f"{schema_name(self._schema)!r}: bind=True gives a coroutine function a task whose request it cannot see; "
                "ask for a JobContext"
            )
        return self._make(_function(function), found)


def _function(function: Callable[..., Any]) -> Any:
    """A function of a callable: Celery names a task's class after it, and a partial or another object has no name."""
    if hasattr(function, "__name__"):
        return function
    if is_async(function):

        async def run(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)
    else:

        def run(*args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
            return function(*args, **kwargs)

    run.__name__ = run.__qualname__ = type(function).__name__
    # Nothing of the object's own attributes is copied.
    return update_wrapper(run, function, updated=())


def job_task(
    app: Any,
    schema: type[JobSchema[InT, OutT]],
    *,
    retry: RetryPolicy | None = None,
    retry_on: Sequence[type[BaseException]] = (),
    base: type[Task] | None = None,
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
        base: A task class whose methods and options the task gets: a subclass of JobTask, or any other of Celery's.
            Default the app's own, its ``task_cls``.
        options: Celery's task options: ``time_limit``, ``soft_time_limit``, ``rate_limit``, ``bind``, ... Those that say
            how a task is retried change the policy: ``max_retries``, ``autoretry_for``, ``dont_autoretry_for``,
            ``default_retry_delay``, ``retry_kwargs``, ``retry_backoff``, ``retry_backoff_max``, ``retry_jitter``.

    Raises:
        ConfigurationError: the schema has no name, the function's signature does not fit it, or the base class handles
            messages in its own way.
    """
    _check_options(schema, options)
    if installation.find(app) is None:
        from mindtrace_jobs.celery.installing import install

        install(app)
    if retry_on:
        options["autoretry_for"] = tuple(retry_on)
    given = {name: options[name] for name in OPTIONS if name in options}
    # Retries are this package's; what is left to Celery's own are those that the function asks for by self.retry().
    for option in OPTIONS:
        if option not in ("max_retries", "default_retry_delay"):
            options.pop(option, None)
    if retry is not None:
        options.setdefault("max_retries", retry.max_retries)
    # Celery's own writing of "started" knows neither cancelled jobs nor their times.
    if "track_started" in options:
        options["job_track_started"] = options.pop("track_started")
    # Other apps of the process need not have it.
    options.setdefault("shared", False)
    wanted = base_of(app) if base is None else base

    def register(function: Any, found: Parameters) -> Any:
        kind = AsyncJobTask if is_async(function) else JobTask
        cls = _with_base(wanted, kind)
        chosen = {**cls.job_retry_options, **given}
        return app.task(
            name=schema_name(schema),
            base=cls,
            schema=schema,
            _read_parameters=found,
            job_retry=None if retry is None else policy_from(chosen, retry),
            job_retry_options=chosen,
            **options,
        )(function)

    return JobDecorator(register, schema, bound=bool(options.get("bind")))


def shared_job_task(schema: type[JobSchema[InT, OutT]], **options: Any) -> JobDecorator[InT, OutT]:
    """``job_task`` for every app of the process, as Celery's ``shared_task``: for app factories and Django applications.

    ::

        @shared_job_task(DetectionSchema, time_limit=600)
        def detect(input: DetectionInput) -> DetectionOutput: ...

    What it returns stands for the task of the app that is the current one when it is used. An app that exists is given
    the task when it is finalized; ``install(app)`` is called if it was not.

    Args:
        schema, options: As of ``job_task``.

    Raises:
        ConfigurationError: as ``job_task`` does.
    """
    _check_options(schema, options)
    name = schema_name(schema)

    def register(function: Any, _found: Parameters) -> Any:
        def of_app(app: Any) -> Any:
            return job_task(app, schema, lazy=False, **options)(function)

        connect_on_app_finalize(of_app)
        for app in list(_get_active_apps()):
            if app.finalized:
                of_app(app)
        return Proxy(lambda: get_current_app().tasks[name])

    return JobDecorator(register, schema, bound=bool(options.get("bind")))


def _check_options(schema: type[JobSchema[Any, Any]], options: dict[str, Any]) -> None:
    name = schema_name(schema)
    given = options.pop("name", name)
    if given != name:
        raise ConfigurationError(
            f"name={given!r:.80}: a job task is called as its schema, {name!r}, under which its jobs are published and read; "
            f"change the `name` of {schema.__name__}"
        )
    if options.pop("pydantic", False):
        raise ConfigurationError(f"task {name!r}: pydantic=True is for plain tasks; a job task reads its schema")


def _with_base(base: type[Any] | None, kind: type[Any]) -> type[Any]:
    if base is None or base in kind.__mro__:
        return kind
    if JobTask in getattr(base, "__mro__", ()):
        return base
    return mixed(base, kind)
