"""How a job that can be read begins and ends: completed, retried, failed, cancelled, expired, replayed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from mindtrace_jobs.errors import ConfigurationError, JobCancelledError, JobFailedError
from mindtrace_jobs.jobs import ExecutionStatus
from mindtrace_jobs.results import JobHandle
from mindtrace_jobs.testing.runners.checks import (
    RunnerRows,
    check_completed,
    check_failed,
    check_failure_is_kept,
    facts,
    failed,
    outcome,
    queued,
)
from mindtrace_jobs.testing.runners.harness import Runners
from mindtrace_jobs.testing.runners.jobs import (
    ActionSchema,
    RenamedSchema,
    action_job,
    begun,
    release,
)
from mindtrace_jobs.testing.runners.running import Runner

#: How early, in seconds, a timer of Celery's may ring.
_EARLY = 0.01
_DELAY = 0.5

Submit = Callable[..., JobHandle[Any]]


class CompletedConformance(RunnerRows):
    """Jobs that complete."""

    def test_a_job_that_is_done_is_recorded_with_its_output_and_is_gone_from_its_queue(
        self, runners: Runners, runner: Runner
    ) -> None:
        record = check_completed(runners, runners.submit(text="well"), "well")
        assert record.name == "runner_action"
        runners.wait_empty()

    def test_a_job_that_fails_once_and_then_works_is_completed_without_an_error(
        self, runners: Runners, runner: Runner
    ) -> None:
        handle = runners.submit("fail once", text="second", path=str(runners.new_path()))
        check_completed(runners, handle, "second", starts=2)
        runners.wait_empty()

    def test_a_job_that_asks_for_another_run_gets_it(self, runners: Runners, runner: Runner) -> None:
        handle = runners.submit("retry once", text="second", path=str(runners.new_path()))
        check_completed(runners, handle, "second", starts=2)

    def test_a_job_waiting_for_its_retry_reads_as_queued(self, runners: Runners, runner: Runner) -> None:
        path = runners.new_path()
        handle = runners.submit("retry late", path=str(path), queue=runners.parked)
        runners.wait_begun(path)
        runners.wait(lambda: handle.status() is ExecutionStatus.QUEUED, "the job queued again")
        assert facts(handle.record(), "status", "starts", "losses", "output") == {
            "status": ExecutionStatus.QUEUED,
            "starts": 1,
            "losses": 0,
            "output": None,
        }
        assert len(begun(path)) == 1

    def test_a_handler_that_changes_the_jobs_id_completes_the_job_that_was_sent(
        self, runners: Runners, runner: Runner
    ) -> None:
        handle = runners.submit(schema=RenamedSchema, text="renamed")
        check_completed(runners, handle, "renamed")
        runners.wait_empty()


class FailedConformance(RunnerRows):
    """Jobs that fail."""

    def test_a_job_that_never_works_is_dead_lettered_when_its_retries_are_exhausted(
        self, runners: Runners, runner: Runner
    ) -> None:
        path = runners.new_path()
        job = action_job("fail", path=str(path))
        handle = runners.orchestrator.submit(job, queue=runners.queue)
        expected = failed("never works", "ValueError", starts=3)
        record, letter = check_failed(runners, handle.id, "retries-exhausted", expected)
        assert letter.job() == job
        assert record.queued_at is not None
        assert len(begun(path)) == 3
        with pytest.raises(JobFailedError, match="never works") as caught:
            handle.result()
        assert facts(caught.value, "job_id", "error", "error_type") == {
            "job_id": handle.id,
            "error": "never works",
            "error_type": "ValueError",
        }

    def test_a_job_that_asks_for_another_run_each_time_is_dead_lettered_in_the_end(
        self, runners: Runners, runner: Runner
    ) -> None:
        handle = runners.submit("retry")
        check_failed(runners, handle.id, "retries-exhausted", failed("busy", "RetryJob", starts=3))

    def test_a_job_that_its_handler_rejects_is_dead_lettered_at_once(self, runners: Runners, runner: Runner) -> None:
        handle = runners.submit("reject")
        check_failed(runners, handle.id, "rejected", failed("not mine", "RejectJob", starts=1))

    def test_an_output_of_another_class_is_dead_lettered_at_once(self, runners: Runners, runner: Runner) -> None:
        path = runners.new_path()
        handle = runners.submit("wrong output", path=str(path))
        letter = runners.dead_letter(handle.id)
        record = handle.record()
        assert facts(record, "status", "output", "error_type", "starts", "losses", "retries") == {
            "status": ExecutionStatus.FAILED,
            "output": None,
            "error_type": "InvalidOutputError",
            "starts": 1,
            "losses": 0,
            "retries": 0,
        }
        assert "OtherOutput" in str(record.error)
        assert [sorted(error) for error in record.errors] == [["field", "message", "type"]] * len(record.errors)
        assert record.errors
        check_failure_is_kept(runners, record, letter, "invalid-output")
        assert len(begun(path)) == 1

    def test_a_job_that_expires_while_it_waits_is_dead_lettered_without_being_begun(
        self, runners: Runners, runner: Runner
    ) -> None:
        path = runners.new_path()
        job = action_job(path=str(path))
        handle = runners.orchestrator.submit(job, queue=runners.queue, expires=timedelta(seconds=-1))
        letter = runners.dead_letter(handle.id)
        record = handle.record()
        assert outcome(record) == failed(str(record.error), "JobExpiredError", starts=0)
        assert str(record.error).startswith("expired at ")
        check_failure_is_kept(runners, record, letter, "expired", begun=False)
        assert begun(path) == []

    def test_a_job_that_expired_before_the_runner_started_is_dead_lettered_without_being_begun(
        self, runners: Runners, runner: Runner
    ) -> None:
        expired = runners.waiting.expired
        letter = runners.dead_letter(expired.id, runners.early)
        record = expired.record()
        assert outcome(record) == failed(str(record.error), "JobExpiredError", starts=0)
        assert str(record.error).startswith("expired at ")
        check_failure_is_kept(runners, record, letter, "expired", queue=runners.early, begun=False)


class WaitingConformance(RunnerRows):
    """Jobs that wait: cancelled, submitted again, replayed, delayed."""

    def test_a_job_cancelled_before_the_runner_started_is_not_run_and_those_behind_it_are(
        self, runners: Runners, runner: Runner
    ) -> None:
        waiting = runners.waiting
        assert waiting.was_cancelled
        check_completed(runners, waiting.behind, "behind", queue=runners.early)
        runners.wait_empty(runners.early)
        assert begun(waiting.path) == []
        record = waiting.cancelled.record()
        assert facts(record, "status", "output", "starts", "losses", "retries", "started_at") == {
            "status": ExecutionStatus.CANCELLED,
            "output": None,
            "starts": 0,
            "losses": 0,
            "retries": 0,
            "started_at": None,
        }
        with pytest.raises(JobCancelledError):
            waiting.cancelled.result()
        assert not waiting.cancelled.cancel()
        assert runners.letters(waiting.cancelled.id, runners.early) == []

    def test_a_job_cancelled_behind_one_that_runs_is_not_run(self, runners: Runners, runner: Runner) -> None:
        first, second = runners.new_path(), runners.new_path()
        running = runners.submit("wait", path=str(first))
        runners.wait_begun(first)
        cancelled, behind = runners.submit(path=str(second)), runners.submit(text="behind")
        assert cancelled.cancel()
        release(first)
        check_completed(runners, running)
        check_completed(runners, behind, "behind")
        runners.wait_empty()
        assert begun(second) == []
        assert cancelled.status() is ExecutionStatus.CANCELLED

    @pytest.mark.parametrize("by", ["orchestrator", "task"])
    def test_a_job_submitted_again_after_its_end_is_a_new_one(self, runners: Runners, runner: Runner, by: str) -> None:
        submit = submit_by(runners, by)
        if submit is None:
            return
        first = runners.submit(text="one")
        check_completed(runners, first, "one")
        path = runners.new_path()
        again = action_job("wait", job_id=first.id, text="two", path=str(path))
        second = submit(again)
        assert second.status() is not ExecutionStatus.COMPLETED
        runners.wait_begun(path)
        assert facts(second.record(), "status", "output") == {"status": ExecutionStatus.RUNNING, "output": None}
        release(path)
        check_completed(runners, second, "two")

    @pytest.mark.parametrize("by", ["orchestrator", "task"])
    def test_a_failed_job_submitted_again_has_no_error(self, runners: Runners, runner: Runner, by: str) -> None:
        submit = submit_by(runners, by)
        if submit is None:
            return
        first = runners.submit("reject")
        runners.dead_letter(first.id)
        runners.orchestrator.dead_letters.purge(runners.queue)
        second = submit(action_job(job_id=first.id, text="two"))
        check_completed(runners, second, "two")

    def test_a_replayed_job_starts_anew(self, runners: Runners, runner: Runner) -> None:
        path, blocking = runners.new_path(), runners.new_path()
        handle = runners.submit("fail until released", text="revived", path=str(path))
        check_failed(runners, handle.id, "retries-exhausted", failed("not released", "ValueError", starts=3))
        blocker = runners.submit("wait", path=str(blocking))
        runners.wait_begun(blocking)
        release(path)
        assert list(runners.orchestrator.dead_letters.replay(runners.queue, handle.id)) == [handle.id]
        assert outcome(handle.record()) == queued()
        release(blocking)
        check_completed(runners, blocker)
        check_completed(runners, handle, "revived")
        assert len(begun(path)) == 4

    @pytest.mark.parametrize("by", ["orchestrator", "task"])
    @pytest.mark.parametrize("option", ["delay", "eta"])
    def test_a_delayed_job_does_not_run_before_its_time(
        self, runners: Runners, runner: Runner, by: str, option: str
    ) -> None:
        submit = submit_by(runners, by)
        if submit is None:
            return
        path = runners.new_path()
        earliest = datetime.now(UTC) + timedelta(seconds=_DELAY)
        value = _DELAY if option == "delay" else earliest
        handle = submit(action_job(text="late", path=str(path)), **{option: value})
        check_completed(runners, handle, "late")
        [began] = begun(path)
        assert began >= earliest.timestamp() - _EARLY

    @pytest.mark.parametrize("by", ["orchestrator", "task"])
    def test_an_option_that_nobody_knows_is_an_error(self, runners: Runners, runner: Runner, by: str) -> None:
        submit = submit_by(runners, by)
        if submit is None:
            return
        with pytest.raises((TypeError, ConfigurationError)):
            submit(action_job(), dealy=5.0)


def submit_by(runners: Runners, by: str) -> Submit | None:
    """A function that submits a job to the shared runner: the orchestrator's method, or the task's where there is one."""
    submit: Submit
    if by == "orchestrator":
        submit = runners.orchestrator.submit
    elif runners.celery:
        submit = runners.app.tasks[ActionSchema.model_fields["name"].default].submit
    else:
        return None
    return partial(submit, queue=runners.queue)
