"""Job, JobSchema, JobInput, JobOutput: what a user writes and reads. Pydantic only, no broker.

A job's payload is a schema: a name, a typed input and, when the work is done, a typed output. Either subclass it, which
registers the name as the contract between producer and worker::

    class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
        name: str = "object_detection"

or use it bare with any JobInput: ``JobSchema(name="vbrain_training", input=VBrainInput(...))``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from inspect import get_annotations
from typing import TYPE_CHECKING, Any, Generic, Self, get_args
from uuid import uuid4

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    ModelWrapValidatorHandler,
    SerializeAsAny,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError
from pydantic_core import ValidationError as CoreValidationError
from typing_extensions import TypeVar

from mindtrace_jobs import registry
from mindtrace_jobs._times import aware, parsed
from mindtrace_jobs.errors import RegistrationError

#: Validation context under which fields this process does not know are kept: the producer may be newer than the worker.
RECEIVING: dict[str, Any] = {"mindtrace_jobs": "receiving"}

#: Lowest and highest priority. Higher runs first; unset counts as the lowest.
MIN_PRIORITY, MAX_PRIORITY = 0, 9

#: Longest id, in characters: RabbitMQ keeps it in a property that is no longer.
MAX_ID = 255

#: The fields of a job that hold times.
TIMES = ("created_at", "started_at", "completed_at")

_REMOVED = {
    "job_schema": "renamed: pass `payload=`",
    "backend_type": "removed: choose the client, Orchestrator(RedisClient(...))",
    "queue_name": "removed: name the queue when publishing, orchestrator.publish_message(queue, job), or let "
    "orchestrator.submit(job) route it",
    "routing_key": "removed: pass it when publishing to an exchange, or set a JobRouter rule",
}


class ExecutionStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (self.COMPLETED, self.FAILED, self.CANCELLED)


class BackendType(StrEnum):
    """The brokers a client can speak to."""

    LOCAL = "local"
    REDIS = "redis"
    RABBITMQ = "rabbitmq"


class _Model(BaseModel):
    """Assignments are validated; unknown fields are refused when constructed, kept when received.

    Pydantic's own ``extra`` cannot tell the two apart. So the schema of a class that does not set it keeps unknown fields,
    and the check is here; one that sets it ("allow", "forbid", "ignore") has it obeyed on both sides. It is not in the
    configuration, which would also hold for the dataclasses and typed dicts in a class. Computed fields are not unknown:
    what ``model_dump`` writes of them is left out when it is validated again.
    """

    model_config = ConfigDict(
        validate_assignment=True,
        validate_default=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="constants",
        hide_input_in_errors=True,  # what is logged and shown to monitors says what is wrong, not with which data
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        if cls.model_config.get("extra") is None:
            # Validators of the whole model may stand around and in it.
            node: Any = handler.resolve_ref_schema(schema)
            while node is not None:
                if node["type"] in ("model", "model-fields"):
                    node["extra_behavior"] = "allow"
                node = node.get("schema")
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown(cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        # An instance comes by here on assignment and when it is handed on: it was checked when it was made.
        if type(value) is not dict and isinstance(value, BaseModel):
            return handler(value)
        cls._check_raw(value)
        built = handler(value)
        if built.__pydantic_extra__ and cls.model_computed_fields:
            built._leave_out_computed()
        if built.__pydantic_extra__ and info.context != RECEIVING and cls.model_config.get("extra") is None:
            raise CoreValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(type="extra_forbidden", loc=(name,), input=extra)
                    for name, extra in built.__pydantic_extra__.items()
                ],
            )
        return built

    def _leave_out_computed(self) -> None:
        extra = self.__pydantic_extra__ or {}
        for name, field in type(self).model_computed_fields.items():
            for key in (name, field.alias):
                if key is not None and extra.pop(key, self) is not self:
                    self.__pydantic_fields_set__.discard(key)

    @classmethod
    def _check_raw(cls, value: Any) -> None:
        """Refuse raw input that no field's own error would explain."""

    if not TYPE_CHECKING:  # a declared __setattr__ would let type checkers accept any attribute

        def __setattr__(self, name: str, value: Any) -> None:
            cls = type(self)
            known = name in cls.model_fields or name.startswith("_") or name in (self.__pydantic_extra__ or {})
            if not known and cls.model_config.get("extra") is None and not hasattr(getattr(cls, name, None), "__set__"):
                raise ValueError(f"{cls.__name__!r} has no field {name!r}")
            super().__setattr__(name, value)


class _Registered(_Model):
    """A model that messages may refer to by its tag."""

    def __init_subclass__(cls, *, tag: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, *, tag: str | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__pydantic_generic_metadata__["origin"] is None:
            registry.register_model(cls, tag)

    @classmethod
    def _check_raw(cls, _value: Any) -> None:
        # A dict would become an empty JobInput: silent loss.
        if cls is JobInput or cls is JobOutput:
            raise PydanticCustomError(
                "untyped_payload",
                "a bare JobSchema does not know the type of this value: pass an instance of a {base} subclass, or "
                "subclass JobSchema[In, Out]",
                {"base": cls.__name__},
            )


class JobInput(_Registered):
    """Base class of typed job inputs.

    ``class VBrainInput(JobInput, tag="vbrain.input")`` pins the name it has on the wire; without a tag that is
    ``module:qualname``, which changes when the class moves.

    Every field travels, also one with ``exclude=True``. Private attributes and computed fields do not: they are made
    anew where the job is read.
    """


class JobOutput(_Registered):
    """Base class of typed job outputs; ``tag=`` as for JobInput."""


InputT = TypeVar("InputT", bound=JobInput, default=JobInput, covariant=True)
OutputT = TypeVar("OutputT", bound=JobOutput, default=JobOutput, covariant=True)


class JobSchema(_Model, Generic[InputT, OutputT]):
    """Name, typed input and typed output of a kind of job.

    A subclass of ``JobSchema[In, Out]`` with a default ``name`` registers that name. Used bare it takes any JobInput
    and JobOutput instance. What is registered under a schema's name is what it is read back as: a subclass without a
    default name comes back as a bare JobSchema, unless the reader asks for ``schema=`` that subclass.
    """

    name: str = Field(min_length=1)
    input: SerializeAsAny[InputT]
    output: SerializeAsAny[OutputT] | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.__pydantic_generic_metadata__["origin"] is not None:
            return
        name = cls.model_fields["name"].default
        if not isinstance(name, str):
            return
        if "name" not in get_annotations(cls):
            raise RegistrationError(
                f"{registry.default_tag(cls)} inherits the schema name {name!r}. Give it its own: `name: str = '...'`."
            )
        registry.register_schema(cls, name)

    @classmethod
    def input_type(cls) -> type[JobInput]:
        """The declared input class; JobInput itself when the schema is bare or declares a union."""
        return _declared(cls, "input", JobInput)

    @classmethod
    def output_type(cls) -> type[JobOutput]:
        """The declared output class; JobOutput itself when the schema is bare or declares a union."""
        return _declared(cls, "output", JobOutput)


def _declared(cls: type[BaseModel], field: str, base: type[BaseModel]) -> type[Any]:
    """The one model class in a field's annotation; ``base`` if there is none, or several, where only the tag tells."""
    classes = declared_classes(cls, field, base)
    return next(iter(classes)) if len(classes) == 1 else base


@cache
def declared_classes(cls: type[BaseModel], field: str, base: type[BaseModel]) -> frozenset[type[Any]]:
    """The model classes in a field's annotation: none while it is still a type variable, several for a union."""
    found: set[type[Any]] = set()
    candidates = [cls.model_fields[field].annotation]
    while candidates:
        candidate = candidates.pop()
        if isinstance(candidate, type) and issubclass(candidate, base):
            found.add(candidate)
        candidates.extend(get_args(candidate))
    return frozenset(found)


SchemaT = TypeVar("SchemaT", bound=JobSchema, default=JobSchema, covariant=True)


def _now() -> datetime:
    return datetime.now(UTC)


class Job(_Model, Generic[SchemaT]):
    """A schema made ready to run: identity, status, times and hints. Nothing here names a broker or a queue.

    Attributes:
        id: Unique; default a random UUID4 string.
        payload: The schema with the typed input and, when done, output.
        name: What routing looks at; default the schema's name.
        entrypoint: A hint for the worker, such as a script's name; never executed by this package.
        priority: 0 to 9, higher runs first on queues of type "priority"; None counts as 0.
        metadata: Anything JSON can hold.
        status, error, created_at, started_at, completed_at: Times are aware UTC.
    """

    id: str = Field(default_factory=lambda: str(uuid4()), min_length=1, max_length=MAX_ID)
    payload: SerializeAsAny[SchemaT]
    name: str = Field(default_factory=lambda data: data["payload"].name if "payload" in data else "?", min_length=1)
    entrypoint: str | None = None
    priority: int | None = Field(default=None, ge=MIN_PRIORITY, le=MAX_PRIORITY)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    status: ExecutionStatus = ExecutionStatus.QUEUED
    error: str | None = None
    created_at: AwareDatetime = Field(default_factory=_now)
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None

    @classmethod
    def _check_raw(cls, value: Any) -> None:
        if not isinstance(value, Mapping) or _REMOVED.keys().isdisjoint(value):
            return
        removed = [f"`{name}` was {_REMOVED[name]}" for name in _REMOVED if name in value]
        raise PydanticCustomError(
            "legacy_job",
            "{explanation}. Job.from_legacy(mapping) converts an old job.",
            {"explanation": "; ".join(removed)},
        )

    def _assign(self, **fields: Any) -> None:
        """Assign values that are of their fields' types already, without the cost of validating each."""
        self.__dict__.update(fields)
        self.__pydantic_fields_set__.update(fields)

    @classmethod
    def from_legacy(cls, legacy: Mapping[str, Any]) -> Self:
        """Make a job of the old shape: ``job_schema`` becomes ``payload``, infrastructure fields are left out.

        A ``job_schema`` of plain fields becomes the schema that is registered under its name. Emits a DeprecationWarning.

        Raises:
            pydantic.ValidationError: what remains is not a valid job.
        """
        warnings.warn(
            "the legacy Job shape (job_schema, backend_type, queue_name, routing_key) is deprecated; "
            "construct Job(payload=..., entrypoint=...)",
            DeprecationWarning,
            stacklevel=2,
        )
        fields = current_fields(legacy)
        payload = fields.get("payload")
        if cls is Job and isinstance(payload, Mapping):
            schema = registry.find_schema(str(payload.get("name")))
            if schema is not None:
                fields["payload"] = schema.model_validate(payload)
        return cls.model_validate(fields)


def current_fields(legacy: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job of the old shape under their present names, its naive times taken as UTC."""
    fields = {name: value for name, value in legacy.items() if name not in _REMOVED}
    if "job_schema" in legacy:
        fields["payload"] = legacy["job_schema"]
    for name in TIMES:
        if isinstance(fields.get(name), str | datetime):
            fields[name] = _aware(fields[name])
    return fields


def _aware(moment: str | datetime) -> str | datetime:
    # What is no time is left for validation to refuse.
    return aware(moment) if isinstance(moment, datetime) else parsed(moment) or moment
