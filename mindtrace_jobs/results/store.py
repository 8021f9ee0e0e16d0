"""Reading and writing job records in a Celery result backend."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from weakref import WeakSet

from mindtrace_jobs import _forks
from mindtrace_jobs.clients.errors import map_error
from mindtrace_jobs.clients.fork_locks import hold_over_forks
from mindtrace_jobs.clients.redaction import Redactor
from mindtrace_jobs.errors import (
    BrokerError,
    ClosedError,
    ConfigurationError,
    EncodeError,
    HandlerError,
    JobCancelledError,
    JobNotFoundError,
    JobsError,
    ResultsNotConfiguredError,
    UnconfirmedError,
    summary,
)
from mindtrace_jobs.jobs import ExecutionStatus
from mindtrace_jobs.logs import shown
from mindtrace_jobs.results.record import (
    STATE,
    JobRecord,
    JobState,
    cancel_mark,
    from_meta,
    publishing_mark,
    state_of,
)
from mindtrace_jobs.results.writer import RecordWriter
from mindtrace_jobs.serializer import encode, to_json
from mindtrace_jobs.transports.contract import Record

log = logging.getLogger("mindtrace_jobs.results")

#: Time for which a record is kept.
EXPIRES = timedelta(days=1)
#: Time after which a job whose publishing nobody confirmed reads as failed: longer than publishing takes, with all timeouts.
UNCONFIRMED_AFTER = timedelta(minutes=2)
_UNCONFIRMED = {
    "status": ExecutionStatus.FAILED,
    "error": "not known to be on its queue: who submitted it ended, or was cut off, before the broker confirmed it. "
    "Submit it again; it may still run",
    "error_type": UnconfirmedError.__name__,
}
#: Celery's settings for a Redis backend: seconds to connect, and without an answer, after which it counts as away.
_REDIS_TIMEOUTS = {"redis_socket_connect_timeout": 5.0, "redis_socket_timeout": 5.0}


class ResultStore:
    """Job records in the Celery result backend at a URL, written so that Celery's AsyncResult reads them too.

    Args:
        url: Any Celery ``result_backend``. None: every use raises ResultsNotConfiguredError.
        expires: How long a record is kept. Default one day.
        options: Further Celery settings for the backend, such as TLS.
        inline: The URL is that of the server that is the broker, whose client may write records in the same step as it
            starts or acknowledges a message.
        absent: What to say when there is no URL.
    """

    def __init__(
        self,
        url: str | None,
        expires: timedelta = EXPIRES,
        options: Mapping[str, Any] | None = None,
        *,
        inline: bool = False,
        absent: str = "this orchestrator keeps no results: pass a Celery result backend, for example "
        "RabbitMQClient(..., result_backend='redis://localhost/1')",
    ) -> None:
        self._inline = inline
        self._url = url
        self._absent = absent
        self._expires = expires
        self._options = dict(options or {})
        self._lock = threading.Lock()
        self._made: tuple[int, Any] | None = None
        self._closed = False
        #: Writes for whoever runs jobs, who does not wait for a backend that is away.
        self.writer = RecordWriter(self.save, self.save_start, self.find, self.leave_thread)
        _stores.add(self)

    @property
    def configured(self) -> bool:
        """Whether records are kept at all."""
        return self._url is not None

    @property
    def backend(self) -> Any:
        """The Celery backend, extended (see ``results.backend``), made on first use in each process."""
        if self._url is None:
            raise ResultsNotConfiguredError(self._absent)
        if self._closed:
            raise ClosedError("this orchestrator is closed; make a new one")
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                if self._made is None or self._made[0] != os.getpid():
                    self._made = (os.getpid(), self._make())
                made = self._made
        return made[1]

    @property
    def _redactor(self) -> Redactor:
        return Redactor(self._url or "", self._options)

    def _unusable(self, error: Exception) -> ConfigurationError:
        redactor = self._redactor
        return ConfigurationError(
            f"the result backend {redactor.shown!r} cannot be used: {redactor.redact(summary(error))}"
        )

    def _make(self) -> Any:
        from celery import Celery
        from celery.app.backends import by_url

        from mindtrace_jobs.results.backend import records_backend_class

        app = Celery("mindtrace_jobs", set_as_current=False)
        app.conf.update(
            result_serializer="pydantic",
            result_accept_content=["pydantic", "json"],
            result_expires=self._expires,
            **{**_REDIS_TIMEOUTS, **self._options},
        )
        try:
            cls, url = by_url(self._url, app.loader)
            hold_over_forks(type(app), cls)
            return records_backend_class(cls)(app=app, url=url)
        except Exception as error:
            raise self._unusable(error) from self._redactor.cause(error)

    def close(self) -> None:
        """Close the backend's connections; using the store afterwards raises ClosedError.

        States of jobs that could not be written yet are tried once more, for at most 3 seconds.
        """
        from mindtrace_jobs.results import records

        self.writer.flush()
        self._closed = True
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            records.disconnect(made[1])

    def leave_thread(self) -> None:
        """Close the connections of a backend that only this thread uses. Ours is shared by all."""

    # --- reading

    def find(self, job_id: str) -> JobRecord[Any] | None:
        """The record of a job, or None. An output of a type that is unknown here is left out, see ``JobRecord``."""
        from mindtrace_jobs.results import backend

        meta, unreadable = self._call(backend.read, self.backend, job_id)
        return from_meta(job_id, meta, unreadable)

    def get(self, job_id: str) -> JobRecord[Any]:
        """The record of a job, for those who wait for it: one that nobody published reads as failed after two minutes.

        Raises:
            JobNotFoundError: there is none.
        """
        record = self.written(job_id)
        return record.model_copy(update=_UNCONFIRMED) if self._is_unconfirmed(record) else record

    def written(self, job_id: str) -> JobRecord[Any]:
        """The record of a job as it was written last; raises as ``get``."""
        record = self.find(job_id)
        if record is None:
            raise JobNotFoundError(
                f"no record of job {job_id!r}: it was not submitted with submit(), or its record has expired"
            )
        return record

    def _is_unconfirmed(self, record: JobRecord[Any]) -> bool:
        long_ago = datetime.now(UTC) - UNCONFIRMED_AFTER
        waits = record.status is ExecutionStatus.QUEUED and not record.starts
        if not waits or record.queued_at is None or record.queued_at > long_ago:
            return False
        mark = self.find(publishing_mark(record.id))
        if mark is None or mark.started_at is None or mark.queued_at != record.queued_at:
            return False  # no mark, or that of an earlier job of this id
        return mark.started_at <= long_ago

    # --- writing

    def writing(self, state: JobState, about: Mapping[str, Any], request: Any = None) -> RecordWrite:
        """The write of a state, for a delivery to carry out as work on the job starts or ends.

        Args:
            state: What to write.
            about: ``extra`` for log records about the job.
            request: As that of ``save``.
        """
        return RecordWrite(self, state, about, request)

    def save(
        self,
        state: JobState,
        *,
        celery_state: str | None = None,
        result: Any = None,
        request: Any = None,
        traceback: str | None = None,
    ) -> None:
        """Write a state now.

        Args:
            state: What to write.
            celery_state: Celery's name of it, where it is another than the status has.
            result: What Celery's result holds, where it is another than the output or the failure.
            request: Celery's request of a task that runs, for what canvas keeps; it must be this thread's own.
            traceback: Of what failed.

        Raises:
            EncodeError: the output would not come back as it is.
            BrokerError: the result backend does not take it.
        """
        from mindtrace_jobs.results import records

        result = _result_of(state) if result is None else result
        self._call(records.write, self.backend, state, celery_state, result, request, traceback)

    def save_start(self, state: JobState) -> bool:
        """Write now that a job runs, unless it is cancelled; whether it was not. Raises as ``save``."""
        from mindtrace_jobs.results import records

        return bool(self._call(partial(records.write, self.backend, state, unless_cancelled=True)))

    def inline_record(self, state: JobState) -> Record | None:
        """What ``save`` would write of a job that is queued, runs or is completed, for the broker's client to write.

        None where that is not the server that keeps the records. Raises as ``save``.
        """
        if not self._inline:
            return None
        record: Record = self._call(self._record_of, self.backend, state)
        return record

    @staticmethod
    def _record_of(backend: Any, state: JobState) -> Record:
        from mindtrace_jobs.results.backend import key

        # Celery's own way to it takes as long as the rest of a short job. The state must come first.
        meta = {
            "status": STATE[state.status],
            "result": encode(state.output),
            "traceback": None,
            "children": [],
            "date_done": state.completed_at.isoformat() if state.completed_at else None,
            **state.meta(),
            "task_id": state.id,
        }
        return Record(
            key(backend, state.id),
            to_json(meta),
            int(backend.expires or 0),
            key(backend, cancel_mark(state.id)),
        )

    def publishing(self, state: JobState) -> None:
        """Write the state of a job that is about to be published, and a mark that it is not yet known to be.

        What an earlier job of this id left goes. Nothing else than the mark tells a job that waits from one whose producer
        died before it was published: a record that was written again afterwards could replace that of a fast worker. Raises
        as ``save``.
        """
        from mindtrace_jobs.results import records

        mark = replace(state, id=publishing_mark(state.id), started_at=datetime.now(UTC))
        self._call(records.submitted, self.backend, state, mark)

    def not_publishing(self, job_id: str, about: Mapping[str, Any]) -> None:
        """Remove that mark, now or when the backend is back: it is known whether the job was published.

        Args:
            job_id: The job.
            about: ``extra`` for log records about it.
        """
        from mindtrace_jobs.results import records

        mark = publishing_mark(job_id)
        what = f"whether job {shown(job_id)} was published"
        self.writer.write_behind(mark, what, about, lambda: self._call(records.remove_mark, self.backend, mark))

    def write_behind(self, job_id: str, what: str, about: Mapping[str, Any], write: Callable[[], object]) -> None:
        """Write something of the caller's into the backend; see ``RecordWriter.write_behind``."""
        self.writer.write_behind(job_id, what, about, lambda: self._call(write))

    def cancel(self, job_id: str, record: JobRecord[Any] | None = None) -> None:
        """Leave the mark that a job is cancelled: it is not started any more, and asked to stop if it runs.

        Args:
            job_id: The job.
            record: What is recorded of it, if it waits: it then reads as cancelled at once.
        """
        now = datetime.now(UTC)
        self.save(JobState(cancel_mark(job_id), None, ExecutionStatus.CANCELLED, completed_at=now))
        if record is not None:
            self.save(replace(state_of(record), status=ExecutionStatus.CANCELLED, completed_at=now, output=None))

    def cancelled(self, job_id: str) -> bool:
        """Whether a job has the mark that ``cancel`` leaves."""
        return self.find(cancel_mark(job_id)) is not None

    def seems_cancelled(self, job_id: str, about: Mapping[str, Any]) -> bool:
        """Whether a job has that mark, for whoever runs it: not, as long as a backend that is away does not tell.

        Args:
            job_id: The job.
            about: ``extra`` for log records about it.
        """
        if self.writer.away:
            return False
        try:
            return self.cancelled(job_id)
        except JobsError as error:
            extra = {"action": "record_status", **about}
            log.warning("not known whether a job is cancelled: %s", error, extra=extra)
            self.writer.failed(error)
            return False

    def forget(self, job_id: str) -> None:
        """Remove the record, and the mark that it is cancelled."""
        from mindtrace_jobs.results import records

        self._call(records.forget, self.backend, job_id, cancel_mark(job_id))

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._mapped():
            return function(*args)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except JobsError:
            raise
        except Exception as error:
            redactor = self._redactor
            cause = redactor.cause(error)
            if type(error).__name__ == "EncodeError":
                raise EncodeError(f"cannot be recorded: {redactor.redact(summary(error))}") from cause
            # Backends may be databases of any kind, with drivers of any kind.
            what = "the result backend "
            mapped = map_error(error, redactor, (), what)
            if mapped is None:
                mapped = BrokerError(f"{what}{redactor.shown} failed: {redactor.redact(summary(error))}")
            raise mapped from cause


class RecordWrite:
    """A state of a job on its way to the result backend: see ``mindtrace_jobs.clients.RecordWrite``."""

    def __init__(self, store: ResultStore, state: JobState, about: Mapping[str, Any], request: Any = None) -> None:
        self._store = store
        self._state = state
        self._about = about
        self._request = request

    @property
    def inline(self) -> Record | None:
        """What the broker's client may write, if its server keeps the records, and can keep this one."""
        try:
            return self._store.inline_record(self._state)
        except EncodeError:
            raise
        except JobsError:
            return None  # the other way says why, and holds up nobody

    def start(self) -> bool:
        """Write that the job runs, unless it is cancelled. A backend that fails keeps no job from running."""
        return self._store.writer.start(self._state, self._about)

    def finish(self) -> None:
        """Write how the job ended, now or when the backend takes it: the job was done, and must not repeat.

        Raises:
            EncodeError: the output would not come back as it is.
        """
        self._store.writer.write(self._state, self._about, request=self._request)


def _result_of(state: JobState) -> Any:
    if state.status is ExecutionStatus.COMPLETED:
        return state.output
    if state.status is ExecutionStatus.CANCELLED:
        return JobCancelledError("cancelled", state.id)
    if state.failure is not None:
        return HandlerError(state.failure.error, state.failure.error_type)
    return None


_stores: WeakSet[ResultStore] = WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._lock = threading.Lock()  # another thread may have held it
        store.writer.reset()


def flush_all() -> None:
    """Before the process ends: write what waits to be written to any store, for some seconds at most."""
    for store in list(_stores):
        store.writer.flush()


atexit.register(flush_all)
_forks.register(after_in_child=_after_fork_in_child)
