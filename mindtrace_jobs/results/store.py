"""Reading and writing job records in a Celery result backend."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakSet

from mindtrace_jobs.clients.errors import map_error
from mindtrace_jobs.clients.fork_locks import hold_over_forks
from mindtrace_jobs.clients.urls import without_password
from mindtrace_jobs.errors import (
    BrokerError,
    ClosedError,
    ConfigurationError,
    EncodeError,
    JobNotFoundError,
    JobsError,
    ResultsNotConfiguredError,
    summary,
)
from mindtrace_jobs.jobs import ExecutionStatus, Job
from mindtrace_jobs.results.record import STAMPS, STATE, JobRecord, from_meta
from mindtrace_jobs.serializer import encode, parse, to_json
from mindtrace_jobs.transports.protocol import Record

_HOST = socket.gethostname()
#: Seconds for which a record is kept.
EXPIRES = timedelta(days=1)


class ResultStore:
    """Job records in the Celery result backend at a URL, written so that Celery's AsyncResult reads them too.

    Args:
        url: Any Celery ``result_backend``. None: every use raises ResultsNotConfiguredError.
        expires: How long a record is kept. Default one day.
        options: Further Celery settings for the backend, such as TLS.
        on_broker: The URL is that of the Redis server that is the broker.
    """

    def __init__(
        self,
        url: str | None,
        expires: timedelta = EXPIRES,
        options: Mapping[str, Any] | None = None,
        *,
        on_broker: bool = False,
    ) -> None:
        #: Whether the broker's client may write the records, in the same step as it begins or ends a job.
        self.on_broker = on_broker
        self._url = url
        self._expires = expires
        self._options = dict(options or {})
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None
        self._closed = False
        _stores.add(self)

    @property
    def configured(self) -> bool:
        """Whether records are kept at all."""
        return self._url is not None

    @property
    def backend(self) -> Any:
        """The Celery backend, made on first use in each process."""
        if self._url is None:
            raise ResultsNotConfiguredError(
                "this orchestrator keeps no results: pass a Celery result backend, for example "
                "RabbitMQClient(..., result_backend='redis://localhost/1')"
            )
        if self._closed:
            raise ClosedError("this orchestrator is closed; make a new one")
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                if self._made is None or self._made[0] != os.getpid():
                    self._made = (os.getpid(), self._make())
                made = self._made
        return made[1]

    def _make(self) -> Any:
        from celery import Celery
        from celery.app.backends import by_url

        app = Celery("mindtrace_jobs", set_as_current=False)
        app.conf.update(
            result_serializer="pydantic",
            result_accept_content=["pydantic", "json"],
            result_expires=self._expires,
            result_extended=True,  # times and attempts travel as stamps, which only extended results keep
            redis_socket_connect_timeout=5.0,
            redis_socket_timeout=30.0,
            **self._options,
        )
        try:
            cls, url = by_url(self._url, app.loader)
            hold_over_forks(type(app), cls)
            return cls(app=app, url=url)
        except Exception as error:
            raise ConfigurationError(
                f"the result backend {without_password(self._url or '')!r} cannot be used: {summary(error)}"
            ) from error

    def close(self) -> None:
        """Close the backend's connections; using the store afterwards raises ClosedError."""
        self._closed = True
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            pool = getattr(getattr(made[1], "client", None), "connection_pool", None)
            if pool is not None:
                with suppress(Exception):
                    pool.disconnect()

    def find(self, job_id: str) -> JobRecord[Any] | None:
        """The record of a job, or None. An output of a type that is unknown here is left out, see ``JobRecord``."""
        with self._mapped():
            try:
                return from_meta(job_id, self.backend.get_task_meta(job_id, cache=False))
            except Exception as error:
                raw = self._raw(job_id) if _is_decode_error(error) else None
                if raw is None:
                    raise
                record = from_meta(job_id, {**raw, "result": None})
                return record and record.model_copy(update={"unreadable": summary(error)})

    def _raw(self, job_id: str) -> dict[str, Any] | None:
        """A record as plain JSON, where the backend keeps it under a key."""
        key_of = getattr(self.backend, "get_key_for_task", None)
        raw = self.backend.get(key_of(job_id)) if key_of is not None else None
        tree = parse(raw) if raw else None
        return tree if isinstance(tree, dict) else None

    def get(self, job_id: str) -> JobRecord[Any]:
        """The record of a job.

        Raises:
            JobNotFoundError: there is none.
        """
        record = self.find(job_id)
        if record is None:
            raise JobNotFoundError(
                f"no record of job {job_id!r}: it was not submitted with submit(), or its record has expired"
            )
        return record

    def save(self, job: Job[Any], *, attempts: int = 0, error: BaseException | None = None) -> None:
        """Write the job's present status, times, output or error.

        Raises:
            EncodeError: the output would not come back as it is.
        """
        with self._mapped():
            self._write(job.id, *self._state_of(job, attempts, error))

    def record_of(self, job: Job[Any], *, attempts: int = 0) -> Record:
        """What ``save`` would write of a job that runs or is completed, for the broker's client to write.

        Only if ``on_broker``. Raises as ``save``.
        """
        with self._mapped():
            state, result, request = self._state_of(job, attempts, None)
            # Celery's own way to it takes as long as the rest of a short job. The state must come first.
            meta = {
                "status": state,
                "result": encode(result),
                "traceback": None,
                "children": [],
                "date_done": request.stamps["completed_at"],
                "name": request.task,
                "args": None,
                "kwargs": None,
                "worker": request.hostname,
                "retries": request.retries,
                "queue": None,
                "stamped_headers": list(STAMPS),
                **request.stamps,
                "task_id": job.id,
            }
            backend = self.backend
            return Record(backend.get_key_for_task(job.id).decode(), to_json(meta), int(backend.expires or 0))

    @staticmethod
    def _state_of(job: Job[Any], attempts: int, error: BaseException | None) -> tuple[str, Any, _Request]:
        stamps = {
            "queued_at": job.created_at.isoformat(),
            "started_at": job.started_at.isoformat() if job.started_at else None,
            "completed_at": job.completed_at.isoformat() if job.completed_at else None,
            "attempts": attempts,
            "error": job.error,
        }
        result: Any = None
        if job.status is ExecutionStatus.COMPLETED:
            result = job.payload.output
        elif job.status in (ExecutionStatus.FAILED, ExecutionStatus.CANCELLED):
            result = error or RuntimeError(job.error or str(job.status))
        return STATE[job.status], result, _Request(job.payload.name, stamps)

    def fail(self, job_id: str, name: str | None, error: BaseException, reason: str) -> None:
        """Record that a job which could not be read, or not be run, has failed."""
        stamps = {"completed_at": _now(), "error": reason}
        self._write(job_id, STATE[ExecutionStatus.FAILED], error, _Request(name, stamps))

    def requeue(self, job_id: str, name: str | None) -> None:
        """Record that a job which had ended waits again."""
        self.forget(job_id)
        stamps = {"queued_at": _now()}
        self._write(job_id, STATE[ExecutionStatus.QUEUED], None, _Request(name, stamps))

    def cancel(self, job_id: str) -> None:
        """Record that a waiting job must not be run."""
        stamps = {"completed_at": _now(), "error": "cancelled"}
        self._write(job_id, STATE[ExecutionStatus.CANCELLED], _Cancelled("cancelled"), _Request(None, stamps))

    def forget(self, job_id: str) -> None:
        """Remove the record."""
        with self._mapped():
            self.backend.forget(job_id)

    def _write(self, job_id: str, state: str, result: Any, request: _Request) -> None:
        with self._mapped():
            self.backend.store_result(job_id, result, state, request=request)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except JobsError:
            raise
        except Exception as error:
            where = f"the result backend {without_password(self._url or '')}"
            if type(error).__name__ == "EncodeError":
                raise EncodeError(f"cannot be recorded: {summary(error)}") from error
            # Backends may be databases of any kind, with drivers of any kind.
            raise map_error(error, where, ()) or BrokerError(f"{where} failed: {summary(error)}") from error


class _Cancelled(Exception):  # noqa: N818 - only its name is read, by people
    """The job was cancelled."""


def worker_name() -> str:
    """This process, as records and dead letters name it: ``pid@host``."""
    return f"{os.getpid()}@{_HOST}"


@dataclass(slots=True)
class _Request:
    """What a result backend reads of a Celery request."""

    task: str | None
    stamps: dict[str, Any]
    stamped_headers: list[str] = field(default_factory=lambda: list(STAMPS))
    args: None = None
    kwargs: None = None
    hostname: str = field(default_factory=worker_name)
    retries: int = 0
    delivery_info: None = None
    group: None = None
    parent_id: None = None
    children: tuple[()] = ()


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _is_decode_error(error: BaseException) -> bool:
    return any(cls.__name__ == "DecodeError" for cls in type(error).__mro__)


_stores: WeakSet[ResultStore] = WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._lock = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_after_fork_in_child)
