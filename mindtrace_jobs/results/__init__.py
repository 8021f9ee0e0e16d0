"""Status and typed results of jobs, kept in a Celery result backend."""

from __future__ import annotations

from mindtrace_jobs.results.app_store import AppResultStore
from mindtrace_jobs.results.handle import JobHandle, output_of
from mindtrace_jobs.results.record import JobRecord, Progress
from mindtrace_jobs.results.store import ResultStore, worker_name

__all__ = ["AppResultStore", "JobHandle", "JobRecord", "Progress", "ResultStore", "output_of", "worker_name"]
