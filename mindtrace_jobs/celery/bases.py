"""Task classes of others as bases of job tasks: an app's ``task_cls``, Flask's, Django's, celery-once's, ...

A job task is one by what it publishes and by how a worker calls it. The methods of another class are called inside of
that, as in a plain task: its ``__call__`` around the job function, its ``apply_async`` around the publishing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pydantic_core
from celery import Task

from mindtrace_jobs.celery.arguments import fields_of, holds_output, job_from
from mindtrace_jobs.celery.policy import OPTIONS
from mindtrace_jobs.celery.records import ENTERED
from mindtrace_jobs.errors import ConfigurationError, InvalidInputError
from mindtrace_jobs.jobs import Job

#: What a job task has whatever another class says.
_FIXED = (
    "serializer",
    "typing",
    "store_eager_result",
    "track_started",
    "retry_on_worker_lost",
    "MaxRetriesExceededError",
)
#: What another class cannot have of its own: it is how a worker handles the message of a job.
_OF_WORKERS = ("Request", "Strategy", "start_strategy")
#: What Celery writes into the base class of an app's tasks.
_GENERATED = {"app", "_app", "abstract", "__module__", "__doc__", "__reduce__"}
#: The option in which a job passes through another class's ``apply_async``.
JOB_OPTION = "job"


def base_of(app: Any) -> type[Any] | None:
    """The app's own base class of tasks, its ``task_cls`` or what was assigned to ``app.Task``; None if it has none."""
    found: type[Any] = app.Task
    return found if any(set(vars(cls)) - _GENERATED for cls in _foreign(found)) else None


def _foreign(cls: type[Any]) -> list[type[Any]]:
    """A task class and its bases, without Celery's own."""
    return [base for base in cls.__mro__ if base not in Task.__mro__]


def mixed(base: type[Any], job_task: type[Any]) -> type[Any]:
    """A job task class with the methods and options of another task class.

    Raises:
        ConfigurationError: it is no task class, or handles messages in workers in its own way.
    """
    given: Any = base  # of callers without a type checker
    if not (isinstance(given, type) and issubclass(given, Task)):
        raise ConfigurationError(f"base={base!r:.80} is not a subclass of celery.Task")
    attributes = {name: cls for cls in reversed(_foreign(base)) for name in vars(cls)}
    for name in _OF_WORKERS:
        if name in attributes:
            raise ConfigurationError(
                f"{attributes[name].__qualname__} has a {name} of its own, with which a worker would not handle its "
                "messages as jobs: use app.task for tasks of this class, or name another with base="
            )
    namespace = {name: getattr(job_task, name) for name in _FIXED}
    if "track_started" in attributes:
        namespace["job_track_started"] = base.track_started
    return type(base.__name__, (base, job_task), {**namespace, "abstract": True, "__module__": base.__module__})


def adopt(cls: type[Any], job_task: type[Any]) -> None:
    """Have a new subclass of JobTask call what it or another class overrides where a plain task would."""
    theirs = cls.__mro__[: cls.__mro__.index(job_task)]
    options = {
        name: value
        for base in reversed(theirs)
        if base is cls or not issubclass(base, job_task)
        for name, value in vars(base).items()
        if name in OPTIONS
    }
    if options and "job_retry_options" not in vars(cls):
        cls.job_retry_options = {**cls.job_retry_options, **options}
    # Retries are the lifecycle's; Celery would run the function again by itself.
    cls.autoretry_for = ()
    for name, around in (("__call__", _call), ("apply_async", _apply_async)):
        own = next((vars(base)[name] for base in theirs if name in vars(base)), None)
        if own is not None and not hasattr(own, "of_job_task"):
            method = around(own, getattr(job_task, name))
            method.of_job_task = True
            setattr(cls, name, method)
            if name == "__call__":
                cls._own_call = staticmethod(own)
            else:
                cls.shows_plain_data = True


def _call(own: Callable[..., Any], of_job_task: Callable[..., Any]) -> Any:
    @wraps(own)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        request = self.request
        if request.called_directly or request.get(ENTERED):
            return own(self, *args, **kwargs)
        return of_job_task(self, *args, **kwargs)

    return __call__


def _apply_async(own: Callable[..., Any], _of_job_task: Callable[..., Any]) -> Any:
    @wraps(own)
    def apply_async(self: Any, args: Any = None, kwargs: Any = None, task_id: Any = None, **options: Any) -> Any:
        if JOB_OPTION not in options:
            try:
                job = job_from(tuple(args or ()), dict(kwargs or {}), self.schema, task_id)
            except InvalidInputError:
                if not holds_output(tuple(args or ())):
                    raise
            else:
                args, kwargs, task_id = plain_data(job), {}, job.id
                options[JOB_OPTION] = job
        return own(self, args, kwargs, task_id=task_id, **options)

    return apply_async


def plain_data(job: Job[Any]) -> list[Any]:
    """The arguments of a job as a class sees them that tells tasks apart by what they are called with: JSON values."""
    return [pydantic_core.to_jsonable_python(fields_of(job.payload.input), fallback=repr, inf_nan_mode="constants")]
