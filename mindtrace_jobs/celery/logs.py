"""What a worker's log says of jobs: which one each record is about, and nothing of its data."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from celery import current_task, signals

from mindtrace_jobs import logs
from mindtrace_jobs.celery.running import UndecodedJob
from mindtrace_jobs.logs import FIELDS, JobLogFilter, shown
from mindtrace_jobs.wire.headers import count

#: Where Celery says how a task ended.
_TRACE = "celery.app.trace"
#: Where it names tasks and their ids as the message has them.
_NAMING = (_TRACE, "celery.worker.strategy", "celery.worker.request")
_TOKEN = "mindtrace_jobs_log"  # noqa: S105 - an attribute's name


@cache
def connect() -> None:
    """Follow the jobs of this process in its log. Doing it again does nothing."""
    for signal, receiver in (
        (signals.after_setup_logger, _add_filter),
        (signals.after_setup_task_logger, _add_filter),
        (signals.task_prerun, _begin),
        (signals.task_postrun, _end),
    ):
        signal.connect(receiver, weak=False)
    logging.getLogger(_TRACE).addFilter(_TypeForOutput())
    for name in _NAMING:
        logging.getLogger(name).addFilter(_printable)


def _add_filter(logger: logging.Logger, **setup: Any) -> None:
    # Records that no job made are only touched where the format needs it.
    named = any(f"%({field})" in (setup.get("format") or "") for field in FIELDS)
    for handler in logger.handlers:
        if not any(isinstance(known, JobLogFilter) for known in handler.filters):
            handler.addFilter(JobLogFilter("-" if named else None))


def _begin(task: Any, args: Any, **_: Any) -> None:
    if getattr(task, "is_job", False):
        request = task.request
        # In a worker; a call and an eager run come from no queue.
        queue, losses = (args[0].queue, args[0].losses) if args and isinstance(args[0], UndecodedJob) else ("", 0)
        attempt = count({"retries": request.retries or 0}, "retries") + losses + 1
        fields = logs.job_fields(request.id, task.name, queue, attempt)
        setattr(request, _TOKEN, logs.begin(fields))


def _end(task: Any, **_: Any) -> None:
    token = vars(task.request).pop(_TOKEN, None)
    if token is not None:
        logs.end(token)


def _printable(record: logging.LogRecord) -> bool:
    """Keep what a message names itself from writing lines of its own into the log."""
    found = record.args
    if isinstance(found, dict):
        named = {name: value for name in ("id", "name") if isinstance(value := found.get(name), str)}
        if not all(map(str.isprintable, named.values())):
            record.args = {**found, **{name: shown(value) for name, value in named.items()}}
    elif isinstance(found, tuple) and not all(value.isprintable() for value in found if isinstance(value, str)):
        record.args = tuple(shown(value) if isinstance(value, str) else value for value in found)
    return True


class _TypeForOutput(logging.Filter):
    """Has Celery's line about a job's success name the type of the output, where its repr would show the data."""

    def filter(self, record: logging.LogRecord) -> bool:
        found = record.args
        if isinstance(found, dict) and "return_value" in found and getattr(current_task, "is_job", False):
            record.args = {**found, "return_value": current_task.shown_output}
            if "data" in vars(record):  # the same again, for handlers that do not format
                vars(record)["data"] = record.args
        return True
