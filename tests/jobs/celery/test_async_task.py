"""Coroutine functions as tasks in one process: called directly, eagerly, and as they are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from celery import Celery

from mindtrace_jobs import ConfigurationError, Job
from mindtrace_jobs.celery import AsyncJobTask, JobContext, install, job_task
from tests.jobs.celery.models import (
    AwaitInput,
    AwaitOutput,
    AwaitSchema,
    DetectionInput,
    DetectionOutput,
    DetectionSchema,
)


@pytest.fixture
def app(memory_url: str) -> Any:
    app = Celery("eager", broker=memory_url, set_as_current=False)
    install(app)
    return app


@pytest.fixture
def detect(app: Any) -> AsyncJobTask[DetectionInput, DetectionOutput]:
    @job_task(app, DetectionSchema)
    async def detect(input: DetectionInput, job: Job[Any], context: JobContext) -> DetectionOutput:  # noqa: A002
        await asyncio.sleep(0)
        return DetectionOutput(labels=[input.image, job.payload.name, str(context.attempt)])

    return detect


EXPECTED = DetectionOutput(labels=["x", "stack_detection", "1"])


def test_called_directly_it_gives_a_coroutine_as_its_function_does(detect: Any) -> None:
    coroutine = detect(DetectionInput(image="x"))
    assert isinstance(coroutine, Coroutine)
    assert asyncio.run(coroutine) == EXPECTED


def test_eagerly_it_is_run_to_its_end(detect: Any) -> None:
    assert detect.apply(args=[DetectionInput(image="x")]).get() == EXPECTED


def test_a_class_may_have_a_coroutine_function_to_run(app: Any) -> None:
    class Detect(AsyncJobTask[DetectionInput, DetectionOutput]):
        schema = DetectionSchema
        label = "of the class"

        async def run(self, input: DetectionInput, context: JobContext) -> DetectionOutput:  # noqa: A002
            await asyncio.sleep(0)
            return DetectionOutput(labels=[input.image, self.label, str(context.attempt)])

    class Plain(Detect):
        def run(self, input: DetectionInput) -> DetectionOutput:  # type: ignore[override]  # noqa: A002
            return DetectionOutput(labels=["plain"])

    task = app.register_task(Detect())
    expected = DetectionOutput(labels=["x", "of the class", "1"])
    assert task.apply(args=[{"image": "x"}]).get() == expected
    assert asyncio.run(task(DetectionInput(image="x"))) == expected
    plain: Any = Plain()
    assert plain(DetectionInput(image="x")) == DetectionOutput(labels=["plain"])


def test_a_coroutine_that_waits_for_another_job_of_its_loop_is_told_so(app: Any, detect: Any) -> None:
    @job_task(app, AwaitSchema)
    async def attend(input: AwaitInput) -> AwaitOutput:  # noqa: A002
        direct = await detect(DetectionInput(image="x"))
        detect.apply(args=[DetectionInput(image="x")], throw=True)
        return AwaitOutput(text=str(direct), loop="")

    with pytest.raises(ConfigurationError, match="await its function"):
        attend.apply(args=[AwaitInput(act="meet")], throw=True)


def test_a_coroutine_function_cannot_be_bound(app: Any) -> None:
    with pytest.raises(ConfigurationError, match="bind=True"):

        @job_task(app, DetectionSchema, bind=True)
        async def detect(self: Any, input: DetectionInput) -> DetectionOutput:  # noqa: A002
            raise NotImplementedError
