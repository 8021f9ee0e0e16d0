"""Celery's result backends, extended where jobs need more than Celery keeps, or less than it does.

A subclass of the backend's own class writes a job's state into the metadata of its result, whatever ``result_extended``
says. Another reads records, and leaves an exception as it was written instead of making it again: what stands in a record
must not choose which class is called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from celery.backends.base import BaseKeyValueStoreBackend
from celery.states import FAILURE

from mindtrace_jobs.errors import DecodeError
from mindtrace_jobs.serializer import guarded, parse
from mindtrace_jobs.serializer.decoding import decode_output

#: Attribute of a request: the state of its job that is to be written, a JobState or None.
JOB_STATE = "job_state"
#: A backend that has room for Celery's own fields alone keeps the state of a job beside its result, under the id and this
#: suffix, as the result of this state.
_BESIDE, _BESIDE_STATE = ".job", "JOB"
#: Celery's backends for Redis.
_REDIS = {("celery.backends.redis", "RedisBackend"), ("celery.backends.redis", "SentinelBackend")}


@cache
def jobs_backend_class(base: Any) -> Any:
    """A subclass of a result backend's class that keeps the state of jobs, see ``JOB_STATE``."""

    class JobsBackend(base):  # type: ignore[misc]
        def _get_result_meta(
            self, result: Any, state: Any, traceback: Any, request: Any, *args: Any, **kwargs: Any
        ) -> Any:
            meta = super()._get_result_meta(result, state, traceback, request, *args, **kwargs)
            job_state = getattr(request, JOB_STATE, None)
            return meta if job_state is None else {**meta, **job_state.meta()}

        def __reduce__(self, *args: Any, **kwargs: Any) -> Any:
            # An AsyncResult is pickled with its backend, which another process makes again by its own class.
            make, (_, *rest) = super().__reduce__(*args, **kwargs)
            return make, (base, *rest)

    JobsBackend.__name__ = JobsBackend.__qualname__ = base.__name__
    return JobsBackend


@cache
def records_backend_class(base: Any) -> Any:
    """A subclass of ``jobs_backend_class`` for the records of jobs, which are not read as Celery's results are."""
    jobs: Any = jobs_backend_class(base)

    class RecordsBackend(jobs):  # type: ignore[misc]
        #: ``RecordWriter`` tries again, and holds up nobody meanwhile.
        retry_policy: Any = property(lambda _: {"max_retries": 0})
        always_retry: Any = property(lambda _: False, lambda _, __: None)

        def exception_to_python(self, exc: Any) -> Any:
            return exc

    RecordsBackend.__name__ = RecordsBackend.__qualname__ = base.__name__
    return RecordsBackend


def extended(backend: Any) -> Any:
    """An existing backend, for the records of jobs: another face of the same object, with its settings and connections."""
    return seen_as(records_backend_class, backend)


def seen_as(extend: Callable[[Any], Any], backend: Any) -> Any:
    """A backend as an instance of what ``extend`` makes of its class; both share all that it has."""
    cls = extend(type(backend))
    face = cls.__new__(cls)
    face.__dict__ = backend.__dict__
    return face


class Entry(NamedTuple):
    """A record as a backend that keeps values under keys writes it.

    Attributes:
        key, value: The two.
        seconds: How long it is kept; 0 is for ever.
    """

    key: str
    value: bytes | str
    seconds: int


def entry(backend: Any, job_id: str, state: str, result: Any, request: Any, traceback: Any = None) -> Entry:
    """What ``write`` writes through Celery's backend for Redis, for whoever writes it in another way.

    Raises:
        kombu.exceptions.EncodeError: the result cannot be written.
    """
    encoded = backend.encode_result(result, state)
    meta = backend._get_result_meta(result=encoded, state=state, traceback=traceback, request=request)
    meta["task_id"] = job_id
    expires = backend.failure_expires if state == FAILURE else None
    expires = backend.expires if expires is None else expires
    return Entry(key(backend, job_id), backend.encode(meta), int(expires or 0))


def key(backend: Any, job_id: str) -> str:
    """Where a backend that keeps values under keys keeps the record of a job."""
    found: bytes | str = backend.get_key_for_task(job_id)
    return found.decode() if isinstance(found, bytes) else found


def write(backend: Any, job_id: str, state: str, result: Any, request: Any, traceback: Any = None) -> None:
    """Write a state and its result through an extended backend.

    Raises:
        kombu.exceptions.EncodeError: the result cannot be written.
        What the backend's driver raises.
    """
    backend.store_result(job_id, result, state, traceback=traceback, request=request)
    job_state = getattr(request, JOB_STATE, None)
    if job_state is not None and not isinstance(backend, BaseKeyValueStoreBackend):
        backend.store_result(f"{job_id}{_BESIDE}", job_state.meta(), _BESIDE_STATE)


def read(backend: Any, job_id: str) -> tuple[dict[str, Any], str | None]:
    """The metadata of a job's result, and why the result itself is missing, if it cannot be read here.

    Raises:
        What the backend's driver raises.
    """
    try:
        meta = backend.get_task_meta(job_id, cache=False)
    except Exception as error:
        if not _is_decode_error(error):
            raise
        meta = _plain(backend, job_id)
        try:
            return {**meta, "result": guarded(decode_output, meta.get("result"), meta.get("name"))}, None
        except DecodeError:
            return {**meta, "result": None}, str(error)
    if not isinstance(backend, BaseKeyValueStoreBackend):
        beside = backend.get_task_meta(f"{job_id}{_BESIDE}", cache=False).get("result")
        meta = {**(beside if isinstance(beside, dict) else {}), **meta}
    return meta, None


def forget(backend: Any, job_id: str) -> None:
    """Remove all that is kept of a job."""
    backend.forget(job_id)
    if not isinstance(backend, BaseKeyValueStoreBackend):
        backend.forget(f"{job_id}{_BESIDE}")


def forget_here(backend: Any, job_id: str) -> None:
    """Remove what Celery's backend for Redis keeps of a job in this process: what was read, and what is waited for."""
    backend._cache.pop(job_id, None)
    backend.result_consumer.cancel_for(job_id)


def is_redis(backend: Any) -> bool:
    """Whether a backend is Celery's own for Redis, Sentinel too, and nobody's subclass that may write in other ways."""
    cls: Any = type(backend)
    return bool(_is_redis(cls))


@cache
def _is_redis(cls: Any) -> bool:
    foreign = next(base for base in cls.__mro__ if not base.__module__.startswith("mindtrace_jobs."))
    # By name, so as not to load the driver for other backends.
    return (foreign.__module__, foreign.__name__) in _REDIS


def _plain(backend: Any, job_id: str) -> dict[str, Any]:
    """A record as plain JSON, where the backend keeps it under a key; empty if it is none."""
    if isinstance(backend, BaseKeyValueStoreBackend):
        with suppress(DecodeError):
            tree = parse(backend.get(backend.get_key_for_task(job_id)) or b"")
            return tree if isinstance(tree, dict) else {}
    return {}


def _is_decode_error(error: BaseException) -> bool:
    return any(cls.__name__ == "DecodeError" for cls in type(error).__mro__)
