"""Jobs as Celery tasks: ``install`` once on an app, then write each kind of job as a ``job_task``.

::

    install(app)


    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput: ...

Loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindtrace_jobs import _lazy

if TYPE_CHECKING:
    from mindtrace_jobs.celery.async_task import AsyncJobTask as AsyncJobTask
    from mindtrace_jobs.celery.cancelling import cancel as cancel
    from mindtrace_jobs.celery.canvas import typed_chain as typed_chain
    from mindtrace_jobs.celery.decorator import job_task as job_task
    from mindtrace_jobs.celery.decorator import shared_job_task as shared_job_task
    from mindtrace_jobs.celery.installing import install as install
    from mindtrace_jobs.celery.task import JobTask as JobTask
    from mindtrace_jobs.errors import InvalidInputError as InvalidInputError
    from mindtrace_jobs.errors import InvalidOutputError as InvalidOutputError
    from mindtrace_jobs.execution.context import JobContext as JobContext

_HOMES = {
    "mindtrace_jobs.celery.async_task": ["AsyncJobTask"],
    "mindtrace_jobs.celery.cancelling": ["cancel"],
    "mindtrace_jobs.celery.canvas": ["typed_chain"],
    "mindtrace_jobs.celery.decorator": ["job_task", "shared_job_task"],
    "mindtrace_jobs.celery.installing": ["install"],
    "mindtrace_jobs.celery.task": ["JobTask"],
    "mindtrace_jobs.errors": ["InvalidInputError", "InvalidOutputError"],
    "mindtrace_jobs.execution.context": ["JobContext"],
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
    "shared_job_task",
    "typed_chain",
]


__getattr__, __dir__ = _lazy.attach(__name__, _HOMES)
