"""The result backend as a job task sees it: what Celery's tracer writes of a job becomes its record."""

from __future__ import annotations

from functools import cache
from typing import Any

from mindtrace_jobs.celery import installation
from mindtrace_jobs.logs import job_fields, shown
from mindtrace_jobs.results.backend import JOB_STATE, jobs_backend_class, seen_as

#: Attribute of a request: the RunningJob of its job, while that runs in this process.
RUNNING = "job_running"
#: Attribute of a request whose job's end is recorded: whatever Celery writes of it then would replace that.
RECORDED = "job_recorded"
#: Attribute of a request whose job asked to be retried and has no retries left.
EXHAUSTED = "job_retries_exhausted"
#: Attribute of a request whose task was called for its message, and not by itself.
ENTERED = "job_entered"
#: All attributes that this package sets on requests.
MARKS = frozenset({RUNNING, RECORDED, EXHAUSTED, ENTERED, JOB_STATE})


@cache
def _task_backend_class(base: Any) -> Any:
    extended: Any = jobs_backend_class(base)

    class TaskBackend(extended):  # type: ignore[misc]
        def store_result(
            self, task_id: Any, result: Any, state: Any, traceback: Any = None, request: Any = None, **kwargs: Any
        ) -> Any:
            if request is not None and task_id == request.id:
                if request.get(RECORDED):
                    return result
                running = request.get(RUNNING)
                if running is not None:
                    return running.celery_stores(result, state, traceback)
            # Of another task: one behind it in a chain.
            return super().store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)

        def on_chord_part_return(self, request: Any, state: Any, result: Any, **kwargs: Any) -> None:
            def part() -> None:
                base.on_chord_part_return(self, request, state, result, **kwargs)

            fields = job_fields(request.id, request.task, "", 1)
            what = f"that job {shown(request.id)} of a chord has ended"
            installation.of(self.app).orchestrator.results.write_behind(request.id, what, fields, part)

    TaskBackend.__name__ = TaskBackend.__qualname__ = base.__name__
    return TaskBackend


def task_backend(backend: Any) -> Any:
    """An app's backend for its job tasks: another face of the same object, with its settings and connections."""
    return seen_as(_task_backend_class, backend)
