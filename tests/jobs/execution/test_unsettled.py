"""Jobs that wait to be settled: tried with growing pauses, given up when they are somebody else's, never too many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mindtrace_jobs import BrokerUnavailableError, JobsError, LeaseLostError, Orchestrator, PublishError
from mindtrace_jobs.execution import unsettled as module
from mindtrace_jobs.execution.lifecycle import ReceivedJob
from mindtrace_jobs.execution.unsettled import FIRST_PAUSE, LONGEST_PAUSE, Unsettled
from mindtrace_jobs.testing.models import image_job

REFUSED = PublishError("the queue is full")


class Clock:
    """Stands for the module ``time``."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Broker:
    """Has a lifecycle fail to settle the jobs it is told of.

    Attributes:
        errors: What is raised, by the job's id.
        tried: Ids, in the order in which they were tried.
    """

    def __init__(self) -> None:
        self.errors: dict[str, JobsError] = {}
        self.tried: list[str] = []

    def settle_again(self, job: ReceivedJob) -> None:
        assert job.id is not None
        self.tried.append(job.id)
        if job.id in self.errors:
            raise self.errors[job.id]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def jobs() -> Iterator[list[ReceivedJob]]:
    with Orchestrator.from_url("memory://unsettled") as orchestrator:
        for name in "abc":
            orchestrator.publish_message("q", image_job(name))
        source = orchestrator.client.consume(["q"], prefetch=3)
        deliveries = [source.next(0) for _ in range(3)]
        yield [orchestrator.lifecycle.described(delivery) for delivery in deliveries if delivery is not None]
        source.close()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker()


def waiting(broker: Broker, jobs: list[ReceivedJob], error: JobsError = REFUSED) -> tuple[Unsettled, list[str]]:
    """Jobs that wait, and the ids of those that wait no longer."""
    unsettled, done = Unsettled(broker), list[str]()  # type: ignore[arg-type]
    for job in jobs:
        assert job.id is not None
        broker.errors[job.id] = error
        unsettled.add(job, error, lambda job_id=job.id: done.append(job_id))  # type: ignore[misc]
    return unsettled, done


def test_a_job_is_tried_with_growing_pauses_until_it_is_settled(
    clock: Clock, broker: Broker, jobs: list[ReceivedJob]
) -> None:
    unsettled, done = waiting(broker, jobs[:1])
    times: list[float] = []
    while clock.now < 1100:
        before = len(broker.tried)
        unsettled.try_due()
        if len(broker.tried) > before:
            times.append(clock.now - 1000)
        clock.now += 0.25
    assert times == [1, 3, 7, 15, 31, 61, 91]
    assert (FIRST_PAUSE, LONGEST_PAUSE) == (1, 30)
    broker.errors.clear()
    clock.now += 30
    assert unsettled.try_due() == 1
    assert done == [jobs[0].id]
    assert len(unsettled) == 0
    assert unsettled.try_due(at_once=True) == 0


def test_one_that_is_refused_keeps_no_other_from_being_settled(
    clock: Clock, broker: Broker, jobs: list[ReceivedJob]
) -> None:
    unsettled, done = waiting(broker, jobs)
    del broker.errors[str(jobs[1].id)]
    assert unsettled.try_due(at_once=True) == 1
    assert broker.tried == [job.id for job in jobs]
    assert done == [jobs[1].id]


def test_a_broker_that_is_away_is_asked_once_for_all(clock: Clock, broker: Broker, jobs: list[ReceivedJob]) -> None:
    unsettled, _ = waiting(broker, jobs, BrokerUnavailableError("away"))
    clock.now += 1
    unsettled.try_due()
    clock.now += 1
    unsettled.try_due()
    assert broker.tried == [jobs[0].id]
    broker.errors.clear()
    clock.now += 1
    assert unsettled.try_due() == 3


def test_what_is_somebody_elses_waits_no_longer(
    clock: Clock, broker: Broker, jobs: list[ReceivedJob], caplog: pytest.LogCaptureFixture
) -> None:
    unsettled, done = waiting(broker, jobs)
    broker.errors[str(jobs[0].id)] = LeaseLostError("it ran out")
    unsettled.add(jobs[2], LeaseLostError("it ran out"), lambda: done.append("at once"))
    assert unsettled.try_due(at_once=True) == 0
    assert done == ["at once", jobs[0].id]
    assert len(unsettled) == 2
    assert caplog.text.count("it will run again: it ran out") == 2


def test_no_more_than_some_are_made_up_for(
    broker: Broker, jobs: list[ReceivedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_JOBS", 3)
    unsettled, _ = waiting(broker, jobs[:2])
    assert not unsettled.full
    unsettled.add(jobs[2], REFUSED)
    assert unsettled.full
    monkeypatch.setattr(module, "MOST_JOBS", 1000)
    monkeypatch.setattr(module, "MOST_BYTES", len(jobs[0].delivery.message.body))
    assert unsettled.full
    broker.errors.clear()
    unsettled.try_due(at_once=True)
    assert not unsettled.full


def test_whatever_is_raised_the_job_waits_on_and_the_others_are_settled(
    clock: Clock, broker: Broker, jobs: list[ReceivedJob]
) -> None:
    unsettled, done = waiting(broker, jobs)
    broker.errors = {str(jobs[0].id): TypeError("a header that cannot be written")}  # type: ignore[dict-item]
    assert unsettled.try_due(at_once=True) == 2
    assert done == [jobs[1].id, jobs[2].id]
    assert len(unsettled) == 1


def test_what_waits_keeps_neither_data_nor_traceback_that_nobody_needs(broker: Broker, jobs: list[ReceivedJob]) -> None:
    for job, written in zip(jobs, (True, False), strict=False):
        job.job, job.error, job.written = image_job("large"), ValueError("with frames"), written
    waiting(broker, jobs[:2])
    assert (jobs[0].job, jobs[0].error) == (None, None)
    assert jobs[1].job is not None
    assert jobs[1].error is not None
