"""What the rows of the runner conformance tests share: what is to be recorded and kept of a job that ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mindtrace_jobs import DeadLetter
from mindtrace_jobs.jobs import ExecutionStatus
from mindtrace_jobs.results import JobHandle, JobRecord
from mindtrace_jobs.testing.runners.harness import Runners
from mindtrace_jobs.testing.runners.jobs import ActionOutput
from mindtrace_jobs.testing.runners.running import Runner

#: The fields of a record that say what became of a job, apart from times.
OUTCOME = ("status", "output", "error", "error_type", "errors", "starts", "losses", "retries")


class RunnerRows:
    """Base of the parts of the contract. The fixture ``runners`` is the user's."""

    @pytest.fixture
    def runner(self, runners: Runners) -> Runner:
        """The runner that tests share."""
        return runners.shared()

    @pytest.fixture(autouse=True)
    def _cleared(self, runners: Runners) -> Iterator[None]:
        """What one test leaves does not concern the next."""
        yield
        runners.clear()


def facts(value: Any, *names: str) -> dict[str, Any]:
    """Some attributes of a value."""
    return {name: getattr(value, name) for name in names}


def outcome(record: JobRecord[Any]) -> dict[str, Any]:
    """What a record says became of a job, to be compared with ``completed`` and ``failed``."""
    return facts(record, *OUTCOME)


def completed(text: str = "", *, starts: int = 1, losses: int = 0) -> dict[str, Any]:
    """The outcome of a job that is done."""
    return {
        "status": ExecutionStatus.COMPLETED,
        "output": ActionOutput(text=text),
        "error": None,
        "error_type": None,
        "errors": [],
        "starts": starts,
        "losses": losses,
        "retries": starts - losses - 1,
    }


def failed(
    error: str, error_type: str, *, starts: int, losses: int = 0, errors: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The outcome of a job that failed."""
    return {
        "status": ExecutionStatus.FAILED,
        "output": None,
        "error": error,
        "error_type": error_type,
        "errors": errors or [],
        "starts": starts,
        "losses": losses,
        "retries": max(starts - losses - 1, 0),
    }


def queued() -> dict[str, Any]:
    """The outcome, so far, of a job that waits and has never been begun."""
    return {
        "status": ExecutionStatus.QUEUED,
        "output": None,
        "error": None,
        "error_type": None,
        "errors": [],
        "starts": 0,
        "losses": 0,
        "retries": 0,
    }


def check_completed(
    runners: Runners,
    handle: JobHandle[Any],
    text: str = "",
    *,
    starts: int = 1,
    losses: int = 0,
    queue: str | None = None,
) -> JobRecord[Any]:
    """Wait for the end of a job that completes, and check all that is to be seen of it."""
    record = runners.ended(handle)
    assert outcome(record) == completed(text, starts=starts, losses=losses)
    check_times(record)
    assert record.worker
    assert handle.result() == ActionOutput(text=text)
    assert runners.letters(handle.id, queue) == []
    return record


def check_failed(
    runners: Runners,
    job_id: str,
    reason: str,
    expected: dict[str, Any],
    *,
    name: str = "runner_action",
    queue: str | None = None,
    begun: bool = True,
) -> tuple[JobRecord[Any], DeadLetter]:
    """Wait for the dead letter of a job, and check it, and the record that was written before.

    Args:
        runners: Where.
        job_id: The job.
        reason: Why it is dead-lettered.
        expected: Its outcome; the dead letter tells the same.
        name: Its schema's.
        queue: Where it was; default the shared runner's queue.
        begun: Whether work on it began.
    """
    letter = runners.dead_letter(job_id, queue)
    record = runners.orchestrator.job_record(job_id)
    assert outcome(record) == expected
    check_failure_is_kept(runners, record, letter, reason, name=name, queue=queue, begun=begun)
    return record, letter


def check_failure_is_kept(
    runners: Runners,
    record: JobRecord[Any],
    letter: DeadLetter,
    reason: str,
    *,
    name: str = "runner_action",
    queue: str | None = None,
    begun: bool = True,
) -> None:
    """Check that a record and a dead letter tell the same of a job that failed, whether or not work on it began."""
    assert facts(letter, "id", "name", "queue", "reason", "error", "error_type", "losses", "retries") == {
        "id": record.id,
        "name": name,
        "queue": queue or runners.queue,
        "reason": reason,
        **facts(record, "error", "error_type", "losses", "retries"),
    }
    assert record.name == name
    assert letter.at is not None
    assert record.completed_at is not None
    assert letter.worker
    if not begun:
        assert record.started_at is None
    elif reason != "worker-lost":  # whoever finds that is another worker; the lost one may not even have read the job
        assert record.started_at is not None
        assert record.started_at <= record.completed_at
        assert letter.worker == record.worker
    runners.wait_empty(queue)


def check_times(record: JobRecord[Any]) -> None:
    """Check that a job was queued, then begun, then done, and that each time is aware."""
    times = [record.queued_at, record.started_at, record.completed_at]
    known = [moment for moment in times if moment is not None]
    assert known == sorted(known)
    assert len(known) == len(times), times
    assert all(moment.utcoffset() is not None for moment in known)


def check_runner_goes_on(runners: Runners, runner: Runner, starts: int) -> None:
    """Check that a runner has not ended since it was started for the ``starts``-th time, and runs the next job."""
    check_completed(runners, runners.submit(text="next"), "next")
    assert runner.alive
    assert runner.starts == starts
