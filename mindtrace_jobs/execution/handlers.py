"""Handlers: what their parameters ask for (the input first, by annotation the job and a context), and what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_origin, get_type_hints

from pydantic import ValidationError

from mindtrace_jobs.errors import ConfigurationError, InvalidOutputError
from mindtrace_jobs.execution.context import JobContext
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.serializer.offences import invalid
from mindtrace_jobs.serializer.receiving import validator


@dataclass(frozen=True, slots=True)
class Parameters:
    """Names of the parameters that take the job and the context; None where there is none."""

    job: str | None = None
    context: str | None = None

    def extras(self, job: Job[Any], context: JobContext) -> dict[str, Any]:
        """Keyword arguments beside the input."""
        return {name: value for name, value in ((self.job, job), (self.context, context)) if name is not None}


def parameters_of(
    function: Callable[..., Any], schema: type[JobSchema[Any, Any]], *, bound: bool = False
) -> Parameters:
    """Read a function's signature.

    Args:
        function: The job function.
        schema: What its annotations, as far as it has any, must agree with.
        bound: Whether its first parameter is the task itself.

    Raises:
        ConfigurationError: it takes something that a worker cannot give, or its types are not the schema's.
    """
    listed = list(inspect.signature(function).parameters.values())[1 if bound else 0 :]
    hints = _hints(function)
    if not listed or listed[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise ConfigurationError(f"{_name(function)} takes no input: def {_name(function)}(input: {_input(schema)})")
    _check(function, "its input", hints.get(listed[0].name), schema.input_type(), JobInput)
    _check(function, "its output", hints.get("return"), schema.output_type(), JobOutput)
    job = context = None
    for parameter in listed[1:]:
        hint = hints.get(parameter.name)
        if _is(hint, Job):
            job = parameter.name
        elif _is(hint, JobContext):
            context = parameter.name
        elif parameter.default is inspect.Parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            raise ConfigurationError(
                f"{_name(function)}: nothing fills parameter {parameter.name!r}. Annotate it as Job or JobContext, or "
                "give it a default"
            )
    return Parameters(job, context)


def _check(function: Any, what: str, hint: Any, declared: type[Any], base: type[Any]) -> None:
    """A declared class that cannot be what the schema says is a mistake to report now."""
    if not isinstance(hint, type) or not issubclass(hint, base) or declared is base:
        return
    fits = issubclass(declared, hint) if base is JobInput else issubclass(hint, declared)
    if not fits:
        raise ConfigurationError(
            f"{_name(function)}: {what} is annotated {hint.__name__}, its schema says {declared.__name__}"
        )


def _is(hint: Any, cls: type[Any]) -> bool:
    # A parametrized Pydantic model is a subclass of the bare one.
    found = get_origin(hint) or hint
    return isinstance(found, type) and issubclass(found, cls)


def is_async(function: Any) -> bool:
    """Whether calling this, a function or another callable object, gives a coroutine."""
    written = _written(function)
    return inspect.iscoroutinefunction(written) or inspect.iscoroutinefunction(getattr(written, "__func__", None))


def _written(function: Any) -> Any:
    """The function as it is written: of a partial the function in it, of another callable object its ``__call__``."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) or isinstance(function, type) else type(function).__call__


def _hints(function: Any) -> dict[str, Any]:
    function = _written(function)
    try:
        return get_type_hints(function)
    except Exception:  # names only a type checker knows: the annotations still stand as text
        return {name: _KNOWN.get(str(hint).partition("[")[0], hint) for name, hint in _raw(function).items()}


def _raw(function: Any) -> dict[str, Any]:
    return dict(getattr(function, "__annotations__", {}))


_KNOWN = {"Job": Job, "JobContext": JobContext}


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _input(schema: type[JobSchema[Any, Any]]) -> str:
    return schema.input_type().__name__


def set_output(job: Job[Any], output: Any) -> None:
    """Put what a handler returned into the job; None leaves what the handler put there itself.

    Raises:
        InvalidOutputError: it is not of the schema's output type.
    """
    if output is None:
        return
    payload = job.payload
    try:
        payload.output = output
    except ValidationError as error:
        cls: type[JobSchema[Any, Any]] = type(payload)
        expected = cls.output_type()
        what = "JobOutput" if expected is JobOutput else expected.__name__
        offences = invalid("job", error, validator(cls).names, "payload").errors
        raise InvalidOutputError(f"the handler returned {type(output).__name__}, not {what}", offences) from None
