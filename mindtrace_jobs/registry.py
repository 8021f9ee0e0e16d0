"""Names on the wire and the types they stand for.

Two tables: schema names (the contract between producer and worker) and model tags (``module:qualname``, or the tag a
class pins). Defining a class fills them; nothing else does. A name that a message carries is only ever looked up here,
never imported, so no message can choose what code is loaded.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

from mindtrace_jobs.errors import RegistrationError, UnknownTypeError

_lock = Lock()
_models: dict[str, type[Any]] = {}
_tags: dict[type[Any], str] = {}
_schemas: dict[str, type[Any]] = {}


def default_tag(cls: type[Any]) -> str:
    """``module:qualname``, the tag of a class that pins none."""
    return f"{cls.__module__}:{cls.__qualname__}"


def register_model(cls: type[Any], tag: str | None = None) -> None:
    """Let messages refer to ``cls`` by ``tag`` (default ``module:qualname``).

    Subclasses of JobInput and JobOutput are registered as they are defined. Call this for a plain Pydantic model that
    stands in a field declared with one of its base classes, where only the message can tell which class it was.

    A class defined again under its own module and qualname, as when a notebook cell is run twice, replaces the first.

    Raises:
        RegistrationError: another class holds the tag, ``cls`` is no Pydantic model, or the tag is no string.
    """
    if not all(hasattr(cls, name) for name in ("__pydantic_validator__", "model_fields", "__qualname__")):
        raise RegistrationError(f"{cls!r} is not a Pydantic model: only subclasses of pydantic.BaseModel have tags")
    tag = default_tag(cls) if tag is None else tag
    given: Any = tag  # callers without a type checker
    if not (given and isinstance(given, str)):
        raise RegistrationError(f"the tag of {default_tag(cls)} must be a string that is not empty, not {tag!r}")
    with _lock:
        _claim(_models, tag, cls, f"the tag {tag!r}", "Pin another: class ...(JobInput, tag='...').")
        _tags[cls] = tag


def register_schema(cls: type[Any], name: str) -> None:
    """Make ``cls`` the schema of jobs called ``name``.

    Raises:
        RegistrationError: another class holds the name, or it is empty.
    """
    if not name:
        raise RegistrationError(f"the schema name of {default_tag(cls)} is empty: `name: str = '...'`")
    with _lock:
        _claim(_schemas, name, cls, f"the schema name {name!r}", "Give one of them another `name: str = '...'`.")


def _claim(table: dict[str, type[Any]], key: str, cls: type[Any], what: str, remedy: str) -> None:
    holder = table.get(key)
    if holder is not None and default_tag(holder) != default_tag(cls):
        raise RegistrationError(f"{what} belongs to {default_tag(holder)}; {default_tag(cls)} cannot have it. {remedy}")
    table[key] = cls


def tag_of(cls: type[Any]) -> str | None:
    """The tag ``cls`` is registered under, or None."""
    return _tags.get(cls)


def find_model(tag: str) -> type[Any] | None:
    """The class registered under ``tag``, or None."""
    return _models.get(tag)


def model(tag: str) -> type[Any]:
    """The class registered under ``tag``.

    Raises:
        UnknownTypeError: this process has no such class.
    """
    try:
        return _models[tag]
    except KeyError:
        if tag.startswith("__main__:"):
            raise UnknownTypeError(
                f"no model is registered under the tag {tag!r:.200} in this process. It was published by a script in which it "
                "is defined, and which runs as __main__: define it in a module that both sides import, pin the same tag on "
                "both sides, or read it with schema= a schema that declares the class."
            ) from None
        raise UnknownTypeError(
            f"no model is registered under the tag {tag!r:.200} in this process. Import the module that defines it before "
            "receiving, pin the same tag on both sides, or read it with schema= a schema that declares the class."
        ) from None


def find_schema(name: str) -> type[Any] | None:
    """The JobSchema subclass registered under ``name``, or None."""
    return _schemas.get(name)


def schema_names() -> list[str]:
    """The names of all schemas this process has registered, sorted."""
    return sorted(_schemas)
