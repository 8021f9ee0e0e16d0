"""The Celery app of ``celery_workers.py``'s workers; the environment says which kind it is. No benchmark itself."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from celery import Celery
from pydantic import BaseModel

from mindtrace.jobs import JobInput, JobOutput, JobSchema
from mindtrace_jobs.celery import install, job_task


class NoopInput(JobInput):
    """A small job; ``mark`` is a file for the time at which it ran."""

    image_url: str
    threshold: float = 0.5
    mark: str = ""


class NoopOutput(JobOutput):
    """Its result."""

    objects: list[str]


class NoopSchema(JobSchema[NoopInput, NoopOutput]):
    """Its name."""

    name: str = "benchmark_noop"


class PlainInput(BaseModel):
    """The same for Celery's own ``pydantic=True``."""

    image_url: str
    threshold: float = 0.5
    mark: str = ""


class PlainOutput(BaseModel):
    """The same for Celery's own ``pydantic=True``."""

    objects: list[str]


KIND = os.environ.get("BENCHMARK_KIND", "ours")
app = Celery(
    "benchmark",
    broker=os.environ.get("BENCHMARK_BROKER", "memory://"),
    backend=os.environ.get("BENCHMARK_RESULTS") or None,
    set_as_current=False,
)
app.conf.update(
    # The same guarantee on every side, but for the one that has Celery's default.
    task_acks_late=KIND != "plain-early",
    task_reject_on_worker_lost=True,
    task_default_queue="benchmark",
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


def mark(path: str) -> None:
    if path:
        Path(path).write_text(f"{time.monotonic()!r} {cpu_seconds()!r}")


def cpu_seconds() -> float:
    """What this worker has used of the processor: this process, and its pool's others."""
    me, parent = os.getpid(), os.getppid()
    main = parent if "celery" in Path(f"/proc/{parent}/cmdline").read_text() else me
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return sum(map(_cpu_seconds, {str(main), *children}))


def _cpu_seconds(pid: str) -> float:
    # man 5 proc: utime and stime are the 14th and 15th field; the name, the 2nd, may hold spaces.
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if KIND.startswith("ours"):
    install(app)

if KIND == "ours":

    @job_task(app, NoopSchema)
    def noop(input: NoopInput) -> NoopOutput:  # noqa: A002 - what it is
        mark(input.mark)
        return NoopOutput(objects=[])

elif KIND == "pydantic":

    @app.task(name="benchmark_noop", pydantic=True)
    def noop_pydantic(data: PlainInput) -> PlainOutput:
        mark(data.mark)
        return PlainOutput(objects=[])

else:

    @app.task(name="benchmark_noop")
    def noop_json(data: dict[str, object]) -> dict[str, object]:
        mark(str(data["mark"]))
        return {"objects": []}
