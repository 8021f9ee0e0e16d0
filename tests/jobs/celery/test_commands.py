"""``celery beat`` and ``celery multi`` work on a project with typed jobs as they did before."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs.celery.projects import Project
from tests.jobs.servers import wait_until
from tests.jobs.servers.process import DetachedProcess

#: Jobs in the beat's schedule, each with a number of its own, beside the project's own plain task.
SCHEDULE = """
from shop.vision.models import ShelfInput

CELERY_BEAT_SCHEDULE["tick"]["schedule"] = 2.0
CELERY_BEAT_SCHEDULE |= {
    "by keywords": {"task": "shelf_detection", "schedule": 2.0, "kwargs": {"image": "x", "number": 1}},
    "by input": {"task": "shelf_detection", "schedule": 2.0, "args": [ShelfInput(image="x", number=2)]},
}
"""
PERIODIC = """
@app.on_after_finalize.connect
def schedule(sender, **_):
    sender.add_periodic_task(2.0, look.s(ShelfInput(image="x", number=3)), name="by signature")
"""
PRODUCE = """
from shop.orders.tasks import total
from shop.vision.models import ShelfInput
from shop.vision.tasks import look
print(look.submit(ShelfInput(image="x")).result(30).labels, total.delay([1, 2]).get(timeout=30))
"""


@pytest.fixture
def project(new_project: Callable[..., Project]) -> Project:
    return new_project("project", jobs=True)


def looked(project: Project) -> Counter[str]:
    """How often each number was looked at."""
    return Counter(number for number, _ in project.noted("look"))


def wait_until_quiet(project: Project, name: str) -> None:
    """Wait until a beat has sent what was due, long before it sends again.

    Celery's handler of SIGTERM closes the connection in the middle of whatever beat does. If that is writing to RabbitMQ,
    py-amqp waits for ever for a lock that it holds itself: with stock Celery as well (5.7).
    """
    before = ""
    while (found := project.log(name)) != before:
        before = found
        time.sleep(0.5)


def test_beat_sends_plain_tasks_and_jobs(project: Project) -> None:
    project.add("shop/settings.py", SCHEDULE)
    project.add("shop/vision/tasks.py", PERIODIC)
    worker = project.worker("worker", "--pool=threads", "--concurrency=2")
    for start in (1, 2):  # at the second it finds the schedule that it kept
        times = 2 * start
        beat = project.celery(f"beat{start}", "beat", "--schedule", "schedule", "--loglevel=INFO")
        wait_until(lambda times=times: len(project.noted("tick")) >= times, "the plain task")  # type: ignore[misc]
        for number in "123":
            wait_until(lambda times=times, number=number: looked(project)[number] >= times, f"job {number}")  # type: ignore[misc]
        wait_until_quiet(project, f"beat{start}")
        beat.terminate(timeout=30)
        assert "Traceback" not in project.log(f"beat{start}")
    worker.terminate(timeout=30)
    assert not project.noted("failed")
    assert "Traceback" not in project.log("worker")


@pytest.fixture
def daemons(project: Project) -> Iterator[Callable[[], list[DetachedProcess]]]:
    """The daemons whose numbers are in the project's folder; ended with the test."""
    found: dict[Path, DetachedProcess] = {}

    def find() -> list[DetachedProcess]:
        for file in project.folder.glob("*.pid"):
            if file not in found and (text := file.read_text().strip()):
                found[file] = DetachedProcess(int(text), project.folder)
        return list(found.values())

    yield find
    for daemon in find():
        daemon.kill()


def test_multi_starts_workers_and_stops_them(project: Project, daemons: Callable[[], list[DetachedProcess]]) -> None:
    where = (f"--pidfile={project.folder}/%n.pid", f"--logfile={project.folder}/%n.log")
    start = project.start(
        "start", *("-m", "celery", "multi", "start", "2", "-A", "shop", "-c", "1", "--loglevel=INFO"), *where
    )
    wait_until(lambda: not start.running, "the end of multi start")
    wait_until(lambda: len(daemons()) == 2, "the workers")
    for number in range(2):
        wait_until(lambda number=number: " ready." in project.log(f"celery{number + 1}"), "a ready worker")  # type: ignore[misc]

    done = project.start("produce", "-c", PRODUCE)
    wait_until(lambda: not done.running, "the producer's end")
    assert project.log("produce") == "['x', 'shelf'] 3\n"

    stop = project.start("stop", *("-m", "celery", "multi", "stopwait", "2", "-A", "shop"), *where)
    wait_until(lambda: not stop.running, "the end of multi stopwait")
    # It looks for their processes; what is left of their pools ends a moment later.
    wait_until(lambda: not any(daemon.running for daemon in daemons()), "the workers' end")
    assert not list(project.folder.glob("*.pid"))
