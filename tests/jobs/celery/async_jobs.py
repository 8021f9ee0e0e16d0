"""The stack with a job that is a coroutine function."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from mindtrace_jobs.celery import JobContext, job_task
from tests.jobs.celery.models import AwaitInput, AwaitOutput, AwaitSchema
from tests.jobs.celery.stack import app
from tests.jobs.celery.stack_jobs import note

_present: list[AwaitInput] = []


@job_task(app, AwaitSchema, retry_on=(OSError,), max_retries=1, retry_jitter=False)
async def attend(input: AwaitInput, context: JobContext) -> AwaitOutput:  # noqa: A002 - what it is
    loop = f"{os.getpid()} {id(asyncio.get_running_loop())}"
    try:
        match input.act:
            case "meet":
                _present.append(input)
                await _until(lambda: len(_present) >= input.people)
            case "report":
                context.progress(1, 2, "half")
                await _until(Path(f"{input.path}.go").exists)
            case "hang" | "give up":
                note(input.path, "begin")
                await asyncio.sleep(600)
            case "retry" if context.retries == 0:
                raise ConnectionError("not yet")
    except asyncio.CancelledError:
        note(input.path, "cancelled")
        if input.act == "hang":
            raise
        return AwaitOutput(text="given up", loop=loop)
    return AwaitOutput(text=f"{input.act} {context.attempt}", loop=loop)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - another process makes it true
        await asyncio.sleep(0.01)
