"""Writes of job records that outlast an outage of the result backend."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mindtrace_jobs.errors import BrokerUnavailableError, ClosedError, ConfigurationError, EncodeError, JobsError
from mindtrace_jobs.logs import shown
from mindtrace_jobs.results.record import JobRecord, JobState
from mindtrace_jobs.serializer import encode, to_json

log = logging.getLogger("mindtrace_jobs.results")

#: Seconds after which a record that could not be written is given up.
KEPT_FOR = 3600.0
#: The most records kept meanwhile, and the most bytes of outputs in them. Of more, the oldest are given up.
MOST_RECORDS, MOST_BYTES = 10_000, 64 << 20
#: Seconds that ``flush`` waits for what is kept.
FLUSH_TIMEOUT = 3.0
#: Seconds between two tries.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: Errors that do not go away.
_LASTING = (EncodeError, ConfigurationError, ClosedError)
#: A job that has no record, read to find out whether the store answers.
_NO_JOB = "mindtrace_jobs.no-job"


@dataclass(slots=True, eq=False)
class _Kept:
    """A write that waits: the last one under its key, such as a job's id."""

    key: str
    what: str
    write: Callable[[], object]
    about: Mapping[str, Any]
    size: int
    until: float
    #: What the store said of it last.
    error: object = "nobody answers"

    def give_up(self, why: object) -> None:
        _give_up(self.what, self.about, why)


class RecordWriter:
    """Writes the states of jobs for whoever runs them, who is never kept by a store that is away.

    A state that the store does not take is kept, and a thread writes it when the store takes it: for ``KEPT_FOR``
    seconds, then it is given up with a line in the log. While it is known that nobody answers there, nothing else is
    tried, so an outage costs the first job one timeout and the others nothing. Safe for threads.

    Args:
        save: Writes a state now, see ``ResultStore.save``.
        start: Writes that a job runs unless it is cancelled, see ``ResultStore.save_start``.
        find: The record of a job, or None.
        leave: Called by a thread of ours when it ends; closes what the two opened for this thread alone.
    """

    def __init__(
        self,
        save: Callable[..., None],
        start: Callable[[JobState], bool],
        find: Callable[[str], JobRecord[Any] | None],
        leave: Callable[[], None] = lambda: None,
    ) -> None:
        self._save_now = save
        self._start_now = start
        self._find = find
        self._leave = leave
        self.reset()

    def reset(self) -> None:
        """Forget what is kept: in a forked child it is the parent's."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._kept: dict[str, _Kept] = {}
        self._size = 0
        self._thread: threading.Thread | None = None
        self._away = False
        self._ending = False

    @property
    def away(self) -> bool:
        """Whether nobody answered at the store when it was tried last; it is tried again in the background."""
        return self._away

    def write(self, state: JobState, about: Mapping[str, Any], **how: Any) -> None:
        """Write a state now, or later.

        Args:
            state: The state.
            about: ``extra`` for log records about the job.
            how: Further arguments of ``ResultStore.save``.

        Raises:
            EncodeError: the output would not come back as it is.
        """
        self._do(
            state.id,
            _what(state),
            about,
            lambda: self._save(state, how),
            lambda: self._save_late(state, how),
            state.output,
        )

    def start(self, state: JobState, about: Mapping[str, Any]) -> bool:
        """Write that a job runs, now or later, unless it is cancelled.

        Args:
            state: The state.
            about: ``extra`` for log records about the job.

        Returns:
            Whether it is not cancelled, as far as a store that is away tells.
        """
        cancelled: list[bool] = []
        self._do(
            state.id,
            _what(state),
            about,
            lambda: cancelled.append(not self._start_now(state)),
            lambda: self._save_late(state, {}),
        )
        return True not in cancelled

    def write_behind(self, job_id: str, what: str, about: Mapping[str, Any], write: Callable[[], object]) -> None:
        """Write something else of a job, now or later, and not before the state of the job that waits.

        Args:
            job_id: The job.
            what: Names it, for the log and among what else waits; of the same only the last is written.
            about: ``extra`` for log records about the job.
            write: Writes it; called again if it raises an error of this package.
        """
        if job_id in self._kept:
            self._keep(what, what, about, write)
        else:
            self._do(what, what, about, write, write)

    def _do(
        self,
        key: str,
        what: str,
        about: Mapping[str, Any],
        now: Callable[[], object],
        late: Callable[[], object],
        output: Any = None,
    ) -> None:
        if not self._away and key not in self._kept:
            try:
                now()
            except EncodeError:
                raise
            except _LASTING as error:
                _give_up(what, about, error)
                return
            except JobsError as error:
                log.warning("%s is recorded later: %s", what, error, extra=_extra(about))
                self.failed(error)
            else:
                return
        self._keep(key, what, about, late, output)

    def failed(self, error: JobsError) -> None:
        """Take note of an error of the store: where nobody answers, jobs do not ask again."""
        if isinstance(error, BrokerUnavailableError):
            with self._lock:
                self._away = True
                self._start()

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Before the process ends: try once more to write what is kept, for at most ``timeout`` seconds.

        The rest is given up.
        """
        with self._lock:
            thread = self._thread
            self._ending = True
        if thread is not None:
            self._wake.set()
            thread.join(timeout)
            self._wake.clear()
        with self._lock:
            self._ending = False
            left, self._kept, self._size = list(self._kept.values()), {}, 0
        for kept in left:
            kept.give_up("the process ends")

    # --- what is kept

    def _keep(
        self, key: str, what: str, about: Mapping[str, Any], write: Callable[[], object], output: Any = None
    ) -> None:
        size = 0 if output is None else len(to_json(encode(output)))
        kept = _Kept(key, what, write, about, size, time.monotonic() + KEPT_FOR)
        given_up = []
        with self._lock:
            self._forget(self._kept.get(kept.key))
            self._kept[kept.key] = kept
            self._size += kept.size
            while len(self._kept) > MOST_RECORDS or (self._size > MOST_BYTES and len(self._kept) > 1):
                given_up.append(next(iter(self._kept.values())))
                self._forget(given_up[-1])
            self._start()
        for one in given_up:
            one.give_up("too many wait to be written")

    def _forget(self, kept: _Kept | None) -> None:
        """Keep a write no longer, unless a later one has taken its place. Called under the lock."""
        if kept is not None and self._kept.get(kept.key) is kept:
            del self._kept[kept.key]
            self._size -= kept.size

    def _start(self) -> None:
        """Have the thread run. Called under the lock."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="mindtrace-records", daemon=True)
            with suppress(RuntimeError):  # Python ends and starts no more threads
                thread.start()
                self._thread = thread

    # --- the thread

    def _run(self) -> None:
        pause, written = _FIRST_PAUSE, 0
        while True:
            self._wake.wait(pause)
            round_ = self._round()
            written += round_
            with self._lock:
                if self._ending or not (self._kept or self._away):
                    self._thread, self._away = None, False
                    break
            pause = _FIRST_PAUSE if round_ else min(pause * 2, _LONGEST_PAUSE)
        with suppress(Exception):  # nothing is lost by what does not close
            self._leave()
        if written:
            log.info("records written late: %d", written, extra={"action": "record_status"})

    def _round(self) -> int:
        """Try to write all that is kept, in order; returns how many were."""
        with self._lock:
            waiting = list(self._kept.values())
        written = 0
        if not waiting and self._away:
            self._try(lambda: self._find(_NO_JOB))
        for kept in waiting:
            if kept.until < time.monotonic():
                kept.give_up(f"not written for {KEPT_FOR:g} s: {kept.error}")
            else:
                error = self._try(kept.write)
                if self._away:
                    break
                if isinstance(error, _LASTING):
                    kept.give_up(error)
                elif error is not None:
                    kept.error = error
                    continue
                else:
                    written += 1
            with self._lock:
                self._forget(kept)
        return written

    def _try(self, call: Callable[[], object]) -> Exception | None:
        """Call the store, and know then whether it answers; returns what it raised."""
        try:
            call()
        except Exception as error:  # whatever it is, the thread goes on with what else waits
            log.debug("a record cannot be written now: %s", error)
            self._away = isinstance(error, BrokerUnavailableError)
            return error
        self._away = False
        return None

    def _save_late(self, state: JobState, how: Mapping[str, Any]) -> None:
        record = self._find(state.id)
        if record is None or not outdated(state, record):
            self._save(state, how)

    def _save(self, state: JobState, how: Mapping[str, Any]) -> None:
        try:
            self._save_now(state, **how)
        except EncodeError:
            if not isinstance(how.get("result"), BaseException):
                raise
            self._save_now(state, **{**how, "result": None})  # an exception is known by its text as well


def _what(state: JobState) -> str:
    return f"the status {state.status.value!r} of job {shown(state.id)}"


def outdated(state: JobState, record: JobRecord[Any]) -> bool:
    """Whether a state that could not be written in time must not replace what another worker has recorded since."""
    if record.worker != state.worker and record.starts > state.starts:
        return True
    return record.status.final and not state.status.final and record.starts >= state.starts


def _give_up(what: str, about: Mapping[str, Any], why: object) -> None:
    log.error("%s could not be recorded: %s", what, why, extra=_extra(about))


def _extra(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"action": "record_status", **about}
