"""AsyncJobTask: a job task whose function is a coroutine function, as type checkers see it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from mindtrace_jobs.celery.task import InT, JobTask, OutT


class AsyncJobTask(JobTask[InT, OutT]):
    """A job task whose function is a coroutine function: called directly, it returns the coroutine.

    A worker runs it in the one event loop of its process. There ``self.request`` and ``celery.current_task`` are not to be
    had: the loop has a thread of its own, and runs many jobs on it.
    """

    abstract = True

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, OutT]:  # type: ignore[override]
            ...
