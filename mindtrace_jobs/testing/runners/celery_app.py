"""The Celery side of the conformance tests: an app, and the one handler as its tasks."""

from __future__ import annotations

from typing import Any

from celery import Celery

from mindtrace_jobs.celery import install, job_task
from mindtrace_jobs.clients import LocalClient
from mindtrace_jobs.jobs import Job
from mindtrace_jobs.testing.runners import jobs
from mindtrace_jobs.testing.runners.options import RunnerOptions

#: Seconds, of tasks that have a hard time limit.
TIME_LIMIT = 1.0


def make_app(options: RunnerOptions) -> Any:
    """An app with everything on it."""
    results = options.results
    if results is None:
        memory = options.broker.startswith("memory")
        results = LocalClient.from_url(options.broker).result_backend if memory else options.broker
    app = Celery("runner-conformance", broker=options.broker, backend=results, set_as_current=False)
    app.conf.update(
        worker_prefetch_multiplier=options.prefetch,
        worker_hijack_root_logger=False,
        worker_lost_wait=0.5,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
    )
    app.conf.update(options.settings)
    install(app, lease=options.lease, max_worker_losses=jobs.POLICY.max_worker_losses)
    _define(app)
    if options.coroutines:
        _define_coroutines(app)
    return app


def _define(app: Any) -> None:
    @job_task(app, jobs.ActionSchema, retry=jobs.POLICY)
    def action(work: jobs.ActionInput) -> Any:
        return jobs.perform(work)

    @job_task(app, jobs.RenamedSchema, retry=jobs.POLICY)
    def renamed(work: jobs.ActionInput, job: Job[Any]) -> Any:
        return jobs.perform_under_another_id(work, job)

    @job_task(app, jobs.LimitedSchema, retry=jobs.POLICY, time_limit=TIME_LIMIT)
    def limited(work: jobs.ActionInput) -> Any:
        return jobs.perform(work)

    for schema in (jobs.PrivateSchema, jobs.FatalSchema, jobs.LOCAL):
        job_task(app, schema, retry=jobs.POLICY)(_echo)


def _define_coroutines(app: Any) -> None:
    @job_task(app, jobs.CoroutineSchema, retry=jobs.POLICY)
    async def coroutine(work: jobs.ActionInput) -> Any:
        return await jobs.perform_in_a_coroutine(work)


def _echo(work: Any) -> Any:
    return jobs.ActionOutput(text=work.text)
