"""What is known of a job, and how Celery's states say it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from mindtrace_jobs.jobs import ExecutionStatus, JobOutput, OutputT

#: A state of our own, since Celery's PENDING means "never heard of it".
QUEUED = "QUEUED"
#: The usual name for a custom state that carries progress.
PROGRESS = "PROGRESS"

_STATUS = {
    QUEUED: ExecutionStatus.QUEUED,
    "RECEIVED": ExecutionStatus.QUEUED,
    "RETRY": ExecutionStatus.QUEUED,
    "STARTED": ExecutionStatus.RUNNING,
    PROGRESS: ExecutionStatus.RUNNING,
    "SUCCESS": ExecutionStatus.COMPLETED,
    "FAILURE": ExecutionStatus.FAILED,
    "REVOKED": ExecutionStatus.CANCELLED,
    "REJECTED": ExecutionStatus.FAILED,
    "IGNORED": ExecutionStatus.CANCELLED,
}
STATE = {
    ExecutionStatus.QUEUED: QUEUED,
    ExecutionStatus.RUNNING: "STARTED",
    ExecutionStatus.COMPLETED: "SUCCESS",
    ExecutionStatus.FAILED: "FAILURE",
    ExecutionStatus.CANCELLED: "REVOKED",
}
#: What a record carries beyond Celery's own fields, as stamps of the result.
STAMPS = ("queued_at", "started_at", "completed_at", "attempts", "error")


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
        error, error_type: Why it failed, and the name of the exception.
        errors: For input or output that did not fit its type: each field's path, message and kind of error.
        progress: What the running job reported last, if it does.
        attempts: How often work on it began.
        queued_at, started_at, completed_at: Aware UTC, as far as they happened and were recorded.
        worker: Who ran it last.
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
    attempts: int = 0
    queued_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    worker: str | None = None
    unreadable: str | None = None


def from_meta(job_id: str, meta: Mapping[str, Any]) -> JobRecord[Any] | None:
    """The record in a Celery result's metadata; None for a state that says nothing is known."""
    status = _STATUS.get(str(meta.get("status")))
    if status is None:
        return None
    result = meta.get("result")
    error = result if isinstance(result, BaseException) else None
    failed = status in (ExecutionStatus.FAILED, ExecutionStatus.CANCELLED)
    return JobRecord[Any](
        id=job_id,
        name=meta.get("name"),
        status=status,
        output=result if isinstance(result, JobOutput) else None,
        error=meta.get("error") or (str(error) if error is not None and failed else None),
        error_type=type(error).__name__ if error is not None else None,
        errors=getattr(error, "errors", None) or [],
        progress=_progress(result) if meta.get("status") == PROGRESS else None,
        attempts=meta.get("attempts") or 0,
        queued_at=meta.get("queued_at"),
        started_at=meta.get("started_at"),
        completed_at=meta.get("completed_at") or _aware(meta.get("date_done")),
        worker=meta.get("worker"),
    )


def _progress(result: Any) -> Progress | None:
    try:
        return Progress.model_validate(result)
    except ValidationError:  # somebody else's custom state
        return None


def _aware(moment: Any) -> datetime | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
