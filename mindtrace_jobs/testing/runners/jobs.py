"""The jobs of the runner conformance tests, and the one handler that runs them: each job's input says what happens."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import PrivateAttr, field_validator

from mindtrace_jobs import RetryPolicy
from mindtrace_jobs.errors import RejectJob, RetryJob
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.testing.runners.failures import FAILURES, Departure

#: The retry policy of every runner of the suite.
POLICY = RetryPolicy(max_retries=2, initial=0.05, jitter=0.0, max_worker_losses=2)
#: Environment variable that is set in a process that is a runner, with its options as JSON.
RUNNER = "MINDTRACE_JOBS_RUNNER"
#: Longest time in seconds for which a job waits to be released. Only guards against hanging.
LONGEST_WAIT = 120.0
#: Pause of a retry that no test waits for, in seconds.
LONG_PAUSE = 3600.0


class ActionInput(JobInput, tag="runner-conformance.action-input"):
    """What the handler does, and with what.

    Attributes:
        action: See ``perform``.
        text: Comes back in the output.
        path: File that gets a line each time work on the job begins; with ``.go`` behind it, the file that releases it.
        number: A field that a message may get wrong.
    """

    action: str = "work"
    text: str = ""
    path: str = ""
    number: int = 0


class ActionOutput(JobOutput, tag="runner-conformance.action-output"):
    """What the handler returns."""

    text: str = ""


class OtherOutput(JobOutput, tag="runner-conformance.other-output"):
    """What none of the schemas declares."""

    number: int = 0


class ActionSchema(JobSchema[ActionInput, ActionOutput]):
    """Most jobs."""

    name: str = "runner_action"


class CoroutineSchema(JobSchema[ActionInput, ActionOutput]):
    """Jobs whose handler is a coroutine function, where the runner takes one."""

    name: str = "runner_coroutine"


class RenamedSchema(JobSchema[ActionInput, ActionOutput]):
    """Jobs whose handler changes the job's id."""

    name: str = "runner_renamed"


class LimitedSchema(JobSchema[ActionInput, ActionOutput]):
    """Jobs with a hard time limit, where the runner has one."""

    name: str = "runner_limited"


class PrivateInput(JobInput, tag="runner-conformance.private-input"):
    """An input with a private attribute that cannot be pickled."""

    text: str = ""
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class PrivateSchema(JobSchema[PrivateInput, ActionOutput]):
    """Jobs that cannot be pickled."""

    name: str = "runner_private"


class FatalInput(JobInput, tag="runner-conformance.fatal-input"):
    """An input that ends the process of the runner that validates it."""

    text: str = ""

    @field_validator("text")
    @classmethod
    def _kill(cls, value: str) -> str:
        if RUNNER in os.environ:
            if value == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if value == "exit":
                raise SystemExit(3)
        return value


class FatalSchema(JobSchema[FatalInput, ActionOutput]):
    """Jobs that end the process that reads them."""

    name: str = "runner_fatal"


def _local_schema() -> type[JobSchema[Any, Any]]:
    class LocalInput(JobInput, tag="runner-conformance.local-input"):
        text: str = ""

    class LocalSchema(JobSchema[LocalInput, ActionOutput]):
        name: str = "runner_local"

    return LocalSchema


#: A schema whose classes cannot be looked up by name.
LOCAL: type[JobSchema[Any, Any]] = _local_schema()


def action_job(
    action: str = "work", *, schema: type[JobSchema[Any, Any]] = ActionSchema, job_id: str | None = None, **fields: Any
) -> Job[Any]:
    """A job that does something; ``fields`` are its input's."""
    name = schema.model_fields["name"].default
    payload = schema(name=name, input=ActionInput(action=action, **fields))
    return Job(payload=payload, id=job_id or str(uuid4()))


def perform(work: ActionInput) -> Any:
    """Note that work begins, and do what the input says."""
    begun = note(work.path)
    first = begun == 1
    match work.action:
        case "fail":
            raise ValueError("never works")
        case "fail once" if first:
            raise ConnectionError("camera")
        case "fail until released" if not released(work.path):
            raise ValueError("not released")
        case "retry":
            raise RetryJob("busy", delay=0.05)
        case "retry once" if first:
            raise RetryJob("busy", delay=0.05)
        case "retry late":
            raise RetryJob("busy", delay=LONG_PAUSE)
        case "reject":
            raise RejectJob("not mine")
        case "wrong output":
            return OtherOutput(number=1)
        case "exit":
            raise SystemExit(3)
        case "depart":
            raise Departure("gone")
        case "cancelled":
            raise asyncio.CancelledError("cut")
        case "memory":
            raise MemoryError("too large")
        case "interrupt once" if first:
            raise KeyboardInterrupt
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            wait_for_release(work.path)
        case failure if failure in FAILURES:
            error = FAILURES[failure]()
            raise error
    return ActionOutput(text=work.text)


async def perform_in_a_coroutine(work: ActionInput) -> Any:
    """The same, on an event loop."""
    await asyncio.sleep(0)
    return perform(work)


def perform_under_another_id(work: ActionInput, job: Job[Any]) -> Any:
    """The same, after the job's id was changed."""
    job.id = f"renamed-{uuid4()}"
    return perform(work)


def handle(job: Job[Any]) -> Any:
    """The handler of a Consumer, for jobs of every schema."""
    work = job.payload.input
    if not isinstance(work, ActionInput):
        return ActionOutput(text=work.text)
    if isinstance(job.payload, RenamedSchema):
        return perform_under_another_id(work, job)
    return perform(work)


# --- traces: what a job has done, seen from another process


def note(path: str) -> int:
    """Write down that work begins; returns how often it has."""
    if not path:
        return 0
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{time.time()}\n".encode())
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).count(b"\n")
    finally:
        os.close(descriptor)


def begun(path: Path | str) -> list[float]:
    """When work on the job with this path began, each time: seconds since the epoch."""
    file = Path(path)
    return [float(line) for line in file.read_text().splitlines()] if file.exists() else []


def release(path: Path | str) -> None:
    """Let a job that waits for it go on."""
    Path(f"{path}.go").touch()


def released(path: str) -> bool:
    """Whether ``release`` was called for this path."""
    return Path(f"{path}.go").exists()


def wait_for_release(path: str) -> None:
    """Return once ``release`` was called for this path."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not released(path) and time.monotonic() < deadline:
        time.sleep(0.01)
