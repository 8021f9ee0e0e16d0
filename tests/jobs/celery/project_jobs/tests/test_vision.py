"""Jobs on pictures of shelves."""

import pytest
from celery import chord
from conftest import wait_for
from shop.celery import app
from shop.orders.tasks import discount
from shop.vision.models import ShelfInput, ShelfOutput
from shop.vision.tasks import count, look

from mindtrace.jobs import JobFailedError, Orchestrator


def test_a_job_gives_a_typed_output() -> None:
    assert look.submit(ShelfInput(image="a")).result(30) == ShelfOutput(labels=["a", "shelf"])


def test_a_job_may_be_sent_by_name() -> None:
    assert app.send_task("shelf_detection", kwargs={"image": "b"}).get(timeout=30).labels == ["b", "shelf"]


def test_jobs_and_tasks_are_composed() -> None:
    jobs = [look.s(ShelfInput(image=name)) for name in "abc"]
    assert (chord(jobs, count.s()) | discount.s(50)).delay().get(timeout=30) == 3.0


def test_a_job_that_cannot_succeed_is_dead_lettered() -> None:
    handle = look.submit(ShelfInput(image=""))
    with pytest.raises(JobFailedError, match="no picture"):
        handle.result(30)
    with Orchestrator.from_celery(app) as orchestrator:
        wait_for(lambda: orchestrator.dead_letters.count("detection_jobs") == 1, "its dead letter")
