"""Status and typed results of jobs, kept in a Celery result backend."""

from __future__ import annotations

from mindtrace_jobs.results.app_store import AppResultStore
from mindtrace_jobs.results.handle import JobHandle, output_of
from mindtrace_jobs.results.record import JobRecord, JobState, Progress, state_of, worker_name
from mindtrace_jobs.results.store import RecordWrite, ResultStore

__all__ = [
    "AppResultStore",
    "JobHandle",
    "JobRecord",
    "JobState",
    "Progress",
    "RecordWrite",
    "ResultStore",
    "output_of",
    "state_of",
    "worker_name",
]
