"""The stack with a kind of job whose data nobody who watches may see, and tasks that say in the log what they do.

Its log has the format in STACK_LOG_FORMAT, or is written by a handler of its own if STACK_OWN_HANDLER is set.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from celery.utils.log import get_task_logger

from mindtrace_jobs import RejectJob, RetryJob
from mindtrace_jobs.celery import JobContext, job_task
from tests.jobs.celery.models import OtherOutput, SecretInput, SecretOutput, SecretSchema
from tests.jobs.celery.stack import app, wait_for

log = logging.getLogger(__name__)
task_log = get_task_logger("watched.task")  # another name: Celery takes that logger under its own

if "STACK_LOG_FORMAT" in os.environ:
    app.conf.worker_log_format = app.conf.worker_task_log_format = os.environ["STACK_LOG_FORMAT"]


class EveryAttribute(logging.Formatter):
    """Writes what there is to a record as JSON, as formatters for log collectors do."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({**vars(record), "message": record.getMessage()}, default=str)


if "STACK_OWN_HANDLER" in os.environ:
    handler = logging.StreamHandler()
    handler.setFormatter(EveryAttribute())
    logging.getLogger().addHandler(handler)


@app.task(name="watched.plain", shared=False)  # type: ignore[untyped-decorator]
def plain() -> None:
    log.info("a plain task's line")


@job_task(app, SecretSchema, bind=True, retry_on=(ConnectionError,), max_retries=1, retry_backoff=False)
def watched(task: Any, input: SecretInput, context: JobContext) -> SecretOutput:  # noqa: A002 - what it is
    log.info("a plain logger's line")
    task_log.info("a task logger's line")
    context.log.info("the context's line")
    match input.deed:
        case "fail":
            raise LookupError("nothing there")
        case "reject":
            raise RejectJob("not this one")
        case "retry":
            if context.retries == 0:
                raise RetryJob("once more", delay=0)
        case "retry for ever":
            task.retry(countdown=0)
        case "retry on error":
            task.default_retry_delay = 0
            raise ConnectionError("not reached")
        case "wrong output":
            return OtherOutput(secret=input.secret)  # type: ignore[return-value]
        case "invalid output":
            return SecretOutput(secret=[input.secret])  # type: ignore[arg-type]
        case "print":
            print("printed")
        case "until cancelled":
            context.interval = 0.0
            while True:
                context.progress(1)
        case "wait":
            wait_for(Path(input.path), 60.0)
    return SecretOutput(secret=input.secret)
