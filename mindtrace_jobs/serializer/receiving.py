"""Validators for what arrives: the classes' own, without the check that refuses unknown fields.

That check is a Python function around every JobInput, JobOutput, JobSchema and Job. Under the receiving context it lets
everything pass, so for received data a validator is made from the same core schema with the check taken out, and a whole
job is read in one pass without leaving Rust.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import CoreConfig, SchemaValidator

from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema

_REFUSE_UNKNOWN = JobInput._refuse_unknown.__func__
#: A validation error ends in the log and before monitors as the cause of another: it must not hold the data.
_PRIVATE = CoreConfig(hide_input_in_errors=True)


def core_schema(cls: type[BaseModel]) -> dict[str, Any]:
    """The class's core schema, built if that was deferred."""
    if not isinstance(cls.__pydantic_core_schema__, dict):
        cls.model_rebuild()
    schema: Any = cls.__pydantic_core_schema__
    return dict(schema)


def refuses_unknown(schema: Mapping[str, Any]) -> bool:
    """Whether a core schema is the check for unknown fields around a model."""
    if schema["type"] != "function-wrap":
        return False
    function = schema["function"]  # a bare one belongs to a serializer, which goes by the same name
    return isinstance(function, dict) and getattr(function["function"], "__func__", None) is _REFUSE_UNKNOWN


@cache
def validator(cls: type[BaseModel]) -> SchemaValidator:
    """The validator of a class for received data; its context must be ``RECEIVING`` all the same."""
    schema: Any = core_schema(cls)
    ours = issubclass(cls, JobInput | JobOutput | JobSchema)
    return SchemaValidator(_without_check(schema) if ours else schema, _PRIVATE)


@cache
def job_validator(schema: type[JobSchema[Any, Any]], typed: bool) -> SchemaValidator:
    """The validator of jobs with this schema, giving a ``Job[schema]`` if ``typed``, else a ``Job``."""
    tree: Any = _without_check(core_schema(Job[schema] if typed or schema is not JobSchema else Job))  # type: ignore[valid-type]
    model = tree["schema"] if tree["type"] == "definitions" else tree
    if not typed:
        model["cls"] = Job
    # The metadata was JSON a moment ago; asking each value for its type would be a call of Python each.
    model["schema"]["fields"]["metadata"]["schema"]["schema"]["values_schema"] = {"type": "any"}
    return SchemaValidator(tree, _PRIVATE)


def _without_check(node: Any) -> Any:
    if type(node) is list:
        return [_without_check(item) for item in node]
    if type(node) is not dict:
        return node
    if node.get("type") == "function-wrap" and refuses_unknown(node):
        inner = dict(node["schema"])
        if "ref" in node:
            inner["ref"] = node["ref"]
        return _without_check(inner)
    return {
        key: item if key == "metadata" and "pydantic_js_functions" in item else _without_check(item)
        for key, item in node.items()
    }
