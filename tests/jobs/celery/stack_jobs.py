"""Typed jobs on the stack."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from mindtrace_jobs import Job, RejectJob, RetryJob
from mindtrace_jobs.celery import JobContext, job_task
from tests.jobs.celery.models import (
    DeedInput,
    DeedOutput,
    DeedSchema,
    DetectionInput,
    DetectionOutput,
    DetectionSchema,
    SummaryInput,
    SummaryOutput,
    SummarySchema,
)
from tests.jobs.celery.stack import app, wait_for


@job_task(app, DetectionSchema)
def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002 - what it is
    return DetectionOutput(labels=[input.image, type(input).__name__], taken=input.taken)


@job_task(app, SummarySchema)
def summarize(input: SummaryInput, job: Job[Any], context: JobContext) -> SummaryOutput:  # noqa: A002
    context.log.info("summarizing")
    return SummaryOutput(text=f"{job.id} {context.attempt} {' '.join(input.labels)}")


@job_task(app, DeedSchema, retry_on=(OSError,), max_retries=1, retry_jitter=False, time_limit=20)
def deed(input: DeedInput, context: JobContext) -> DeedOutput | None:  # noqa: A002
    note(input.path, f"begin {context.attempt}")
    match input.deed:
        case "fail":
            raise LookupError("nothing there")
        case "reject":
            raise RejectJob("not this one")
        case "retry":
            if context.retries == 0:
                raise RetryJob("once more", delay=0)
        case "wrong output":
            return DetectionOutput(labels=[])  # type: ignore[return-value]
        case "hang":
            time.sleep(600)
        case "catch":
            try:
                time.sleep(600)
            except SoftTimeLimitExceeded:
                note(input.path, "time is up")
        case "wait":
            wait_for(Path(input.path + ".go"), input.seconds)
        case "block":
            # In a greenlet pool nothing else runs meanwhile.
            monkey = importlib.import_module("gevent.monkey")
            wait_for(Path(input.path + ".go"), input.seconds, monkey.get_original("time", "sleep"))
        case "fork":
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            child = os.fork()
            if child == 0:
                note(input.path, "forked")
                os._exit(0)
            os.waitpid(child, 0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "steps":
            context.interval = 0.0
            while True:
                context.progress(1, 3, "one of three")
                time.sleep(0.01)
    note(input.path, f"end {context.attempt}")
    return DeedOutput(attempt=context.attempt)


def note(path: str, line: str) -> None:
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)
