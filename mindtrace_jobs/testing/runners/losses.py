"""Runners that are stopped or killed, by somebody or by their own jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mindtrace_jobs.jobs import ExecutionStatus, Job
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.results import JobHandle
from mindtrace_jobs.testing.base import wait_for_ready
from mindtrace_jobs.testing.runners.checks import (
    RunnerRows,
    check_completed,
    check_failure_is_kept,
    facts,
    failed,
    outcome,
    queued,
)
from mindtrace_jobs.testing.runners.harness import Runners
from mindtrace_jobs.testing.runners.jobs import (
    POLICY,
    ActionOutput,
    FatalInput,
    FatalSchema,
    LimitedSchema,
    begun,
    release,
)
from mindtrace_jobs.testing.runners.running import Runner


@dataclass(frozen=True)
class Killers:
    """Jobs on a queue whose runner is started again whenever it dies."""

    queue: str
    while_run: JobHandle[ActionOutput]
    while_validated: JobHandle[ActionOutput]
    behind: JobHandle[ActionOutput]


class LossConformance(RunnerRows):
    """Jobs whose runner is gone."""

    @pytest.fixture
    def killers(self, runners: Runners) -> Killers | None:
        """Jobs that kill the process that runs or reads them, and one behind them; None where runners cannot be killed."""
        return runners.once(start_killers) if runners.processes else None

    def test_a_job_that_kills_its_process_each_time_is_dead_lettered(
        self, runners: Runners, killers: Killers | None
    ) -> None:
        if killers is None:
            return
        check_worker_lost(runners, killers.while_run, killers.queue, "runner_action")

    def test_a_job_that_kills_its_process_while_it_is_read_is_dead_lettered(
        self, runners: Runners, killers: Killers | None
    ) -> None:
        if killers is None:
            return
        check_worker_lost(runners, killers.while_validated, killers.queue, "runner_fatal")

    def test_a_job_behind_those_that_kill_their_process_is_completed(
        self, runners: Runners, killers: Killers | None
    ) -> None:
        if killers is None:
            return
        check_completed(runners, killers.behind, "behind", queue=killers.queue)


class PrefetchConformance(RunnerRows):
    """Jobs that lay ready in a runner that was killed."""

    def test_what_lay_ready_in_a_killed_runner_does_not_count_as_begun(self, runners: Runners) -> None:
        if not runners.processes:
            return
        queue = runners.new_name()
        runners.orchestrator.declare_queue(queue)
        check_ready_jobs_of_a_killed_runner(runners, queue)

    def test_what_lay_ready_from_a_quorum_queue_in_a_killed_runner_does_not_count_as_begun(
        self, runners: Runners
    ) -> None:
        if not runners.rabbitmq:
            return
        queue = runners.new_name()
        declare(runners.orchestrator, queue, {"x-queue-type": "quorum"})
        check_ready_jobs_of_a_killed_runner(runners, queue)


class TimeLimitConformance(RunnerRows):
    """Jobs that a runner ends with the process that runs them: of prefork alone."""

    def test_a_job_over_its_hard_time_limit_is_dead_lettered(self, runners: Runners, runner: Runner) -> None:
        if runners.kind != "prefork":
            return
        path = runners.new_path()
        handle = runners.submit("wait", schema=LimitedSchema, path=str(path))
        letter = runners.dead_letter(handle.id)
        record = handle.record()
        assert facts(record, "status", "starts", "losses", "retries", "output") == {
            "status": ExecutionStatus.FAILED,
            "starts": 1,
            "losses": 0,
            "retries": 0,
            "output": None,
        }
        check_failure_is_kept(runners, record, letter, "time-limit", name="runner_limited")
        assert len(begun(path)) == 1


class InterruptConformance(RunnerRows):
    """A KeyboardInterrupt stops the runner, and is no failure of the job."""

    def test_a_keyboard_interrupt_stops_the_runner_and_returns_its_job_untouched(
        self, runners: Runners, runner: Runner
    ) -> None:
        if runners.celery and not runners.processes:
            return  # it would interrupt the process that tests it
        path = runners.new_path()
        handle = runners.submit("interrupt once", path=str(path), text="resumed")
        runner.wait_ended()
        assert outcome(handle.record()) == queued()
        assert handle.record().started_at is None
        wait_for_ready(runners.orchestrator, runners.queue, 1)
        runners.shared()
        check_completed(runners, handle, "resumed")
        assert len(begun(path)) == 2


def start_killers(runners: Runners) -> Killers:
    """Submit jobs that kill their runner, and start one that is started again each time."""
    queue = runners.new_name()
    runner = runners.new(queue, supervised=True)
    fatal: Job[Any] = Job(payload=FatalSchema(input=FatalInput(text="kill")))
    killers = Killers(
        queue,
        runners.submit("kill", queue=queue),
        runners.orchestrator.submit(fatal, queue=queue),
        runners.submit(text="behind", queue=queue),
    )
    runner.start()
    return killers


def check_worker_lost(runners: Runners, handle: JobHandle[Any], queue: str, name: str) -> None:
    """Check that a job that has taken its worker down as often as it may is dead-lettered."""
    losses = POLICY.max_worker_losses
    letter = runners.dead_letter(handle.id, queue)
    record = handle.record()
    assert outcome(record) == failed(str(record.error), "WorkerLostError", starts=losses, losses=losses)
    assert str(record.error).startswith(f"its worker vanished {losses} times")
    check_failure_is_kept(runners, record, letter, "worker-lost", name=name, queue=queue)


def check_ready_jobs_of_a_killed_runner(runners: Runners, queue: str) -> None:
    """Check that of the jobs that a runner holds when it is killed only the one it runs has lost its worker."""
    path = runners.new_path()
    blocking = runners.submit("wait", queue=queue, path=str(path), text="blocking")
    others = [runners.submit(queue=queue, text=str(number)) for number in range(3)]
    runner = runners.new(queue, prefetch=4).start()
    runners.wait_begun(path)
    wait_for_ready(runners.orchestrator, queue, 0)
    runner.kill()
    release(path)
    runner.start()
    for number, other in enumerate(others):
        check_completed(runners, other, str(number), queue=queue)
    check_completed(runners, blocking, "blocking", starts=2, losses=1, queue=queue)
    runners.wait_empty(queue)
    runner.kill()


def declare(orchestrator: Orchestrator, queue: str, arguments: dict[str, Any]) -> None:
    """Declare a durable queue with arguments of the broker's own."""
    with orchestrator.client.connection.clone() as connection, connection.channel() as channel:
        channel.queue_declare(queue, durable=True, exclusive=False, auto_delete=False, arguments=arguments)
