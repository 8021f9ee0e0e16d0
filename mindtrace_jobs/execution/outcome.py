"""What happens to a job, decided: pure functions that know no broker, no Celery and no clock of their own.

A delivery is settled in one of five ways, each a class here. Whoever runs jobs asks these functions and lets
``Lifecycle`` carry out the answer, so that the same event has the same end in a Consumer and in a Celery worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mindtrace_jobs.errors import (
    DecodeError,
    Failure,
    InvalidOutputError,
    InvalidPayloadError,
    JobCancelledError,
    JobExpiredError,
    RejectJob,
    RetryJob,
    UnknownTypeError,
    WorkerLostError,
    failure_of,
)
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import ExecutionStatus
from mindtrace_jobs.wire.headers import moment


class Reason(StrEnum):
    """Why a job was dead-lettered."""

    UNDECODABLE = "undecodable"
    UNKNOWN_TYPE = "unknown-type"
    INVALID_INPUT = "invalid-input"
    INVALID_OUTPUT = "invalid-output"
    RETRIES_EXHAUSTED = "retries-exhausted"
    REJECTED = "rejected"
    WORKER_LOST = "worker-lost"
    TIME_LIMIT = "time-limit"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The message goes: its job is completed or cancelled."""

    status: ExecutionStatus = ExecutionStatus.COMPLETED


@dataclass(frozen=True, slots=True)
class Retried:
    """A copy is published that waits ``delay`` seconds, then the message goes."""

    delay: float
    failure: Failure


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A copy is published to the dead-letter queue, then the message goes."""

    reason: Reason
    failure: Failure


@dataclass(frozen=True, slots=True)
class Postponed:
    """The job's time has not come: a copy is published that waits ``delay`` seconds, then the message goes."""

    delay: float


@dataclass(frozen=True, slots=True)
class Returned:
    """The message goes back to its queue as it came, and nothing is counted: the runner stops, or was told to."""


Outcome = Acknowledged | Retried | DeadLettered | Postponed | Returned


def received(headers: Mapping[str, Any], now: datetime, *, dead: bool = False) -> Outcome | None:
    """What a message's times say before anything is done with it; None: it may run.

    Args:
        headers: The message's.
        now: Aware.
        dead: It was received from a dead-letter queue, where times no longer matter.

    Raises:
        DecodeError: ``eta`` or ``expires`` is no time.
    """
    if dead:
        return None
    eta, expires = moment(headers, "eta"), moment(headers, "expires")
    if expires is not None and expires < now:
        return expired(expires)
    if eta is not None and eta > now:
        return Postponed((eta - now).total_seconds())
    return None


def expired(expires: datetime) -> DeadLettered:
    """The end of a job whose time is over."""
    return DeadLettered(Reason.EXPIRED, failure_of(JobExpiredError(f"expired at {expires.isoformat()}")))


@dataclass(frozen=True, slots=True)
class Losses:
    """How often work on a job began and its worker vanished.

    Attributes:
        known: As counted by the broker, the message, or the record of the last start.
        suspected: 1 if a broker that does not count says that the job was delivered before: it may have been started
            once more than is known.
    """

    known: int = 0
    suspected: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.known + self.suspected


def lost_worker(losses: Losses, limit: int) -> DeadLettered | None:
    """The end of a job that has lost its worker too often; None: it runs (again).

    On a suspicion alone no job is given up: it may only have lain prefetched.
    """
    if losses.known < limit and (losses.total < limit or not losses.known):
        return None
    times = "once" if losses.total == 1 else f"{losses.total} times"
    text = f"its worker vanished {times} while running it (killed, out of memory, lost its lease)"
    return DeadLettered(Reason.WORKER_LOST, failure_of(WorkerLostError(text)))


def refused(error: DecodeError) -> DeadLettered:
    """The end of a message that cannot be read as a job this process knows."""
    if isinstance(error, UnknownTypeError):
        reason = Reason.UNKNOWN_TYPE
    elif isinstance(error, InvalidPayloadError):
        reason = Reason.INVALID_INPUT
    else:
        reason = Reason.UNDECODABLE
    return DeadLettered(reason, failure_of(error))


def failed(error: BaseException, job_id: str | None, retries: int, policy: RetryPolicy) -> Outcome:
    """What becomes of a job whose handler raised.

    Args:
        error: What it raised.
        job_id: The job's id: only its own cancellation cancels it.
        retries: How often it was retried before.
        policy: Of the runner, or of the job's kind.
    """
    if isinstance(error, KeyboardInterrupt):
        return Returned()
    if isinstance(error, JobCancelledError) and error.job_id == job_id:
        return Acknowledged(ExecutionStatus.CANCELLED)
    failure = failure_of(error)
    if isinstance(error, RejectJob):
        return DeadLettered(Reason.REJECTED, failure)
    if isinstance(error, InvalidOutputError):
        return DeadLettered(Reason.INVALID_OUTPUT, failure)
    if isinstance(error, RetryJob) and retries < policy.max_retries:
        return Retried(policy.delay(retries) if error.delay is None else error.delay, failure)
    if policy.allows(error, retries):
        return Retried(policy.delay(retries), failure)
    return DeadLettered(Reason.RETRIES_EXHAUSTED, failure)


def status_after(outcome: Outcome) -> ExecutionStatus:
    """Where a job stands after it was settled so."""
    if isinstance(outcome, Acknowledged):
        return outcome.status
    return ExecutionStatus.FAILED if isinstance(outcome, DeadLettered) else ExecutionStatus.QUEUED


def without_retry(outcome: Outcome, reason: Reason | None = None) -> Outcome:
    """The outcome where there is no further try: of a job received from a dead-letter queue, or past its time limit.

    Args:
        outcome: What the policy says.
        reason: Why the job is dead-lettered, if not for want of retries.
    """
    if isinstance(outcome, Retried):
        return DeadLettered(reason or Reason.RETRIES_EXHAUSTED, outcome.failure)
    if isinstance(outcome, DeadLettered) and outcome.reason is Reason.RETRIES_EXHAUSTED and reason is not None:
        return DeadLettered(reason, outcome.failure)
    return outcome
