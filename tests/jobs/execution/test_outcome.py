"""What happens to a job is decided by pure functions: these are their laws."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindtrace_jobs.errors import (
    DecodeError,
    EncodeError,
    HandlerError,
    InvalidInputError,
    InvalidOutputError,
    InvalidPayloadError,
    JobCancelledError,
    RejectJob,
    RetryJob,
    UnknownTypeError,
    failure_of,
)
from mindtrace_jobs.execution.outcome import (
    Acknowledged,
    DeadLettered,
    Losses,
    Postponed,
    Reason,
    Retried,
    Returned,
    expired,
    failed,
    lost_worker,
    received,
    refused,
    status_after,
    without_retry,
)
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import ExecutionStatus

NOW = datetime(2026, 2, 3, tzinfo=UTC)
OFFENCES = [{"field": "x", "message": "no", "type": "t"}]


class Departure(BaseException):
    pass


RAISED = st.sampled_from(
    [
        ValueError("v"),
        MemoryError("m"),
        SystemExit(3),
        Departure("d"),
        asyncio.CancelledError("c"),
        RejectJob("no"),
        RetryJob("busy"),
        RetryJob("busy", delay=5.0),
        EncodeError("another job's"),
        InvalidOutputError("out", OFFENCES),
        JobCancelledError("of another job", "other"),
    ]
)
POLICIES = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 5),
    retry_on=st.sampled_from([(Exception,), (OSError,), (ValueError, MemoryError), (BaseException,)]),
    dont_retry_on=st.sampled_from([(), (MemoryError,)]),
)


@given(RAISED, st.integers(0, 10), POLICIES)
def test_a_failed_job_is_retried_only_while_the_policy_allows_and_dead_lettered_then(
    error: BaseException, retries: int, policy: RetryPolicy
) -> None:
    end = failed(error, "job", retries, policy)
    assert isinstance(end, Retried | DeadLettered)
    assert end.failure == failure_of(error)
    if isinstance(end, Retried):
        assert retries < policy.max_retries
        assert 0 <= end.delay <= max(policy.maximum, 5.0)
        assert not isinstance(error, RejectJob | InvalidOutputError)
        assert isinstance(error, (RetryJob, *policy.retry_on))
        assert isinstance(error, RetryJob) or not isinstance(error, policy.dont_retry_on)
        assert status_after(end) is ExecutionStatus.QUEUED
    else:
        assert status_after(end) is ExecutionStatus.FAILED
    # Where there is no further try, the same failure is kept.
    last = without_retry(end)
    assert isinstance(last, DeadLettered)
    assert last.failure == end.failure


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RejectJob("no"), Reason.REJECTED),
        (InvalidOutputError("out"), Reason.INVALID_OUTPUT),
        (SystemExit(3), Reason.RETRIES_EXHAUSTED),
        (EncodeError("of a job that the handler published"), Reason.RETRIES_EXHAUSTED),
        (DecodeError("of a message that the handler received"), Reason.RETRIES_EXHAUSTED),
    ],
)
def test_a_failure_that_is_not_retried_has_a_reason(error: BaseException, reason: Reason) -> None:
    end = failed(error, "job", 0, RetryPolicy(max_retries=0))
    assert isinstance(end, DeadLettered)
    assert end.reason is reason


def test_retryjob_chooses_the_pause_and_counts_as_a_retry() -> None:
    policy = RetryPolicy(max_retries=1, retry_on=(OSError,), initial=60.0, jitter=0.0)
    assert failed(RetryJob("busy", delay=0.5), "job", 0, policy) == Retried(0.5, failure_of(RetryJob("busy")))
    assert failed(RetryJob("busy"), "job", 0, policy) == Retried(60.0, failure_of(RetryJob("busy")))
    assert isinstance(failed(RetryJob("busy", delay=0.5), "job", 1, policy), DeadLettered)


def test_only_its_own_cancellation_cancels_a_job() -> None:
    policy = RetryPolicy()
    assert failed(JobCancelledError("stop", "mine"), "mine", 0, policy) == Acknowledged(ExecutionStatus.CANCELLED)
    assert isinstance(failed(JobCancelledError("stop", "other"), "mine", 0, policy), Retried)


def test_an_interrupt_gives_the_job_back() -> None:
    assert failed(KeyboardInterrupt(), "job", 99, RetryPolicy(max_retries=0)) == Returned()


def test_a_time_limit_gives_its_own_reason_in_place_of_a_retry_and_of_no_other() -> None:
    retried = failed(ValueError("late"), "job", 0, RetryPolicy())
    exhausted = failed(ValueError("late"), "job", 9, RetryPolicy())
    rejected = failed(RejectJob("no"), "job", 0, RetryPolicy())
    for end, reason in (
        (retried, Reason.TIME_LIMIT),
        (exhausted, Reason.TIME_LIMIT),
        (rejected, Reason.REJECTED),
    ):
        last = without_retry(end, Reason.TIME_LIMIT)
        assert isinstance(last, DeadLettered)
        assert last.reason is reason


@given(st.integers(0, 6), st.integers(0, 1), st.integers(1, 4))
def test_a_job_is_given_up_for_lost_workers_but_never_on_a_suspicion_alone(
    known: int, suspected: int, limit: int
) -> None:
    end = lost_worker(Losses(known, suspected), limit)
    if known >= limit:
        assert end is not None
    elif known == 0 or known + suspected < limit:
        assert end is None
    else:
        assert end is not None
    if end is not None:
        assert (end.reason, end.failure.error_type) == (Reason.WORKER_LOST, "WorkerLostError")


def test_a_message_is_due_early_late_or_now() -> None:
    later, earlier = (NOW + timedelta(seconds=5)).isoformat(), (NOW - timedelta(seconds=5)).isoformat()
    assert received({}, NOW) is None
    assert received({"eta": earlier, "expires": later}, NOW) is None
    assert received({"eta": later}, NOW) == Postponed(5.0)
    end = received({"expires": earlier, "eta": later}, NOW)
    assert end == expired(NOW - timedelta(seconds=5))
    assert isinstance(end, DeadLettered)
    assert (end.reason, end.failure.error_type) == (Reason.EXPIRED, "JobExpiredError")
    assert received({"expires": earlier, "eta": later}, NOW, dead=True) is None
    with pytest.raises(DecodeError):
        received({"eta": "soon"}, NOW)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DecodeError("x"), Reason.UNDECODABLE),
        (UnknownTypeError("x"), Reason.UNKNOWN_TYPE),
        (InvalidPayloadError("x"), Reason.INVALID_INPUT),
        (InvalidInputError("x", OFFENCES), Reason.INVALID_INPUT),
    ],
)
def test_what_cannot_be_read_is_refused_for_a_reason(error: DecodeError, reason: Reason) -> None:
    assert refused(error) == DeadLettered(reason, failure_of(error))


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


class AsksForMore(Exception):
    errors = "what a stranger calls by that name"


@pytest.mark.parametrize(
    ("error", "error_type", "text", "errors"),
    [
        (ValueError("v"), "ValueError", "v", ()),
        (ExceptionGroup("several", [ValueError("v")]), "ExceptionGroup", "several (1 sub-exception)", ()),
        (Unprintable(), "Unprintable", "(Unprintable that cannot be printed)", ()),
        (AsksForMore("x"), "AsksForMore", "x", ()),
        (HandlerError("3", "SystemExit"), "SystemExit", "3", ()),
        (InvalidInputError("in", OFFENCES), "InvalidInputError", "in", tuple(OFFENCES)),
    ],
)
def test_a_failure_is_the_exceptions_own_name_and_text(
    error: BaseException, error_type: str, text: str, errors: tuple[dict[str, Any], ...]
) -> None:
    failure = failure_of(error)
    assert (failure.error_type, failure.error, failure.errors) == (error_type, text, errors)
