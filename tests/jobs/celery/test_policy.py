"""Celery's retry options and RetryPolicy say the same thing."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from mindtrace_jobs import RetryPolicy
from mindtrace_jobs.celery import JobTask, install, job_task
from tests.jobs.celery.models import (
    DetectionInput,
    DetectionOutput,
    DetectionSchema,
    SummaryInput,
    SummaryOutput,
    SummarySchema,
)

DEFAULT = RetryPolicy()


def policy(**options: Any) -> RetryPolicy:
    app = Celery("policies", broker="memory://policies", set_as_current=False)
    install(app)

    @job_task(app, DetectionSchema, **options)
    def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
        raise NotImplementedError

    found = detect.policy
    app.close()
    return found


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({}, {}),
        ({"time_limit": 5}, {}),
        ({"max_retries": 0}, {"max_retries": 0}),
        ({"retry_on": (OSError,)}, {"retry_on": (OSError,)}),
        ({"autoretry_for": (OSError,)}, {"retry_on": (OSError,)}),
        ({"dont_autoretry_for": (ValueError,)}, {"dont_retry_on": (ValueError,)}),
        ({"retry_kwargs": {"max_retries": 7}}, {"max_retries": 7}),
        (
            {"retry_kwargs": {"countdown": 4}},
            {"initial": 4.0, "factor": 1.0, "maximum": 4.0, "jitter": 0.0},
        ),
        ({"default_retry_delay": 9}, {"initial": 9.0, "factor": 1.0, "maximum": 9.0, "jitter": 0.0}),
        ({"retry_backoff": True}, {"initial": 1.0, "factor": 2.0, "maximum": 600.0, "jitter": 1.0}),
        (
            {"retry_backoff": 3, "retry_backoff_max": 30, "retry_jitter": False},
            {"initial": 3.0, "factor": 2.0, "maximum": 30.0, "jitter": 0.0},
        ),
        ({"retry": RetryPolicy(max_retries=5)}, {"max_retries": 5}),
        ({"retry": RetryPolicy(max_retries=5), "max_retries": 2}, {"max_retries": 2}),
    ],
)
def test_each_option_is_heeded(options: dict[str, Any], changes: dict[str, Any]) -> None:
    found = policy(**options)
    assert {name: getattr(found, name) for name in changes} == changes
    for name in set(RetryPolicy.__dataclass_fields__) - changes.keys():
        assert getattr(found, name) == getattr(DEFAULT, name)


def test_a_task_without_end_is_retried_without_end() -> None:
    assert policy(max_retries=None).allows(ValueError(), 10**6)


def test_a_base_class_of_ones_own_brings_its_options() -> None:
    class Patient(JobTask[DetectionInput, DetectionOutput]):
        abstract = True
        max_retries = 9
        autoretry_for = (OSError,)

    found = policy(base=Patient)
    assert (found.max_retries, found.retry_on) == (9, (OSError,))
    assert policy(base=Patient, max_retries=1).max_retries == 1


def test_without_options_the_number_of_lost_workers_is_that_of_the_installation() -> None:
    app = Celery("losses", broker="memory://losses", set_as_current=False)
    install(app, max_worker_losses=7)

    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
        raise NotImplementedError

    assert detect.policy == RetryPolicy(max_worker_losses=7)

    @job_task(app, SummarySchema, max_retries=1)
    def train(input: SummaryInput) -> SummaryOutput:  # noqa: A002
        raise NotImplementedError

    assert train.policy == RetryPolicy(max_worker_losses=7, max_retries=1)
    app.close()
