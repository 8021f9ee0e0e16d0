"""Models, schemas and jobs -> tagged JSON.

A model is written ``[tag, fields]``, or ``[tag, fields, declared]`` when a subclass stands where the schema declares the
class tagged ``declared``. A fourth part says which fields were not set (see ``unset``); ``declared`` may be null then. It is a "model" when it is plain (see ``plain``), otherwise a "tagged-model", whose fields say
their own types. The latter is decoded again before it is sent, and one that does not come back the same is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pydantic_core
from pydantic import BaseModel, RootModel

from mindtrace_jobs import registry
from mindtrace_jobs.errors import DecodeError, EncodeError
from mindtrace_jobs.jobs import (
    MAX_ID,
    MAX_PRIORITY,
    MIN_PRIORITY,
    TIMES,
    ExecutionStatus,
    Job,
    JobInput,
    JobOutput,
    JobSchema,
)
from mindtrace_jobs.serializer import decoding
from mindtrace_jobs.serializer.decoding import slot_types
from mindtrace_jobs.serializer.plain import is_plain, iso_keeps_offset
from mindtrace_jobs.serializer.same import difference
from mindtrace_jobs.serializer.text import ENVELOPE, MAX_DEPTH, parse, to_json
from mindtrace_jobs.serializer.unset import unset_in
from mindtrace_jobs.serializer.values import JSON_SCALARS, encode_dict, encode_value, tagged

PLAIN, TAGGED, SCHEMA, JOB = decoding.PLAIN, decoding.TAGGED, decoding.SCHEMA, decoding.JOB
_SCHEMA_FIELDS = frozenset(JobSchema.model_fields)
_NONE = type(None)
_JOB_TYPES: dict[str, tuple[type[Any], ...]] = {
    "id": (str,),
    "payload": (JobSchema,),
    "name": (str,),
    "entrypoint": (str, _NONE),
    "priority": (int, _NONE),
    "metadata": (dict,),
    "status": (ExecutionStatus,),
    "error": (str, _NONE),
    "created_at": (datetime,),
    "started_at": (datetime, _NONE),
    "completed_at": (datetime, _NONE),
}
#: Here a subclass will do: of a time only the instant has to survive.
_BY_INSTANCE = {"payload", *TIMES}
#: Classes of which a value could not be read back by the declared types alone.
_need_tags: set[type[Any]] = set()
#: Types of all fields, in order, of jobs that were found sound.
_seen_shapes: set[tuple[type[Any], ...]] = set()


def encode(value: Any) -> Any:
    """The JSON tree of any supported value; models, schemas and jobs anywhere inside.

    Raises:
        EncodeError: a value would not come back as it went in.
    """
    if type(value) not in JSON_SCALARS and isinstance(value, BaseModel):
        if isinstance(value, Job):
            return encode_job(value)
        if isinstance(value, JobSchema):
            return encode_schema(value)
        return _encode_model(value, None)
    return encode_value(value, encode)


def encode_job(job: Job[Any]) -> Any:
    """The JSON tree of a job."""
    cls: type[Any] = job.__pydantic_generic_metadata__["origin"] or type(job)
    if cls is not Job:
        raise EncodeError(f"{cls.__qualname__} extends Job; put its fields into the input or metadata, they travel")
    _check_job(job.__dict__)
    # None is every optional field's default, so it need not be said.
    fields = {name: value for name, value in job.__dict__.items() if value is not None}
    fields["payload"] = encode_schema(job.payload)
    fields["status"] = job.status.value
    for name in TIMES:
        moment = fields.get(name)
        # Pydantic reads no seconds in an offset, as historical time zones have them; the instant is the same in UTC.
        if moment is not None and moment.tzinfo is not UTC and not iso_keeps_offset(moment):
            fields[name] = moment.astimezone(UTC)
    if job.metadata:
        _check_json(job.metadata, f"job {job.id}: metadata")
    if job.__pydantic_extra__:
        _check_json(job.__pydantic_extra__, f"job {job.id}: an unknown field")
        fields.update(job.__pydantic_extra__)
    return tagged(JOB, fields)


def _check_job(fields: dict[str, Any]) -> None:
    """Refuse what ``model_construct`` let in: such a job was never validated, and the reader will validate it."""
    shape = tuple(map(type, fields.values()))
    if shape not in _seen_shapes:
        if fields.keys() != _JOB_TYPES.keys():
            raise EncodeError("a job made without validation lacks fields: construct it with Job(...)")
        for name, types in _JOB_TYPES.items():
            if not (type(fields[name]) in types or (name in _BY_INSTANCE and isinstance(fields[name], types))):
                raise EncodeError(f"job.{name} is a {type(fields[name]).__name__}: construct the job with Job(...)")
        if list(fields) == list(_JOB_TYPES):
            _seen_shapes.add(shape)
    if (
        not (0 < len(fields["id"]) <= MAX_ID and fields["name"])
        or not MIN_PRIORITY <= (fields["priority"] or 0) <= MAX_PRIORITY
    ):
        raise EncodeError(
            "a job without id or name, with too long an id, or with a priority beyond 9: construct it with Job(...)"
        )


def _check_json(value: Any, where: str, depth: int = ENVELOPE) -> None:
    """Refuse what is not JSON already: it is written as it is, and would come back as something else."""
    kind = type(value)
    if kind in JSON_SCALARS:
        return
    if depth > MAX_DEPTH:
        raise EncodeError(f"{where} is nested too deeply")
    if kind is list:
        for item in value:
            _check_json(item, where, depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise EncodeError(f"{where} is not JSON: a key is a {type(key).__name__}")
            _check_json(item, where, depth + 1)
    else:
        raise EncodeError(f"{where} is not JSON: it holds a {kind.__name__}. Put typed values into the input")


def encode_schema(schema: JobSchema[Any, Any]) -> Any:
    """The JSON tree of a schema with its input and output."""
    found = _contract(schema)
    # Who reads it goes by what is registered under the name; where nothing is, by the models' tags alone.
    declared_input, declared_output = slot_types(found or JobSchema)
    fields: dict[str, Any] = {"name": schema.name}
    slot = "input"
    try:
        fields[slot] = _encode_model(schema.input, declared_input)
        if schema.output is not None:
            slot = "output"
            fields[slot] = _encode_model(schema.output, declared_output)
    except EncodeError as error:
        raise EncodeError(f"{schema.name}.{slot}: {error}") from error
    if len(schema.__dict__) > len(_SCHEMA_FIELDS) or schema.__pydantic_extra__:
        _encode_others(fields, schema)
    return tagged(SCHEMA, fields)


def _encode_others(fields: dict[str, Any], schema: JobSchema[Any, Any]) -> None:
    """Fields that a subclass of JobSchema has beyond name, input and output."""
    cls = type(schema)
    names = cls.model_fields.keys() - _SCHEMA_FIELDS
    fields.update({name: _encode_inner(value) for name, value in schema.__dict__.items() if name in names})
    fields.update({name: encode(value) for name, value in (schema.__pydantic_extra__ or {}).items()})
    _verify(fields, schema, lambda tree: decoding.decode_schema(tree, cls))


def _contract(schema: JobSchema[Any, Any]) -> type[JobSchema[Any, Any]] | None:
    """The class that is registered under the schema's name, once it is sure to take this schema's values."""
    cls, name = type(schema), schema.name
    found = registry.find_schema(name)
    if found is cls or (found is not None and registry.default_tag(found) == registry.default_tag(cls)):
        return cls
    own = cls.model_fields["name"].default
    if isinstance(own, str) and own != name:
        raise EncodeError(
            f"{cls.__qualname__} is registered as {own!r}; under the name {name!r} nobody would read it as that"
        )
    if found is not None:
        for slot, declared in (("input", found.input_type()), ("output", found.output_type())):
            value = getattr(schema, slot)
            if value is not None and not isinstance(value, declared):
                raise EncodeError(
                    f"{found.__qualname__} is registered as {name!r} and takes {declared.__qualname__} as {slot}, not "
                    f"{type(value).__qualname__}"
                )
    return found


def _encode_model(value: BaseModel, declared: type[BaseModel] | None) -> Any:
    """``declared`` is what the reader will expect without looking at the tag; None where only the tag tells."""
    cls = type(value)
    tag = registry.tag_of(cls)
    if cls is not declared and (tag is None or registry.find_model(tag) is not cls):
        raise EncodeError(
            f"{registry.default_tag(cls)} is not registered, or was defined again since, so nobody could read it back: "
            "subclass JobInput or JobOutput, or call mindtrace_jobs.register_model(cls)"
        )
    rest: list[Any] = []
    if declared is not None and cls is not declared and declared is not JobInput and declared is not JobOutput:
        rest.append(registry.default_tag(declared))
    try:
        unset = unset_in(value)
    except RecursionError as error:
        raise EncodeError(f"{cls.__qualname__} is nested too deeply, or contains itself") from error
    if unset is not None:
        rest = [*(rest or [None]), unset]
    if is_plain(value):
        return tagged(PLAIN, [tag, cls.__pydantic_serializer__.to_python(value), *rest])
    try:
        if cls not in _need_tags:
            # What the declared types bring back needs no tags, which other processes may know by another name.
            with suppress(EncodeError):
                return _verified(TAGGED, [tag, _encode_fields(value, _encode_declared), *rest], value)
        found = _verified(TAGGED, [tag, _encode_fields(value, _encode_inner), *rest], value)
        _need_tags.add(cls)
        return found
    except RecursionError as error:
        raise EncodeError(f"{cls.__qualname__} is nested too deeply, or contains itself") from error
    except EncodeError:
        # Pydantic's own JSON form may do better: fields of type Json, pairs of custom serializers and validators.
        with suppress(EncodeError):
            return _verified(PLAIN, [tag, _pydantic_fields(value), *rest], value)
        raise  # the first error, which says more


def _verified(kind: str, parts: list[Any], original: BaseModel) -> Any:
    tree = tagged(kind, parts)
    _verify(tree, original, lambda node: decoding.build(type(original), decoding.own_fields(node)))
    return tree


def _pydantic_fields(value: BaseModel) -> Any:
    """A model's fields as Pydantic writes them to JSON, None if it cannot."""
    try:
        return type(value).__pydantic_serializer__.to_python(
            value, mode="json", by_alias=False, round_trip=True, warnings=False
        )
    except Exception:  # a custom serializer may raise anything
        return None


def _encode_fields(value: BaseModel, inner: Callable[[Any], Any]) -> Any:
    if isinstance(value, RootModel):
        return inner(value.root)
    names = type(value).model_fields
    fields = {name: item for name, item in value.__dict__.items() if name in names}
    return encode_dict(fields | (value.__pydantic_extra__ or {}), inner)


def _encode_inner(value: Any) -> Any:
    """A value inside a tagged model, each model in it with its tag."""
    if isinstance(value, BaseModel) and not isinstance(value, Job | JobSchema):
        return tagged(TAGGED, [registry.tag_of(type(value)), _encode_fields(value, _encode_inner)])
    return _encode_part(value, _encode_inner)


def _encode_declared(value: Any) -> Any:
    """A value inside a tagged model, models in it without tags."""
    if isinstance(value, BaseModel) and not isinstance(value, Job | JobSchema):
        return tagged(TAGGED, [None, _encode_fields(value, _encode_declared)])
    return _encode_part(value, _encode_declared)


def _encode_part(value: Any, inner: Callable[[Any], Any]) -> Any:
    """Any other value inside a tagged model: whatever form it takes here, ``_verify`` has the last word."""
    if isinstance(value, BaseModel):
        return encode(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # What is no argument of its constructor is made there.
        return encode_dict(
            {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}, inner
        )
    if hasattr(value, "get_secret_value"):
        raise EncodeError("a secret is not put on a queue: pass a reference to it, or declare the field as str")
    try:
        return encode_value(value, inner)
    except EncodeError:
        # Paths, URLs, enums: Pydantic knows their JSON, and the declared type may bring them back.
        with suppress(ValueError, TypeError):
            return pydantic_core.to_jsonable_python(value, inf_nan_mode="constants")
        raise  # of a collection, what was wrong inside


def _verify(tree: Any, original: BaseModel, rebuild: Callable[[Any], Any]) -> None:
    name = type(original).__qualname__
    try:
        copy = rebuild(parse(to_json(tree, deep=True)))
    except (DecodeError, EncodeError) as error:
        raise EncodeError(f"{name} would not come back from the wire: {error}") from error
    except RecursionError as error:
        raise EncodeError(f"{name} is nested too deeply, or contains itself") from error
    except Exception as error:
        raise EncodeError(f"{name} would not come back from the wire: {type(error).__name__}") from error
    changed = difference(original, copy)
    if changed is not None:
        raise EncodeError(
            f"{name}{changed} would change its value or type on the way: declare the field with the exact type, register "
            "the class it holds with mindtrace_jobs.register_model, and let no validator change what it has made before"
        )
