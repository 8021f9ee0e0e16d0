"""Job <-> broker message: headers and body of Celery's task message protocol 2.

``task`` is the schema's name and ``id`` the job's id, so a Celery worker can run the message and Flower can show it; the
body is ``[[job], {}, embed]`` in the "pydantic" serializer. See
https://docs.celeryq.dev/en/stable/internals/protocol.html.

Reading is wider than writing: JSON task messages of plain Celery producers (protocol 1 and 2), the legacy job JSON
(``job_schema``, ``backend_type``) and the JSON of upstream mindtrace-jobs (``schema_name``) become typed jobs too.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from mindtrace_jobs import registry
from mindtrace_jobs._serializer_entry import CONTENT_ENCODING, CONTENT_TYPE
from mindtrace_jobs.errors import (
    ConfigurationError,
    DecodeError,
    InvalidInputError,
    InvalidPayloadError,
    UnknownTypeError,
)
from mindtrace_jobs.jobs import Job, JobSchema, current_fields
from mindtrace_jobs.serializer import decode as decode_value
from mindtrace_jobs.serializer import decode_job, encode_job, guarded, parse, to_json
from mindtrace_jobs.wire.headers import COMPRESSION, QUEUED_AT, TRACKED, text
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED, decompressed

EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_TASK_BODY_LENGTH = 3
#: Of what Celery's serializer "auth" signs.
SIGNED_CONTENT_TYPE = "application/data"
#: Never read as text: decoding these can run code, or needs a library the message would choose.
_REFUSED_CONTENT = ("pickle", "python-serialize", "yaml", "msgpack")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as the broker keeps it: bytes, headers and AMQP properties."""

    body: bytes
    headers: dict[str, Any]
    content_type: str = CONTENT_TYPE
    content_encoding: str = CONTENT_ENCODING
    properties: dict[str, Any] = field(default_factory=dict)

    def unpacked(self, max_decompressed: int | None = MAX_DECOMPRESSED) -> bytes:
        """The body, decompressed if it is compressed.

        Raises:
            DecodeError: it cannot be, or has more than ``max_decompressed`` bytes then.
        """
        unpacked: bytes = _unpacked(self.body, self.headers, max_decompressed)
        return unpacked


def encode(
    job: Job[Any],
    *,
    eta: datetime | None = None,
    delay: float | timedelta | None = None,
    expires: datetime | float | timedelta | None = None,
    tracked: bool = False,
) -> Message:
    """The message of a job.

    Args:
        job: The job; ``job.priority`` becomes the message's priority.
        eta: Aware time before which it must not run. At most one of ``eta`` and ``delay``.
        delay: The same, in seconds from now.
        expires: Aware time, or seconds from now, after which it must not run any more.
        tracked: Mark the job as one whose status the result backend keeps.

    Raises:
        EncodeError: a value in the job would not come back as it went in.
        ConfigurationError: both ``eta`` and ``delay``, a naive time, or a number of seconds out of range.
    """
    if eta is not None and delay is not None:
        raise ConfigurationError("pass `eta` or `delay`, not both")
    now = datetime.now(UTC) if delay is not None or expires is not None else None
    headers: dict[str, Any] = {
        "lang": "py",
        "task": job.payload.name,
        "id": job.id,
        "shadow": None,
        "eta": iso_moment("delay" if eta is None else "eta", eta if delay is None else delay, now),
        "expires": iso_moment("expires", expires, now),
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": job.id,
        "parent_id": None,
        "argsrepr": f"(<{type(job.payload).__name__} job {job.id}>,)",
        "kwargsrepr": "{}",
        "origin": _origin(os.getpid()),
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        QUEUED_AT: job.created_at.isoformat(),
    }
    if tracked:
        headers[TRACKED] = True
    properties: dict[str, Any] = {"correlation_id": job.id, "reply_to": ""}
    if job.priority is not None:
        properties["priority"] = job.priority
    return Message(to_json([[encode_job(job)], {}, EMBED]), headers, properties=properties)


@cache
def _origin(pid: int) -> str:
    return f"gen{pid}@{socket.gethostname()}"


def iso_moment(name: str, value: datetime | float | timedelta | None, now: datetime | None = None) -> str | None:
    """An option that names a time, or seconds from now, as the ISO 8601 text of a header.

    Args:
        name: The option's, for messages.
        value: An aware time, or a span in seconds.
        now: The present time, if the caller has it.

    Raises:
        ConfigurationError: a naive time, or a span that leads to no date.
    """
    if value is None:
        return None
    if not isinstance(value, datetime):
        try:
            span = value if isinstance(value, timedelta) else timedelta(seconds=value)
            value = (now or datetime.now(UTC)) + span
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"`{name}` is not a number of seconds that leads to a date: {error}") from error
    if value.utcoffset() is None:
        raise ConfigurationError(f"`{name}` must be an aware datetime: a naive one means another time on every machine")
    return value.isoformat()


def decode(
    body: bytes | bytearray | memoryview | str,
    headers: Mapping[str, Any],
    content_type: str | None = CONTENT_TYPE,
    schema: type[JobSchema[Any, Any]] | None = None,
    max_decompressed: int | None = MAX_DECOMPRESSED,
) -> Job[Any]:
    """The job in a message, whichever of the known shapes it has; arguments and errors as ``decode_task``."""
    return decode_task(body, headers, content_type, schema, max_decompressed)[0]


def decode_task(
    body: bytes | bytearray | memoryview | str,
    headers: Mapping[str, Any],
    content_type: str | None = CONTENT_TYPE,
    schema: type[JobSchema[Any, Any]] | None = None,
    max_decompressed: int | None = MAX_DECOMPRESSED,
) -> tuple[Job[Any], dict[str, Any]]:
    """The job in a message, and what Celery's canvas put beside it: callbacks, errbacks, chain and chord.

    Args:
        body, headers, content_type: As the broker delivered them.
        schema: Read the payload as this schema, and return a ``Job[schema]``.
        max_decompressed: Most bytes that a compressed body may have when it is decompressed; None: any number.

    Raises:
        UnknownTypeError: the schema is not registered here and no model's tag helps.
        InvalidInputError: the fields do not fit the type, or ``schema`` is not what the message holds.
        DecodeError: not a job in any shape; nothing but DecodeError and its subclasses is ever raised.
    """
    if content_type != CONTENT_TYPE and any(refused in str(content_type).lower() for refused in _REFUSED_CONTENT):
        raise DecodeError(f"content type {content_type!r} is not accepted: only JSON and the pydantic serializer are")
    try:
        tree = parse(_unpacked(body, headers, max_decompressed))
    except DecodeError as error:
        if content_type != SIGNED_CONTENT_TYPE:
            raise
        raise DecodeError(
            "the job seems to be signed by a Celery app: Orchestrator.from_celery(app) verifies and reads it"
        ) from error
    try:
        job: Job[Any] = guarded(_read, tree, headers or {}, schema)
    except InvalidInputError:
        raise
    except InvalidPayloadError as error:
        raise InvalidInputError(str(error), error.errors) from error
    return job, _embed_of(tree)


def _unpacked(body: Any, headers: object, limit: int | None) -> Any:
    compression = headers.get(COMPRESSION) if isinstance(headers, Mapping) else None
    return decompressed(body, compression, limit) if compression else body


def identity(message: Message, max_decompressed: int | None = MAX_DECOMPRESSED) -> tuple[str | None, str | None]:
    """The id and the schema's name of the job in a message, as far as its headers or its body tell; never raises.

    The body is read where the headers lack one of them: messages of protocol 1, legacy jobs and upstream's have them
    there.
    """
    job_id, name = text(message.headers, "id") or None, text(message.headers, "task")
    if job_id is not None and name is not None:
        return job_id, name
    try:
        tree = parse(message.unpacked(max_decompressed))
    except DecodeError:
        return job_id, name
    if isinstance(tree, dict):
        job = tree.get("__value__", tree)
        job = job if isinstance(job, dict) else {}
        named = {"name": job.get("task", job.get("schema_name")) or _name_of(current_fields(job))}
        job_id, name = job_id or text(job, "id") or None, name or text(named, "name")
    return job_id, name


def embed_of(message: Message, max_decompressed: int | None = MAX_DECOMPRESSED) -> dict[str, Any]:
    """What Celery's canvas put beside the arguments, read without them; empty if the body is no task body."""
    try:
        return _embed_of(parse(message.unpacked(max_decompressed)))
    except DecodeError:
        return {}


def _embed_of(tree: Any) -> dict[str, Any]:
    source = tree[2] if isinstance(tree, list) and len(tree) == _TASK_BODY_LENGTH else tree
    if not isinstance(source, dict):
        return {}
    return {name: guarded(decode_value, source[name]) for name in EMBED if source.get(name)}


def _read(tree: Any, headers: Mapping[str, Any], schema: type[JobSchema[Any, Any]] | None) -> Job[Any]:
    if isinstance(tree, list) and len(tree) == _TASK_BODY_LENGTH:
        return _read_task(tree[0], tree[1], headers, schema)
    if isinstance(tree, dict):
        if tree.get("__type__") == "job":
            return decode_job(tree.get("__value__"), _checked(schema, _name_of(tree.get("__value__"))))
        if "args" in tree and ("task" in tree or "task" in headers):
            # Celery's protocol 1 keeps the headers in the body.
            return _read_task(tree["args"], tree.get("kwargs"), {**headers, **tree}, schema)
        if "schema_name" in tree:
            return _read_upstream(tree, schema)
        if "job_schema" in tree or "payload" in tree:
            fields = current_fields(tree)
            return decode_job(fields, _checked(schema, _name_of(fields)))
    raise DecodeError(
        "neither a Celery task body [args, kwargs, embed] nor a job: expected a message written by this package, a "
        "Celery task message or a legacy job"
    )


def _name_of(job: Any) -> Any:
    payload = job.get("payload") if isinstance(job, dict) else None
    payload = payload.get("__value__", payload) if isinstance(payload, dict) else None
    return payload.get("name") if isinstance(payload, dict) else None


def _checked(schema: type[JobSchema[Any, Any]] | None, name: Any) -> type[JobSchema[Any, Any]] | None:
    """``schema`` if the message's name is its own; what is not asked for by name must not be read as it."""
    expected = schema.model_fields["name"].default if schema else None
    if schema and isinstance(expected, str) and name != expected:
        if not isinstance(name, str) or registry.find_schema(name) is None:
            raise unknown_type(name)
        raise InvalidInputError(f"asked for {schema.__name__} ({expected!r}), but the message holds {name!r:.80}")
    return schema


def _read_task(
    args: Any, kwargs: Any, headers: Mapping[str, Any], schema: type[JobSchema[Any, Any]] | None
) -> Job[Any]:
    args, kwargs = args or [], kwargs or {}
    if isinstance(args, dict) and args.get("__type__") == "tuple":
        args = args.get("__value__")  # in the body of protocol 1, which is one object, our serializer keeps types
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise DecodeError("a Celery task body is [args, kwargs, embed] with a list and an object")
    name, job_id = headers.get("task"), headers.get("id")
    if len(args) == 1 and isinstance(args[0], dict) and args[0].get("__type__") == "job":
        fields = args[0].get("__value__")
        job: Job[Any] = decode_job(fields, _checked(schema, _name_of(fields)))
        if isinstance(job_id, str) and job_id and job_id != job.id:
            job.id = job_id  # sent again under an id of its own, as by Celery's retry of a signature
        return job
    known = _known(name, schema)
    fields = {"payload": {"name": name, "input": task_input(args, kwargs, known)}}
    if job_id is not None:
        fields["id"] = job_id
    return decode_job(fields, known)


def task_input(args: list[Any], kwargs: dict[str, Any], schema: type[JobSchema[Any, Any]]) -> Any:
    """What a plain Celery producer passed, as fields of the input: keywords, one object, or positions."""
    if len(args) == 1 and not kwargs and isinstance(args[0], dict):
        return args[0]
    names = list(schema.input_type().model_fields)
    if not args and kwargs.keys() == {"input"} and "input" not in names and isinstance(kwargs["input"], dict):
        return kwargs["input"]
    if len(args) > len(names):
        raise InvalidInputError(
            f"{len(args)} positional arguments, but {schema.input_type().__name__} has {len(names)} fields"
        )
    positional = dict(zip(names, args, strict=False))
    twice = positional.keys() & kwargs.keys()
    if twice:
        raise InvalidInputError(f"arguments given by position and by name: {', '.join(sorted(twice))}")
    return positional | kwargs


def _read_upstream(tree: dict[str, Any], schema: type[JobSchema[Any, Any]] | None) -> Job[Any]:
    """Upstream's job keeps the schema's name beside it and the bare input in ``payload``."""
    known = _known(tree["schema_name"], schema)
    payload = {"name": tree["schema_name"], "input": tree.get("payload"), "output": tree.get("output")}
    kept = {name: value for name, value in tree.items() if name != "schema_name" and value is not None}
    kept.pop("output", None)
    return decode_job({**current_fields(kept), "payload": payload}, known)


def _known(name: Any, schema: type[JobSchema[Any, Any]] | None) -> type[JobSchema[Any, Any]]:
    found = _checked(schema, name) or registry.find_schema(name if isinstance(name, str) else "")
    if found is None:
        raise unknown_type(name)
    return found


def unknown_type(name: Any) -> UnknownTypeError:
    """The error of a message whose schema, or task, is not known in this process."""
    known = ", ".join(registry.schema_names()) or "none"
    return UnknownTypeError(
        f"no schema is registered under the name {name!r:.80}, and a message that is not ours has no other type. "
        f"Import the module that defines it before receiving. Registered here: {known:.200}"
    )
