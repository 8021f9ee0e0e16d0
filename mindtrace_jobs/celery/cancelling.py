"""Cancelling jobs of a Celery app, waiting or running."""

from __future__ import annotations

from typing import Any

from mindtrace_jobs.celery import installation
from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.jobs import ExecutionStatus


def cancel(app: Any, job_id: str, *, terminate: bool = False) -> bool:
    """Cancel a job: one that waits is not run, one that runs is asked to stop.

    A running job stops where it reports progress or asks ``context.raise_if_cancelled()``.

    Args:
        app: The Celery app, installed.
        job_id: The job, submitted or published in any way.
        terminate: End a running job by SIGTERM to its process in a prefork pool, or by killing its greenlet in one of
            gevent. Threads can't be ended: there this makes no difference.

    Returns:
        Whether the job had not ended yet.

    Raises:
        ConfigurationError: nothing is installed on the app.
        ResultsNotConfiguredError: the app keeps no results.
    """
    found = installation.find(app)
    if found is None:
        raise ConfigurationError("call mindtrace_jobs.celery.install(app) first")
    results = found.orchestrator.results
    record = results.find(job_id)
    if record is not None and record.status.final:
        return False
    waits = record is not None and record.status is not ExecutionStatus.RUNNING
    results.cancel(job_id, record if waits else None)
    found.app.control.revoke(job_id, terminate=terminate)
    return True
