"""Celery's positional and keyword arguments -> a typed job, on the producer's and on the worker's side alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, RootModel

from mindtrace_jobs.errors import DecodeError, InvalidInputError, InvalidPayloadError
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
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
        args, kwargs = [_fitting(first, schema.input_type())], {}
    fields: Any = task_input(args, kwargs, schema)
    return decode_job({"id": job_id, "payload": {"name": name, "input": fields}}, schema)


def _fitting(output: BaseModel, given: type[JobInput]) -> dict[str, Any]:
    """The fields of an output as an input gets them; without those that the input forbids."""
    fields = fields_of(output)
    if given.model_config.get("extra") != "forbid":
        return fields
    known = {key for name, field in given.model_fields.items() for key in (name, field.alias)}
    return {name: value for name, value in fields.items() if name in known}


def fields_of(model: BaseModel) -> dict[str, Any]:
    """A model's fields with their values as they are, models inside as dicts.

    Not ``model_dump``: that has computed fields, leaves out those with ``exclude``, and calls custom serializers.
    """
    names = type(model).model_fields
    fields = {name: value for name, value in model.__dict__.items() if name in names}
    return {name: _plain(value) for name, value in (fields | (model.__pydantic_extra__ or {})).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, RootModel):
        return _plain(value.root)
    if isinstance(value, BaseModel):
        return fields_of(value)
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    return value


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
