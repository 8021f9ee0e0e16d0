"""How records get into a Celery result backend: in one step where that is Redis, else in Celery's own way.

Each function is safe for threads and raises what the backend's driver raises.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mindtrace_jobs.results import backend as celery_backend
from mindtrace_jobs.results.record import STATE, JobState, StateRequest, cancel_mark, from_meta

if TYPE_CHECKING:  # no circle: it loads the driver, which other backends need not
    from mindtrace_jobs.results.redis_records import RedisRecords

#: Attribute of a backend for Redis: its RedisRecords. All faces of a backend have it.
_RECORDS = "job_records"


def write(
    backend: Any,
    state: JobState,
    celery_state: str | None = None,
    result: Any = None,
    request: Any = None,
    traceback: str | None = None,
    *,
    unless_cancelled: bool = False,
) -> bool:
    """Write a state.

    Args:
        backend: The backend.
        state, celery_state, result, request, traceback: As those of ``ResultStore.save``.
        unless_cancelled: Write nothing if the job is cancelled.

    Returns:
        False if nothing was written because it is.

    Raises:
        kombu.exceptions.EncodeError: the result cannot be written.
    """
    request = _request_of(state) if request is None else request
    what = (state.id, celery_state or STATE[state.status], result, request, traceback)
    mark = cancel_mark(state.id) if unless_cancelled else None
    request.job_state = state
    try:
        redis = _scripts(backend)
        if redis is not None:
            unless = "" if mark is None else celery_backend.key(backend, mark)
            written = redis.write(celery_backend.entry(backend, *what), unless)
            if written is not None:
                return written
        if mark is not None and from_meta(mark, *celery_backend.read(backend, mark)) is not None:
            return False
        celery_backend.write(backend, *what)
        return True
    finally:
        request.job_state = None


def submitted(backend: Any, state: JobState, mark: JobState) -> None:
    """Write the state of a job that is about to be published, and a mark that this is not known to have happened.

    What is there of an earlier job of this id goes.
    """
    redis = _scripts(backend)
    if redis is not None:
        celery_backend.forget_here(backend, state.id)
        entry, beside = (_entry(backend, one) for one in (state, mark))
        if redis.submitted(entry, beside, celery_backend.key(backend, cancel_mark(state.id))):
            return
    forget(backend, state.id, cancel_mark(state.id))
    # The mark first: without it a record looks like that of any job that waits.
    write(backend, mark)
    write(backend, state)


def forget(backend: Any, *job_ids: str) -> None:
    """Remove all that is kept of jobs."""
    for job_id in job_ids:
        celery_backend.forget(backend, job_id)


def remove_mark(backend: Any, mark: str) -> None:
    """Remove a mark, which nobody waits for as for a job."""
    redis = _scripts(backend)
    if redis is None:
        celery_backend.forget(backend, mark)
    else:
        redis.remove(celery_backend.key(backend, mark))


def disconnect(backend: Any) -> None:
    """Close the connections of a backend that keeps them in a pool: that for Redis, Sentinel too."""
    from celery.backends.redis import RedisBackend

    if isinstance(backend, RedisBackend):
        with suppress(Exception):  # it is given up either way
            if _RECORDS in vars(backend):
                vars(backend)[_RECORDS].close()
            backend.client.connection_pool.disconnect()


def _scripts(backend: Any) -> RedisRecords | None:
    """What writes to a backend in one step, if it is one for Redis that can be written to so."""
    if not celery_backend.is_redis(backend):
        return None
    found: RedisRecords | None = vars(backend).get(_RECORDS)
    if found is None:
        from mindtrace_jobs.results.redis_records import RedisRecords

        found = vars(backend).setdefault(_RECORDS, RedisRecords(backend))
        assert found is not None
    return found if found.usable else None


def _request_of(state: JobState) -> StateRequest:
    return StateRequest(task=state.name, hostname=state.worker, retries=state.retries)


def _entry(backend: Any, state: JobState) -> celery_backend.Entry:
    request = _request_of(state)
    request.job_state = state
    return celery_backend.entry(backend, state.id, STATE[state.status], None, request)
