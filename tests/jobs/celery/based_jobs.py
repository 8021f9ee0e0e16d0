"""Job tasks on task classes of others: an app's own, celery-once's and celery-singleton's; and a producer of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery import Celery, Task
from celery_once import AlreadyQueued, QueueOnce  # type: ignore[import-untyped]
from celery_singleton import Singleton  # type: ignore[import-untyped]

from mindtrace_jobs import Job, JobHandle, JobInput, JobOutput, JobSchema, PublishError, RetryJob
from mindtrace_jobs.celery import JobContext, install, job_task, shared_job_task

QUEUE = "based"
_entered: ContextVar[str] = ContextVar("entered", default="nothing")


@contextmanager
def application() -> Iterator[None]:
    token = _entered.set("the application's context")
    try:
        yield
    finally:
        _entered.reset(token)


class ApplicationTask(Task):  # type: ignore[misc]
    """As Flask's documentation has it, with a hook."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        with application():
            return self.run(*args, **kwargs)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        print(f"on_success saw {type(retval).__name__}, {[isinstance(arg, Job) for arg in args]}, {kwargs}", flush=True)


app = Celery(
    "based",
    broker=os.environ.get("STACK_BROKER", "memory://based"),
    backend=os.environ.get("STACK_BACKEND", "cache+memory://"),
    task_cls=ApplicationTask,
    set_as_current=False,
)
app.conf.update(
    ONCE={
        "backend": "celery_once.backends.Redis",
        "settings": {"url": os.environ.get("STACK_BACKEND", "redis://"), "default_timeout": 600},
    },
    singleton_backend_url=os.environ.get("STACK_BACKEND", "redis://"),
    task_routes={"based_*": QUEUE},
    broker_connection_retry_on_startup=True,
)
install(app)


class Number(JobInput):
    n: int


class Seen(JobOutput):
    text: str


class Contextual(JobSchema[Number, Seen]):
    name: str = "based_contextual"


class Once(JobSchema[Number, Seen]):
    name: str = "based_once"


class Graceful(JobSchema[Number, Seen]):
    name: str = "based_graceful"


class Single(JobSchema[Number, Seen]):
    name: str = "based_single"


class Shared(JobSchema[Number, Seen]):
    name: str = "based_shared"


@job_task(app, Contextual)
def contextual(input: Number, context: JobContext) -> Seen:  # noqa: A002
    return Seen(text=f"{_entered.get()}, retries {context.retries}")


@job_task(app, Once, base=QueueOnce)
def once(input: Number) -> Seen:  # noqa: A002
    return Seen(text=str(input.n))


@job_task(app, Graceful, base=QueueOnce, once={"graceful": True})
def graceful(input: Number) -> Seen:  # noqa: A002
    return Seen(text=str(input.n))


@job_task(app, Single, base=Singleton, bind=True, max_retries=1)
def single(self: Any, input: Number) -> Seen:  # noqa: A002
    if not self.request.retries:
        raise RetryJob("once more", delay=0.0)
    return Seen(text=str(input.n))


@shared_job_task(Shared)
def shared(input: Number) -> Seen:  # noqa: A002
    return Seen(text=_entered.get())


def twice() -> dict[str, Any]:
    """Publish each kind twice, before a worker runs any."""
    shared_task = app.tasks["based_shared"]
    found: dict[str, Any] = {
        "contextual": contextual.submit(Number(n=1)).id,
        "shared": shared_task.submit(Number(n=1)).id,
        "once": once.submit(Number(n=1)).id,
        "graceful": graceful.submit(Number(n=1)).id,
        "single": single.submit(Number(n=1)).id,
    }
    try:
        once.delay(Number(n=1))
    except AlreadyQueued:
        found["once again"] = "already queued"
    try:
        graceful.submit(Number(n=1))
    except PublishError as error:
        found["graceful again"] = str(error)
    found["single again"] = single.submit(Number(n=1)).id
    found["single by delay"] = single.delay(n=1).id
    found["another"] = single.submit(Number(n=2)).id != found["single"] and once.submit(Number(n=2)) is not None
    return found


def again(ids: dict[str, str]) -> dict[str, Any]:
    """Wait for the results, and publish once more what had to be there once only."""
    results = app.tasks["based_once"]._orchestrator.results
    handles: dict[str, JobHandle[Any]] = {name: JobHandle(job_id, results) for name, job_id in ids.items()}
    found: dict[str, Any] = {name: getattr(handle.result(timeout=60), "text", None) for name, handle in handles.items()}
    for task in (once, graceful, single):
        handle: Any = _when_unlocked(task)
        found[f"{task.name} again"] = handle.result(timeout=60).text, handle.id not in ids.values()
    return found


def _when_unlocked(task: Any) -> Any:
    """The hook that unlocks runs behind the result that was waited for."""
    while True:
        try:
            handle = task.submit(Number(n=1))
        except (AlreadyQueued, PublishError):
            continue
        if handle.status() != "completed":
            return handle
