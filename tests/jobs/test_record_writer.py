"""States of jobs that a result backend does not take are kept within bounds, and the last one of each job is written."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindtrace_jobs.errors import BrokerError, BrokerUnavailableError, ClosedError, ConfigurationError, EncodeError
from mindtrace_jobs.jobs import ExecutionStatus
from mindtrace_jobs.results import JobRecord, JobState, writer
from mindtrace_jobs.results.writer import RecordWriter, outdated
from mindtrace_jobs.testing.models import ImageOutput
from tests.jobs.servers import wait_until

RUNNING, QUEUED, COMPLETED = ExecutionStatus.RUNNING, ExecutionStatus.QUEUED, ExecutionStatus.COMPLETED


class SwitchedStore:
    """A store that answers, refuses, or is away."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.states: dict[str, JobState] = {}
        self.cancelled: set[str] = set()
        self.calls = 0

    def save(self, state: JobState, **_how: Any) -> None:
        """Write a state now."""
        self._answer()
        self.states[state.id] = state

    def save_start(self, state: JobState) -> bool:
        """Write that a job runs now, unless it is cancelled."""
        self._answer()
        if state.id in self.cancelled:
            return False
        self.states[state.id] = state
        return True

    def find(self, job_id: str) -> JobRecord[Any] | None:
        """The record of a job, or None."""
        self._answer()
        state = self.states.get(job_id)
        if state is None:
            return None
        return JobRecord(id=job_id, status=state.status, starts=state.starts, worker=state.worker)

    def _answer(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


def writer_to(store: SwitchedStore) -> RecordWriter:
    return RecordWriter(store.save, store.save_start, store.find)


def state(job_id: str, status: ExecutionStatus = COMPLETED, *, starts: int = 1, worker: str = "me") -> JobState:
    return JobState(job_id, "job", status, starts=starts, worker=worker)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(writer, "_LONGEST_PAUSE", 0.01)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(st.sampled_from(["away", "refusing", "back"]), st.tuples(st.sampled_from("abc"), st.integers(1, 9))),
        max_size=30,
    )
)
def test_the_last_state_of_each_job_is_written_whatever_the_store_does(steps: list[Any]) -> None:
    store = SwitchedStore()
    records = writer_to(store)
    errors = {"away": BrokerUnavailableError("away"), "refusing": BrokerError("no"), "back": None}
    last: dict[str, JobState] = {}
    for step in steps:
        if isinstance(step, str):
            store.error = errors[step]
        else:
            last[step[0]] = state(step[0], QUEUED, starts=step[1])
            records.write(last[step[0]], {})
    store.error = None
    wait_until(lambda: store.states == last, "all are written")
    wait_until(lambda: records._thread is None, "the thread has ended")
    assert not records.away
    assert not records._kept


def test_while_nobody_answers_the_store_is_not_asked_by_those_who_run_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_FIRST_PAUSE", 3600.0)
    store = SwitchedStore()
    store.error = BrokerUnavailableError("away")
    records = writer_to(store)
    for number in range(100):
        records.write(state(str(number)), {})
    assert store.calls == 1
    store.error = None
    records.flush()
    assert len(store.states) == 100


def test_what_belongs_to_a_job_is_not_written_before_its_state_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_FIRST_PAUSE", 3600.0)
    store = SwitchedStore()
    records = writer_to(store)
    written: list[str] = []
    store.error = BrokerError("no")
    records.write(state("one"), {})
    store.error = None
    records.write_behind("one", "its part of a chord", {}, lambda: written.append(",".join(store.states)))
    records.write_behind("two", "another part", {}, lambda: written.append("at once"))
    assert written == ["at once"]
    records.flush()
    assert written == ["at once", "one"]


def test_an_output_that_cannot_be_written_is_refused_during_an_outage_too() -> None:
    store = SwitchedStore()
    store.error = BrokerUnavailableError("away")
    records = writer_to(store)
    records.failed(BrokerUnavailableError("away"))
    output = ImageOutput.model_construct(objects=object())
    with pytest.raises(EncodeError):
        records.write(JobState("one", "job", COMPLETED, output=output), {})
    assert not records._kept
    store.error = None


@pytest.mark.parametrize("bound", ["MOST_RECORDS", "MOST_BYTES"])
def test_what_is_kept_is_bounded_and_the_oldest_is_given_up_with_a_word(
    bound: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, bound, 3 if bound == "MOST_RECORDS" else 1000)
    store = SwitchedStore()
    store.error = BrokerUnavailableError("away")
    records = writer_to(store)
    for number in range(20):
        records.write(JobState(f"job-{number}", "job", COMPLETED, output=ImageOutput(objects=[f"{number:0100}"])), {})
    assert 0 < len(records._kept) < 20
    assert "job-19" in records._kept
    assert "job job-0 could not be recorded: too many wait" in caplog.text
    store.error = None
    wait_until(lambda: "job-19" in store.states, "the rest is written")
    assert "job-0" not in store.states


def test_what_is_not_written_within_the_time_is_given_up_with_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "KEPT_FOR", 0.0)
    store = SwitchedStore()
    store.error = BrokerError("no")
    records = writer_to(store)
    records.write(state("one"), {})
    wait_until(lambda: not records._kept, "it is given up")
    assert "the status 'completed' of job one could not be recorded: not written for" in caplog.text


def test_what_can_never_be_written_is_given_up_at_once_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    store = SwitchedStore()
    store.error = BrokerUnavailableError("away")
    records = writer_to(store)
    records.write(state("one"), {})
    store.error = ConfigurationError("no such backend")
    wait_until(lambda: records._thread is None, "the thread has ended")
    assert "the status 'completed' of job one could not be recorded: no such backend" in caplog.text
    assert "written late" not in caplog.text


def test_flushing_writes_what_waits_or_gives_it_up(caplog: pytest.LogCaptureFixture) -> None:
    store = SwitchedStore()
    store.error = BrokerUnavailableError("away")
    records = writer_to(store)
    records.write(state("lost"), {})
    records.flush()
    assert "job lost could not be recorded: the process ends" in caplog.text
    records.write(state("kept"), {})
    store.error = None
    records.flush()
    assert list(store.states) == ["kept"]
    # It goes on as before.
    records.write(state("next"), {})
    assert "next" in store.states


def test_a_store_that_was_closed_is_not_asked_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    store = SwitchedStore()
    records = writer_to(store)
    store.error = BrokerUnavailableError("away")
    records.write(state("one"), {})
    store.error = ClosedError("closed")
    wait_until(lambda: records._thread is None, "the thread has ended")
    records.write(state("two"), {})
    assert "job two could not be recorded: closed" in caplog.text


def test_a_forked_child_does_not_write_what_its_parent_keeps() -> None:
    from mindtrace_jobs.results import ResultStore

    store = ResultStore("redis://127.0.0.1:1/0")
    store.writer.write(state("one"), {})
    child = os.fork()
    if child == 0:
        os._exit(bool(store.writer._kept or store.writer.away))
    assert os.waitpid(child, 0)[1] == 0
    assert store.writer._kept
    store.writer.flush()


@pytest.mark.parametrize(
    ("mine", "recorded", "expected"),
    [
        (state("j", RUNNING), state("j", QUEUED, starts=0), False),
        (state("j", COMPLETED), state("j", RUNNING), False),
        (state("j", QUEUED, starts=1), state("j", RUNNING, starts=2, worker="other"), True),
        (state("j", QUEUED, starts=1), state("j", COMPLETED, starts=2, worker="other"), True),
        (state("j", COMPLETED, starts=1), state("j", RUNNING, starts=2, worker="other"), True),
        (state("j", RUNNING), state("j", COMPLETED), True),
        # Returned by a clean stop, which takes the start back.
        (state("j", QUEUED, starts=0), state("j", RUNNING, starts=1), False),
    ],
)
def test_a_late_state_does_not_replace_what_came_after_it(
    mine: JobState, recorded: JobState, *, expected: bool
) -> None:
    record: JobRecord[Any] = JobRecord(id="j", status=recorded.status, starts=recorded.starts, worker=recorded.worker)
    assert outdated(mine, record) is expected
