"""RabbitMQ confirms every job that a task publishes, also for an app whose plain tasks are sent without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from mindtrace_jobs import Orchestrator
from mindtrace_jobs.celery import JobTask, install, job_task
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema
from tests.jobs.celery.workers import close_app


@pytest.fixture
def app(rabbitmq_url: str) -> Iterator[Any]:
    app = Celery("unconfirmed", broker=rabbitmq_url, set_as_current=False)
    full = {"x-max-length": 0, "x-overflow": "reject-publish"}
    app.conf.task_queues = [Queue("full", Exchange("full"), routing_key="full", queue_arguments=full)]
    install(app)
    yield app
    close_app(app)


@pytest.fixture
def detect(app: Any) -> JobTask[DetectionInput, DetectionOutput]:
    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
        raise NotImplementedError

    return detect


def test_a_job_that_the_broker_refuses_is_an_error_where_a_plain_task_is_lost(app: Any, detect: Any) -> None:
    app.send_task("plain", queue="full")
    with pytest.raises(OperationalError, match="refused the job"):
        detect.apply_async((DetectionInput(image="x"),), queue="full")
    with pytest.raises(OperationalError, match="refused the job"):
        detect.submit(DetectionInput(image="x"), queue="full")
    with Orchestrator.from_celery(app) as orchestrator:
        assert orchestrator.queue_status("full") == 0
        detect.delay(image="x")
        assert orchestrator.queue_status("detection_jobs") == 1
