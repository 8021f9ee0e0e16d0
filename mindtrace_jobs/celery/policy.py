"""Celery's retry options, as a RetryPolicy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mindtrace_jobs.execution.retry import RetryPolicy

#: For Celery's ``max_retries=None``: without end.
ENDLESS = 2**31
#: Celery's options that say when and how a task is retried.
OPTIONS = (
    "autoretry_for",
    "dont_autoretry_for",
    "max_retries",
    "default_retry_delay",
    "retry_kwargs",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
)


def policy_from(options: Mapping[str, Any], policy: RetryPolicy) -> RetryPolicy:
    """A policy, changed by those of Celery's options that are given.

    ``autoretry_for`` and ``dont_autoretry_for`` are its ``retry_on`` and ``dont_retry_on``; ``retry_backoff`` (True is 1)
    is ``initial`` with factor 2, ``retry_backoff_max`` is ``maximum``, ``retry_jitter`` is a jitter of 1 or 0. Without a
    backoff, ``retry_kwargs={"countdown": ...}`` or ``default_retry_delay`` is a pause that stays the same.
    """
    arguments = options.get("retry_kwargs") or {}
    changes: dict[str, Any] = {}
    for option, field in (("autoretry_for", "retry_on"), ("dont_autoretry_for", "dont_retry_on")):
        if option in options:
            changes[field] = _classes(options[option])
    for source in (options, arguments):
        if "max_retries" in source:
            changes["max_retries"] = ENDLESS if source["max_retries"] is None else source["max_retries"]
    pause = arguments.get("countdown", options.get("default_retry_delay"))
    backoff = options.get("retry_backoff")
    if backoff:
        changes |= {"initial": max(1.0, float(backoff)), "factor": 2.0}
        changes["maximum"] = float(options.get("retry_backoff_max") or 600)
        changes["jitter"] = 1.0 if options.get("retry_jitter", True) else 0.0
    elif pause is not None:
        changes |= {"initial": float(pause), "factor": 1.0, "maximum": float(pause), "jitter": 0.0}
    return replace(policy, **changes) if changes else policy


def _classes(value: Any) -> tuple[type[BaseException], ...]:
    return (value,) if isinstance(value, type) else tuple(value) if isinstance(value, Iterable) else ()
