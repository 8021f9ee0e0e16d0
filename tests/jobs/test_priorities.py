"""Priorities mean the same whoever makes a queue and whoever starts first; where they cannot, somebody says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from mindtrace_jobs import Consumer, Orchestrator, RejectJob
from mindtrace_jobs.celery import install, job_task
from mindtrace_jobs.testing.base import receive_all, wait_for_ready
from mindtrace_jobs.testing.models import ImageInput, ImageOutput, ImageSchema, image_job, urls

WARNING = r"queue 'images' has no type.*queue_type='priority'\) makes it a priority queue"


@pytest.fixture(params=["memory", "redis"])
def app(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An app whose worker, or plain task, has made the queue before."""
    app = Celery("priorities", broker=request.getfixturevalue(f"{request.param}_url"), set_as_current=False)
    app.conf.update(task_routes={"conformance_image": "images"}, result_backend="cache+memory://")
    install(app)
    with app.connection_for_write() as connection:
        app.amqp.queues["images"](connection.default_channel).declare()
    yield app
    app.close()


def orders(orchestrator: Orchestrator) -> list[str]:
    return urls(receive_all(orchestrator, "images"))


def test_a_queue_that_a_worker_made_becomes_a_priority_queue_when_it_is_declared_so(app: Any) -> None:
    with Orchestrator.from_celery(app) as orchestrator:
        orchestrator.publish_message("images", image_job("plain"))
        orchestrator.declare_queue("images", "priority")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for priority in (0, 9, 5):
                orchestrator.publish_message("images", image_job(str(priority), priority=priority))
        wait_for_ready(orchestrator, "images", 4)
        assert orders(orchestrator) == ["9", "5", "plain", "0"]


def test_the_type_of_a_queue_is_what_it_is_and_not_what_was_asked_for(app: Any) -> None:
    with Orchestrator.from_celery(app) as orchestrator:
        with pytest.warns(RuntimeWarning, match="exists with type 'plain'"):
            orchestrator.declare_queue("images", "fifo")
        assert orchestrator.queue_info("images").type is None
        with pytest.warns(RuntimeWarning, match=WARNING):
            orchestrator.publish_message("images", image_job(priority=9))


@pytest.mark.parametrize("how", ["publish_message", "publish_many", "task.submit"])
def test_publishing_with_a_priority_to_a_queue_without_a_type_warns_once(app: Any, how: str) -> None:
    task: Any = job_task(app, ImageSchema)(run)
    with Orchestrator.from_celery(app) as orchestrator:
        publish: dict[str, Callable[[], Any]] = {
            "publish_message": lambda: orchestrator.publish_message("images", image_job(priority=9)),
            "publish_many": lambda: orchestrator.publish_many("images", [image_job(priority=1), image_job(priority=9)]),
            "task.submit": lambda: task.submit(image_job(priority=9)),
        }
        with pytest.warns(RuntimeWarning, match=WARNING) as seen:
            [publish[how]() for _ in range(3)]
    assert [warning.filename for warning in seen] == [__file__]


def run(input: ImageInput) -> ImageOutput | None: ...  # noqa: A002


def test_nobody_is_told_to_make_a_dead_letter_queue_a_priority_queue(app: Any) -> None:
    def refuse(job: Any) -> None:
        raise RejectJob("no")

    with Orchestrator.from_celery(app) as orchestrator, warnings.catch_warnings():
        warnings.simplefilter("error")
        orchestrator.declare_queue("other", "priority")
        orchestrator.publish_message("other", image_job(priority=9))
        Consumer(orchestrator, "other", refuse).consume_until_empty()
        assert orchestrator.queue_info("other").dead_lettered == 1
