"""What a handler may raise, from an exception that cannot be pickled to one that ends a process."""

from __future__ import annotations

from typing import Any

import pytest

from mindtrace_jobs.errors import JobFailedError
from mindtrace_jobs.jobs import Job, JobSchema
from mindtrace_jobs.testing.runners.checks import (
    RunnerRows,
    check_failed,
    check_failure_is_kept,
    check_runner_goes_on,
    failed,
    outcome,
)
from mindtrace_jobs.testing.runners.failures import FAILURES
from mindtrace_jobs.testing.runners.harness import Runners
from mindtrace_jobs.testing.runners.jobs import ActionSchema, CoroutineSchema, FatalInput, FatalSchema
from mindtrace_jobs.testing.runners.running import Runner

_UNPRINTABLE = "unprintable"


class ExceptionConformance(RunnerRows):
    """Exceptions of all kinds are recorded as what they are."""

    @pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind != _UNPRINTABLE])
    def test_an_exception_of_any_kind_is_recorded_with_its_own_name_and_text(
        self, runners: Runners, runner: Runner, kind: str
    ) -> None:
        error = FAILURES[kind]()
        handle = runners.submit(kind)
        expected = failed(str(error), type(error).__name__, starts=3)
        check_failed(runners, handle.id, "retries-exhausted", expected)
        with pytest.raises(JobFailedError):
            handle.result()

    def test_an_exception_without_a_text_is_recorded_with_some_text(self, runners: Runners, runner: Runner) -> None:
        handle = runners.submit(_UNPRINTABLE)
        letter = runners.dead_letter(handle.id)
        record = handle.record()
        assert outcome(record) == failed(str(record.error), "Unprintable", starts=3)
        assert record.error
        check_failure_is_kept(runners, record, letter, "retries-exhausted")
        with pytest.raises(JobFailedError):
            handle.result()


class ExitConformance(RunnerRows):
    """What would end a process, or a loop, ends the job that raised it."""

    @pytest.mark.parametrize(
        ("action", "error_type", "error"),
        [("exit", "SystemExit", "3"), ("depart", "Departure", "gone"), ("cancelled", "CancelledError", "cut")],
    )
    @pytest.mark.parametrize("schema", [ActionSchema, CoroutineSchema])
    def test_a_handler_that_exits_fails_its_job_at_once_and_the_runner_goes_on(
        self,
        runners: Runners,
        runner: Runner,
        schema: type[JobSchema[Any, Any]],
        action: str,
        error_type: str,
        error: str,
    ) -> None:
        if schema is CoroutineSchema and not runners.coroutines:
            return
        starts = runner.starts
        handle = runners.submit(action, schema=schema)
        name = schema.model_fields["name"].default
        check_failed(runners, handle.id, "retries-exhausted", failed(error, error_type, starts=1), name=name)
        check_runner_goes_on(runners, runner, starts)

    def test_a_validator_that_exits_fails_its_job_and_the_runner_goes_on(
        self, runners: Runners, runner: Runner
    ) -> None:
        if not runners.processes:
            return
        starts = runner.starts
        job: Job[Any] = Job(payload=FatalSchema(input=FatalInput(text="exit")))
        handle = runners.orchestrator.submit(job, queue=runners.queue)
        expected = failed("3", "SystemExit", starts=1)
        check_failed(runners, handle.id, "retries-exhausted", expected, name="runner_fatal")
        check_runner_goes_on(runners, runner, starts)

    @pytest.mark.parametrize("schema", [ActionSchema, CoroutineSchema])
    def test_a_handler_out_of_memory_is_tried_again_and_the_runner_goes_on(
        self, runners: Runners, runner: Runner, schema: type[JobSchema[Any, Any]]
    ) -> None:
        if schema is CoroutineSchema and not runners.coroutines:
            return
        starts = runner.starts
        handle = runners.submit("memory", schema=schema)
        name = schema.model_fields["name"].default
        expected = failed("too large", "MemoryError", starts=3)
        check_failed(runners, handle.id, "retries-exhausted", expected, name=name)
        check_runner_goes_on(runners, runner, starts)
