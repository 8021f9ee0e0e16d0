"""A small Celery project as somebody may have it: plain JSON tasks, own routes, a beat schedule, a consumer of its own.

The environment says where it runs and whether typed jobs are installed on it, so that one stack is tested before and
after.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer
from celery.worker.control import control_command
from celery.worker.state import active_requests

INSTALLED = os.environ.get("STACK_INSTALLED", "yes") == "yes"


class StackConsumer(Consumer):  # type: ignore[misc]
    """The stack's own: it says that it was used."""

    def on_ready(self) -> None:
        print("the stack's own consumer is ready", flush=True)
        super().on_ready()


app = Celery(
    "stack",
    broker=os.environ.get("STACK_BROKER", "memory://stack"),
    backend=os.environ.get("STACK_BACKEND", "cache+memory://"),
    set_as_current=False,
)
app.conf.update(
    task_routes={"stack.report": {"queue": "reports"}},
    beat_schedule={"nightly": {"task": "stack.report", "schedule": 3600.0, "args": ["nightly"]}},
    worker_consumer=f"{__name__}:StackConsumer",
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    result_backend_transport_options={"retry_policy": {"timeout": 5.0}},
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@app.task(name="stack.add", shared=False)  # type: ignore[untyped-decorator]
def add(x: float, y: float) -> float:
    return x + y


@app.task(name="stack.report", shared=False)  # type: ignore[untyped-decorator]
def report(kind: str, **options: Any) -> dict[str, Any]:
    return {"kind": kind, "options": options}


@app.task(name="stack.total", shared=False)  # type: ignore[untyped-decorator]
def total(numbers: list[float]) -> float:
    return sum(numbers)


@app.task(name="stack.kinds", shared=False)  # type: ignore[untyped-decorator]
def kinds(values: list[Any]) -> list[str]:
    return sorted(type(value).__name__ for value in values)


@app.task(name="stack.hold", acks_late=True, shared=False)  # type: ignore[untyped-decorator]
def hold(path: str) -> None:
    """Keep its process until another file is there."""
    Path(path).touch()
    wait_for(Path(f"{path}.go"), 30)


def wait_for(path: Path, at_most: float, sleep: Callable[[float], object] = time.sleep) -> None:
    deadline = time.monotonic() + at_most
    while not path.exists() and time.monotonic() < deadline:
        sleep(0.01)


@control_command(args=[("job_id", str)], name="end_process_of")  # type: ignore[untyped-decorator]
def end_process_of(state: Any, job_id: str) -> None:
    """What terminating a job does to another that the process has begun meanwhile."""
    (request,) = [request for request in active_requests if request.id == job_id]
    state.consumer.pool.terminate_job(request.worker_pid, signal.SIGTERM)


if INSTALLED:
    from mindtrace_jobs.celery import install

    install(app, lease=float(os.environ.get("STACK_LEASE", "60")))

    from tests.jobs.celery import stack_jobs  # noqa: F401 - defines its tasks on the app
