"""Tagged JSON -> models, schemas and jobs.

A schema's name is resolved first, then the models' tags; see ``registry``. Data without our tags, from plain Celery
producers and older versions, is read by field names or aliases as the models' own configuration asks; our own was
checked when it was written and is read by field names only, without strictness.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaValidator

from mindtrace_jobs import registry
from mindtrace_jobs.errors import DecodeError, EncodeError, InvalidPayloadError, UnknownTypeError
from mindtrace_jobs.jobs import RECEIVING, Job, JobInput, JobOutput, JobSchema, declared_classes
from mindtrace_jobs.serializer.offences import invalid, is_small
from mindtrace_jobs.serializer.receiving import Validator, job_validator, validator
from mindtrace_jobs.serializer.text import to_json
from mindtrace_jobs.serializer.unset import restore
from mindtrace_jobs.serializer.values import TYPE, VALUE, decode_tagged, is_tagged

PLAIN, TAGGED, SCHEMA, JOB = "model", "tagged-model", "schema", "job"
_MODEL_KINDS = (PLAIN, TAGGED)
_SCHEMA_FIELDS = frozenset(JobSchema.model_fields)
_PARTS = (2, 3, 4)


def decode(node: Any) -> Any:
    """The value of a JSON tree.

    Raises:
        DecodeError: it is not one of ours, names an unregistered type, or does not fit the type it names.
            What Python raises for malformed values is left to the caller to map.
    """
    if type(node) is list:
        return [decode(item) for item in node]
    if type(node) is not dict:
        return node
    if not is_tagged(node):
        return {key: decode(item) for key, item in node.items()}
    kind = node[TYPE]
    if kind == JOB:
        return decode_job(node[VALUE])
    if kind == SCHEMA:
        return decode_schema(node[VALUE])
    if kind in _MODEL_KINDS:
        tag = _parts(node)[0]
        # Inside a tagged model the field's declared type takes the fields; elsewhere somebody must know the tag.
        if tag is None and kind == TAGGED:
            return own_fields(node)
        built = build(registry.model(tag or "(none)"), own_fields(node))
        restore_unset(built, _parts(node))
        return built
    return decode_tagged(node, decode)


def decode_job(fields: Any, schema: type[JobSchema[Any, Any]] | None = None) -> Job[Any]:
    """A job from its JSON fields; with ``schema``, a ``Job[schema]`` whose payload is read as that schema."""
    if not isinstance(fields, dict):
        raise DecodeError(f"a job is a JSON object, not {type(fields).__name__}")
    payload = fields.get("payload")
    if isinstance(payload, dict) and is_tagged(payload):
        payload = payload[VALUE]
    cls, values, own = _schema_values(payload, schema, "payload.")
    values = {**fields, "payload": values}
    job: Job[Any] = _validate(job_validator(cls, schema is not None), "job", values, own)
    _restore_slots(job.payload, payload)
    return job


def decode_schema(fields: Any, schema: type[JobSchema[Any, Any]] | None = None) -> JobSchema[Any, Any]:
    """A schema from its JSON fields: the given class, else the one registered under the name, else bare."""
    cls, values, own = _schema_values(fields, schema, "")
    built: JobSchema[Any, Any] = _validate(validator(cls), cls.__qualname__, values, own)
    _restore_slots(built, fields)
    return built


def _restore_slots(schema: JobSchema[Any, Any], fields: Any) -> None:
    for slot in ("input", "output"):
        node = fields.get(slot)
        parts = node.get(VALUE) if type(node) is dict else None
        if type(parts) is list and len(parts) == max(_PARTS) and is_tagged(node) and node[TYPE] in _MODEL_KINDS:
            restore(getattr(schema, slot), parts[-1])


def restore_unset(built: Any, parts: list[Any]) -> None:
    """Let a model that was read from these parts tell what was not set in it."""
    if len(parts) == max(_PARTS):
        restore(built, parts[-1])


def decode_output(node: Any, name: Any) -> Any:
    """An output as the schema registered under this name declares it, whatever its own tag.

    Raises:
        DecodeError: there is none, or it does not fit.
    """
    schema: type[JobSchema[Any, Any]] | None = registry.find_schema(name if isinstance(name, str) else "")
    if schema is None:
        raise UnknownTypeError("no schema is registered under the name of this job")
    declared = slot_types(schema)[1]
    found, own = _slot(node, schema, declared, JobOutput, "", "output")
    if not isinstance(found, BaseModel):
        found = _validate(validator(declared), declared.__qualname__, found, own)
    if is_tagged(node):
        restore_unset(found, _parts(node))
    return found


def _schema_values(
    fields: Any, schema: type[JobSchema[Any, Any]] | None, path: str
) -> tuple[type[JobSchema[Any, Any]], dict[str, Any], bool]:
    """The class of a schema, what to validate as it, and whether this package wrote it."""
    if not isinstance(fields, dict):
        raise DecodeError(f"a job's payload is a JSON object, not {type(fields).__name__}")
    name = fields.get("name")
    cls: type[JobSchema[Any, Any]] = schema or registry.find_schema(name if isinstance(name, str) else "") or JobSchema
    declared_input, declared_output = slot_types(cls)
    values = {key: value if key in _SCHEMA_FIELDS else decode(value) for key, value in fields.items()}
    node, output = fields.get("input"), fields.get("output")
    values["input"], own = _slot(node, cls, declared_input, JobInput, path, "input")
    if output is not None:
        values["output"], _ = _slot(output, cls, declared_output, JobOutput, path, "output")
    return cls, values, own


@cache
def slot_types(cls: type[JobSchema[Any, Any]]) -> tuple[type[JobInput], type[JobOutput]]:
    """The declared classes of a schema's input and output."""
    return cls.input_type(), cls.output_type()


def _slot(
    node: Any,
    schema: type[JobSchema[Any, Any]],
    declared: type[BaseModel],
    base: type[BaseModel],
    path: str,
    slot: str,
) -> tuple[Any, bool]:
    """What to validate as an input or output, and whether this package wrote it.

    An instance of the class its tag names if the schema leaves the class open, else the fields of the declared class.
    """
    if not isinstance(node, dict):
        found = "nothing" if node is None else type(node).__name__
        raise InvalidPayloadError(
            f"{path}{slot}: expected the fields of a {declared.__name__}, found {found}",
            [{"field": f"{path}{slot}", "message": "Input should be an object", "type": "dict_type"}],
        )
    if not is_tagged(node) or node[TYPE] not in _MODEL_KINDS:
        if declared is base and len(declared_classes(schema, slot, base)) < 2:
            raise UnknownTypeError(
                f"{path}{slot}: the message does not say its type, and no schema is registered under its name in this "
                "process. Import the module that defines it before receiving."
            )
        return decode(node), False
    tag, fields, *rest = _parts(node)
    cls = registry.find_model(tag) if tag is not None else None
    if node[TYPE] == TAGGED:
        fields = decode(fields)
    if cls is declared and cls is not base:
        return fields, True
    if cls is not None and issubclass(cls, declared):
        return build(cls, fields, f"{path}{slot}"), True
    if declared is base or (rest and rest[0] is not None):
        # Read as the declared class it would lose the fields of its own.
        registry.model(tag or "(none)")
        raise InvalidPayloadError(
            f"{path}{slot}: {tag!r:.80} is not a {declared.__name__}",
            [{"field": f"{path}{slot}", "message": f"Input should be a {declared.__name__}", "type": "class"}],
        )
    return fields, True


def _parts(node: Mapping[str, Any]) -> list[Any]:
    parts = node[VALUE]
    if type(parts) is list and len(parts) in _PARTS and (parts[0] is None or type(parts[0]) is str):
        return parts
    raise DecodeError("a model is written [tag, fields], [tag, fields, declared] or [tag, fields, declared, unset]")


def own_fields(node: Mapping[str, Any]) -> Any:
    """The fields of a model that this package wrote."""
    fields = _parts(node)[1]
    return fields if node[TYPE] == PLAIN else decode(fields)


def build(cls: type[BaseModel], fields: Any, path: str = "") -> Any:
    """An instance of ``cls`` from the fields of a model that this package wrote.

    Raises:
        InvalidPayloadError: they do not fit.
    """
    return _validate(validator(cls), cls.__qualname__, fields, True, path)


def _validate(validate: Validator, title: str, values: Any, own: bool, path: str = "") -> Any:
    try:
        return _validated(validate.first, values, own)
    except ValidationError as error:
        if not own:
            # A strict model refuses the string that JSON has for a date, unless it is told that this is JSON.
            try:
                validate.first.validate_python(values, strict=False, context=RECEIVING, by_alias=True, by_name=True)
                return validate.json.validate_json(to_json(values), context=RECEIVING, by_alias=True, by_name=True)
            except (ValidationError, EncodeError):
                pass
        # Without the cause: its text quotes keys and tags of the data.
        raise invalid(title, _all_offences(validate, values, own) or error, validate.names, path) from None
    except Exception as error:  # a user's validator may raise anything, and no message may stop a worker
        raise InvalidPayloadError(f"{title}: {type(error).__name__} in a validator") from error


def _validated(validate: SchemaValidator, values: Any, own: bool) -> Any:
    if own:
        return validate.validate_python(values, strict=False, context=RECEIVING, by_alias=False, by_name=True)
    return validate.validate_python(values, context=RECEIVING, by_alias=True, by_name=True)


def _all_offences(validate: Validator, values: Any, own: bool) -> ValidationError | None:
    """Every offence, of data that is not too large for that."""
    if is_small(values):
        try:
            _validated(validate.every, values, own)
        except ValidationError as error:
            return error
    return None
