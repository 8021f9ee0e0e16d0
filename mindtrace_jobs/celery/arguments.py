"""Celery's positional and keyword arguments -> a typed job, on the producer's and on the worker's side alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from mindtrace_jobs.errors import DecodeError, InvalidInputError, InvalidPayloadError
from mindtrace_jobs.jobs import Job, JobOutput, JobSchema
from mindtrace_jobs.serializer import decode_job
from mindtrace_jobs.wire.message import task_input


def job_from(
    args: Sequence[Any], kwargs: Mapping[str, Any], schema: type[JobSchema[Any, Any]], job_id: str | None
) -> Job[Any]:
    """The job that arguments describe, with the id given, if one is.

    They are a Job, its schema or its input, a model with the input's fields (the output of the job before in a chain),
    or what a plain Celery producer sends: fields by keyword, by position, or in one dict.

    Raises:
        InvalidInputError: they do not fit the schema's input type.
    """
    try:
        return _job(list(args), dict(kwargs), schema, job_id)
    except InvalidInputError:
        raise
    except InvalidPayloadError as error:
        raise InvalidInputError(str(error), error.errors) from error
    except DecodeError as error:
        raise InvalidInputError(f"{schema.__name__}: {error}") from error


def _job(args: list[Any], kwargs: dict[str, Any], schema: type[JobSchema[Any, Any]], job_id: str | None) -> Job[Any]:
    first = args[0] if len(args) == 1 and not kwargs else kwargs.get("input") if not args and len(kwargs) == 1 else None
    if isinstance(first, Job):
        return _checked(first if job_id in (None, first.id) else first.model_copy(update={"id": job_id}), schema)
    job_id = job_id or str(uuid4())
    if isinstance(first, JobSchema):
        return _checked(Job(payload=first, id=job_id), schema)
    name = schema.model_fields["name"].default
    if isinstance(first, schema.input_type()):
        return Job(payload=schema(name=name, input=first), id=job_id)
    if isinstance(first, BaseModel):
        args, kwargs = [first.model_dump()], {}
    fields: Any = task_input(args, kwargs, schema)
    return decode_job({"id": job_id, "payload": {"name": name, "input": fields}}, schema)


def _checked(job: Job[Any], schema: type[JobSchema[Any, Any]]) -> Job[Any]:
    if not isinstance(job.payload, schema):
        raise InvalidInputError(
            f"a {type(job.payload).__name__} named {job.payload.name!r:.80} is not a {schema.__name__}",
            [{"field": "payload", "message": f"Input should be a {schema.__name__}", "type": "class"}],
        )
    return job


def holds_output(args: Sequence[Any]) -> bool:
    """Whether these are the results of tasks that ran before, as in a chain."""
    return any(isinstance(arg, JobOutput) for arg in args)
