"""The record of a job: what is written of it, and what is read, in the metadata of a Celery result."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    computed_field,
    model_validator,
)

from mindtrace_jobs._times import aware, parsed
from mindtrace_jobs.errors import Failure
from mindtrace_jobs.jobs import ExecutionStatus, JobOutput, OutputT
from mindtrace_jobs.wire.headers import count, text

#: A state of our own, since Celery's PENDING means "never heard of it".
QUEUED = "QUEUED"
#: The usual name for a custom state that carries progress.
PROGRESS = "PROGRESS"
STARTED, SUCCESS, FAILURE, RETRY, REVOKED = "STARTED", "SUCCESS", "FAILURE", "RETRY", "REVOKED"

_STATUS = {
    QUEUED: ExecutionStatus.QUEUED,
    "RECEIVED": ExecutionStatus.QUEUED,
    RETRY: ExecutionStatus.QUEUED,
    STARTED: ExecutionStatus.RUNNING,
    PROGRESS: ExecutionStatus.RUNNING,
    SUCCESS: ExecutionStatus.COMPLETED,
    FAILURE: ExecutionStatus.FAILED,
    REVOKED: ExecutionStatus.CANCELLED,
    "REJECTED": ExecutionStatus.FAILED,
    "IGNORED": ExecutionStatus.CANCELLED,
}
STATE = {
    ExecutionStatus.QUEUED: QUEUED,
    ExecutionStatus.RUNNING: STARTED,
    ExecutionStatus.COMPLETED: SUCCESS,
    ExecutionStatus.FAILED: FAILURE,
    ExecutionStatus.CANCELLED: REVOKED,
}
_HOST = socket.gethostname()
#: What Celery writes of an exception in a result that is no pickle.
_EXCEPTION_TYPE, _EXCEPTION_ARGS = "exc_type", "exc_message"


def worker_name() -> str:
    """This process, as records and dead letters name it: ``pid@host``."""
    return f"{os.getpid()}@{_HOST}"


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job stands, to be written.

    Attributes:
        id, name: The job's.
        status: Its status.
        output: Of a completed job.
        failure: Of a failed one, or of one that waits to be retried.
        starts, losses, retries: How often work on it began, its worker vanished, it was retried after a failure.
        queued_at, started_at, completed_at: Aware, as far as they have happened.
        worker: Who runs it, or ran it last; None until somebody does.
    """

    id: str
    name: str | None
    status: ExecutionStatus
    output: Any = None
    failure: Failure | None = None
    starts: int = 0
    losses: int = 0
    retries: int = 0
    queued_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    worker: str | None = None

    def meta(self) -> dict[str, Any]:
        """What the metadata of a Celery result holds of it beside Celery's own state and result."""
        failure = self.failure
        return {
            "name": self.name,
            "worker": self.worker,
            "starts": self.starts,
            "losses": self.losses,
            "retries": self.retries,
            "queued_at": _iso(self.queued_at),
            "started_at": _iso(self.started_at),
            "completed_at": _iso(self.completed_at),
            "error": failure and failure.error,
            "error_type": failure and failure.error_type,
            "errors": list(failure.errors) if failure else [],
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


class Progress(BaseModel):
    """How far a running job says it is.

    Attributes:
        current, total: In units of the job's own; ``total`` None when it is not known.
        message: For people.
    """

    model_config = ConfigDict(frozen=True)

    current: float
    total: float | None = None
    message: str = ""


class JobRecord(BaseModel, Generic[OutputT]):
    """The status of a job at one moment.

    Attributes:
        id, name: The job's.
        status: Where it stands.
        output: The typed output of a completed job.
        error, error_type: Why it failed, or why it waits to be retried: what the exception said, and its class's name.
        errors: For input or output that did not fit its type: each field's path, message and kind of error.
        progress: What the running job reported last, if it does.
        starts: How often work on it began.
        losses: How often its worker vanished while it ran.
        retries: How often it was retried after a failure.
        queued_at, started_at, completed_at: Aware UTC, as far as they happened.
        worker: Who runs it, or ran it last; None before.
        unreadable: Why the output could not be read here: most likely its type is not defined in this process.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str | None = None
    status: ExecutionStatus
    output: SerializeAsAny[OutputT] | None = None
    error: str | None = None
    error_type: str | None = None
    errors: list[dict[str, Any]] = Field(default_factory=list)
    progress: Progress | None = None
    starts: int = 0
    losses: int = 0
    queued_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    worker: str | None = None
    unreadable: str | None = None
    _retries: int = PrivateAttr(default=0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def retries(self) -> int:
        """How often it was retried after a failure."""
        return self._retries

    @model_validator(mode="wrap")
    @classmethod
    def _keep_retries(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        record = handler(value)
        return record._retried(count(value, "retries")) if isinstance(value, Mapping) and "retries" in value else record

    def _retried(self, retries: int) -> Self:
        self._retries = retries
        return self


def from_meta(job_id: str, meta: Mapping[str, Any], unreadable: str | None = None) -> JobRecord[Any] | None:
    """The record in a Celery result's metadata; None for a state that says nothing is known.

    Whatever else stands there, it is read: what does not fit its field is left out.

    Args:
        job_id: The job.
        meta: The metadata, an exception in it as Celery wrote it or as it was made again.
        unreadable: Why its result is missing, if it could not be read.
    """
    status = _STATUS.get(str(meta.get("status")))
    if status is None:
        return None
    result = meta.get("result")
    over = status in (ExecutionStatus.FAILED, ExecutionStatus.CANCELLED)
    failure = _failure(result) if over else Failure("", "")
    record = JobRecord[Any](
        id=job_id,
        name=text(meta, "name"),
        status=status,
        output=result if isinstance(result, JobOutput) and status is ExecutionStatus.COMPLETED else None,
        error=text(meta, "error") or failure.error or None,
        error_type=text(meta, "error_type") or failure.error_type or None,
        errors=_errors(meta.get("errors")),
        progress=_progress(result) if meta.get("status") == PROGRESS else None,
        starts=count(meta, "starts"),
        losses=count(meta, "losses"),
        queued_at=_moment(meta.get("queued_at")),
        started_at=_moment(meta.get("started_at")),
        completed_at=_moment(meta.get("completed_at")) or (_moment(meta.get("date_done")) if status.final else None),
        worker=text(meta, "worker"),
        unreadable=unreadable if status is ExecutionStatus.COMPLETED else None,
    )
    return record._retried(count(meta, "retries"))


def state_of(record: JobRecord[Any]) -> JobState:
    """The state that a record tells, to be written again."""
    failed = record.error is not None or record.error_type is not None
    return JobState(
        record.id,
        record.name,
        record.status,
        output=record.output,
        failure=Failure(record.error_type or "", record.error or "", tuple(record.errors)) if failed else None,
        starts=record.starts,
        losses=record.losses,
        retries=record.retries,
        queued_at=record.queued_at,
        started_at=record.started_at,
        completed_at=record.completed_at,
        worker=record.worker,
    )


def _failure(result: Any) -> Failure:
    """Why a task failed by the word of a plain Celery worker, which keeps the exception itself."""
    if isinstance(result, BaseException):
        return Failure(type(result).__name__, _first(result.args) or str(result.args))
    if isinstance(result, Mapping):
        args = result.get(_EXCEPTION_ARGS)
        return Failure(str(result.get(_EXCEPTION_TYPE) or ""), _first(args) or str(args or ""))
    return Failure("", "")


def _first(args: Any) -> str | None:
    return str(args[0]) if isinstance(args, list | tuple) and len(args) == 1 else None


def _errors(value: Any) -> list[dict[str, Any]]:
    return [dict(item) for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []


def _progress(result: Any) -> Progress | None:
    try:
        return Progress.model_validate(result)
    except ValidationError:  # somebody else's custom state
        return None


def _moment(value: Any) -> datetime | None:
    return aware(value) if isinstance(value, datetime) else parsed(value)


@dataclass(slots=True)
class StateRequest:
    """What a result backend reads of a Celery request, for a state that is written without one."""

    job_state: JobState | None = None
    task: str | None = None
    args: None = None
    kwargs: None = None
    hostname: str | None = None
    retries: int = 0
    delivery_info: None = None
    group: None = None
    parent_id: None = None
    children: tuple[()] = ()
    stamps: dict[str, Any] = field(default_factory=dict)
    stamped_headers: list[str] = field(default_factory=list)


def cancel_mark(job_id: str) -> str:
    """Under which id the result backend keeps that a job is cancelled: its own record changes while it runs."""
    return f"{job_id}.cancel"


def publishing_mark(job_id: str) -> str:
    """Under which id the result backend keeps that a job is not known to be published."""
    return f"{job_id}.publishing"
