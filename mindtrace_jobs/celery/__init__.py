"""Jobs as Celery tasks: ``install`` once on an app, then write each kind of job as a ``job_task``.

::

    install(app)


    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput: ...

Loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindtrace_jobs.celery.async_task import AsyncJobTask as AsyncJobTask
    from mindtrace_jobs.celery.cancelling import cancel as cancel
    from mindtrace_jobs.celery.canvas import typed_chain as typed_chain
    from mindtrace_jobs.celery.context import JobContext as JobContext
    from mindtrace_jobs.celery.decorator import job_task as job_task
    from mindtrace_jobs.celery.errors import InvalidInputError as InvalidInputError
    from mindtrace_jobs.celery.errors import InvalidOutputError as InvalidOutputError
    from mindtrace_jobs.celery.installing import install as install
    from mindtrace_jobs.celery.task import JobTask as JobTask

_HOME_OF = {
    "AsyncJobTask": "async_task",
    "InvalidInputError": "errors",
    "InvalidOutputError": "errors",
    "JobContext": "context",
    "JobTask": "task",
    "cancel": "cancelling",
    "install": "installing",
    "job_task": "decorator",
    "typed_chain": "canvas",
}

__all__ = [
    "AsyncJobTask",
    "InvalidInputError",
    "InvalidOutputError",
    "JobContext",
    "JobTask",
    "cancel",
    "install",
    "job_task",
    "typed_chain",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
