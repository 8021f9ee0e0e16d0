"""Jobs that were recorded, and whose producer died before the broker had them: their record says so in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mindtrace_jobs import Consumer, ExecutionStatus, Job, JobFailedError, Orchestrator
from mindtrace_jobs.results import store
from mindtrace_jobs.testing.models import ImageSchema, image_job

#: Kills itself when the record is written and the message is not yet sent, or has just been.
PRODUCER = """
import os, signal, sys
from celery import Celery, signals
from mindtrace_jobs import Orchestrator
from mindtrace_jobs.celery import install, job_task
from mindtrace_jobs.testing.models import ImageInput, ImageOutput, ImageSchema, image_job

which, when, job_id, broker, results = sys.argv[1:]
def die(**_): os.kill(os.getpid(), signal.SIGKILL)

getattr(signals, f"{when}_task_publish").connect(die, weak=False)
job = image_job("a", id=job_id)
if which == "orchestrator":
    Orchestrator.from_url(broker, client_options={"result_backend": results}).submit(job, queue="q")
else:
    app = Celery("project", broker=broker, backend=results)
    install(app)

    @job_task(app, ImageSchema)
    def detect(image: ImageInput) -> ImageOutput: ...

    detect.submit(job, queue="q")
"""


@pytest.fixture(params=["orchestrator", "celery"])
def produce(request: pytest.FixtureRequest, rabbitmq_url: str, redis_url: str) -> Callable[[str, str], None]:
    """Submit the job of an id with a producer that is killed before, or after, its message is published."""

    def run(when: str, job_id: str) -> None:
        command = [sys.executable, "-c", PRODUCER, request.param, when, job_id, rabbitmq_url, redis_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr

    return run


@pytest.fixture
def orchestrator(rabbitmq_url: str, redis_url: str) -> Any:
    with Orchestrator.from_url(rabbitmq_url, client_options={"result_backend": redis_url}) as orchestrator:
        orchestrator.declare_queue("q")
        yield orchestrator


@pytest.fixture
def two_minutes_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(store, "UNCONFIRMED_AFTER", timedelta(0))


def test_a_record_without_its_message_reads_as_failed_after_two_minutes(
    produce: Callable[[str, str], None], orchestrator: Orchestrator, two_minutes_later: Callable[[], None]
) -> None:
    produce("before", "orphan")
    handle = orchestrator.handle("orphan")
    assert handle.status() is ExecutionStatus.QUEUED
    two_minutes_later()
    record = handle.record()
    assert (record.status, record.error_type) == (ExecutionStatus.FAILED, "UnconfirmedError")
    with pytest.raises(JobFailedError, match="before the broker confirmed it"):
        handle.result(timeout=5)


def test_such_a_job_may_be_submitted_again(
    produce: Callable[[str, str], None], orchestrator: Orchestrator, two_minutes_later: Callable[[], None]
) -> None:
    produce("before", "orphan")
    two_minutes_later()
    orchestrator.submit(image_job(id="orphan"), queue="q")
    assert orchestrator.job_status("orphan") is ExecutionStatus.QUEUED


def test_a_job_that_was_published_all_the_same_runs_and_its_record_is_right_again(
    produce: Callable[[str, str], None], orchestrator: Orchestrator, two_minutes_later: Callable[[], None]
) -> None:
    produce("after", "published")
    two_minutes_later()
    assert orchestrator.job_status("published") is ExecutionStatus.FAILED
    Consumer(orchestrator, "q", lambda job: None).consume(num_messages=1, timeout=30)
    assert orchestrator.job_status("published") is ExecutionStatus.COMPLETED


def test_a_job_that_may_be_published_can_be_cancelled(
    produce: Callable[[str, str], None], orchestrator: Orchestrator, two_minutes_later: Callable[[], None]
) -> None:
    produce("after", "unwanted")
    two_minutes_later()
    assert orchestrator.cancel("unwanted")
    assert orchestrator.job_status("unwanted") is ExecutionStatus.CANCELLED
    ran: list[Job[ImageSchema]] = []
    consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", ran.append)
    consumer.consume_until_empty()
    assert not ran


def test_a_job_that_waits_for_long_is_queued_all_the_while(
    orchestrator: Orchestrator, two_minutes_later: Callable[[], None]
) -> None:
    handle = orchestrator.submit(image_job(), queue="q")
    two_minutes_later()
    assert handle.status() is ExecutionStatus.QUEUED
