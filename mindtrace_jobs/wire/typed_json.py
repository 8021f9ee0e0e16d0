"""Typed values in Kombu's JSON, through its own extension point: inputs, outputs, schemas and jobs keep their types.

So an app whose results are JSON stores typed outputs, and ``AsyncResult(job_id).get()`` returns them, in every process
that imported this package's Celery part and the models. Bodies that an app signs are JSON of this kind, too. What JSON knew before is written as it was.

Kombu decodes from the inside out: a decoder here gets values whose insides are decoded already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from kombu.utils.json import register_type

from mindtrace_jobs import registry
from mindtrace_jobs.errors import DecodeError
from mindtrace_jobs.jobs import RECEIVING, Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.serializer import UNDECODED, encode, guarded, parse, to_json
from mindtrace_jobs.serializer.decoding import JOB, PLAIN, SCHEMA, TAGGED, build, restore_unset
from mindtrace_jobs.serializer.values import decode_tagged, tagged

#: Tags of values beyond those Kombu knows itself, that stand inside a model.
_VALUES = ("dict", "tuple", "set", "frozenset", "timedelta", "zoned-datetime", "zoned-time")


@cache
def register_types() -> None:
    """Teach Kombu's JSON the types of this package. Doing it again does nothing."""
    for cls in (JobInput, JobOutput, JobSchema, Job):
        # Without a marker: the tree carries its own tags.
        register_type(cls, None, _tree)
    for tag, decoder in {PLAIN: _model, TAGGED: _model, SCHEMA: _schema, JOB: _job}.items():
        _register_decoder(tag, decoder)
    for tag in _VALUES:
        _register_decoder(tag, partial(_value, tag))


def _register_decoder(tag: str, decoder: Callable[[Any], Any]) -> None:
    # Kombu takes a decoder only together with a type to encode; nothing is ever of this one.
    nobody = type(f"_Tagged_{tag}", (), {})
    register_type(nobody, tag, lambda _: None, partial(_decode, tag, decoder))


def _decode(tag: str, decoder: Callable[[Any], Any], value: Any) -> Any:
    return tagged(tag, value) if UNDECODED.get() else decoder(value)


def _tree(value: Any) -> Any:
    # Through bytes, so that nothing is left in it for Kombu to write its own way.
    return parse(to_json(encode(value)))


def _value(tag: str, value: Any) -> Any:
    return guarded(decode_tagged, tagged(tag, value), _as_it_is)


def _as_it_is(value: Any) -> Any:
    return value


def _model(parts: Any) -> Any:
    def read() -> Any:
        tag, fields = parts[0], parts[1]
        if tag is None:
            return fields
        built = build(registry.model(tag), fields)
        restore_unset(built, parts)
        return built

    return guarded(read)


def _schema(fields: Any) -> Any:
    def read() -> Any:
        cls = registry.find_schema(fields["name"]) or JobSchema
        return cls.model_validate(fields, context=RECEIVING)

    return guarded(read)


def _job(fields: Any) -> Any:
    def read() -> Any:
        payload = fields.get("payload")
        if not isinstance(payload, JobSchema):
            raise DecodeError("a job without a typed payload")
        return Job.model_validate(fields, context=RECEIVING)

    return guarded(read)
