"""Chains whose types are checked when they are built."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args, get_origin

from celery import chain

from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.jobs import JobInput, JobOutput


def typed_chain(*tasks: Any) -> Any:
    """A Celery chain in which each job's output has what the next one's input needs.

    Args:
        tasks: Job tasks, or signatures of them: ``typed_chain(detect, classify)`` or
            ``typed_chain(detect.s(DetectionInput(...)), classify)``. Call ``delay`` or ``apply_async`` on the result, with
            the first input if the first signature has none.

    Raises:
        ConfigurationError: a field is missing or of another type, or something is no job task.
    """
    signatures = [task if _is_signature(task) else task.s() for task in tasks]
    found = [signature.type for signature in signatures]
    for task in found:
        if not getattr(task, "is_job", False):
            raise ConfigurationError(f"{getattr(task, 'name', task)!r} is no job task; celery.chain takes any task")
    for before, after in pairwise(found):
        faults = incompatible_fields(before.schema.output_type(), after.schema.input_type())
        if faults:
            raise ConfigurationError(f"{after.name!r} cannot follow {before.name!r}: {'; '.join(faults)}")
    return chain(*signatures)


def incompatible_fields(output: type[JobOutput], given: type[JobInput]) -> list[str]:
    """Why the output's fields do not make the input; empty if they do."""
    if output is JobOutput or given is JobInput:
        return []  # a bare schema says nothing before it runs
    faults = []
    for name, field in given.model_fields.items():
        source = output.model_fields.get(name)
        if source is None:
            if field.is_required():
                faults.append(f"{given.__name__}.{name} is required, and {output.__name__} has no such field")
        elif not _assignable(source.annotation, field.annotation):
            faults.append(
                f"{output.__name__}.{name} is {source.annotation}, {given.__name__}.{name} {field.annotation}"
            )
    return faults


def _is_signature(task: Any) -> bool:
    return isinstance(task, dict) and hasattr(task, "apply_async")


def _assignable(source: Any, target: Any) -> bool:
    """Whether a value of one annotation may stand for the other, as far as the annotations can tell."""
    if source == target or target is Any or source is Any:
        return True
    if isinstance(source, type) and isinstance(target, type) and not get_args(source) and not get_args(target):
        return issubclass(source, target) or (target is float and issubclass(source, int))
    options = get_args(target)
    if options and get_origin(target) is not get_origin(source):
        return any(_assignable(source, option) for option in options)
    return get_origin(source) is get_origin(target)
