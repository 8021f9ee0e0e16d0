"""A Celery worker in a thread of this process takes plain tasks from the memory transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Reject
from kombu import Queue

PATIENCE = 30.0
TRANSPORT = "mindtrace_jobs.transports.memory:Transport"


def new_app() -> Any:
    broker_id = str(uuid4())
    app = Celery(broker_id, broker=f"memory:///{broker_id}", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        broker_transport=TRANSPORT,
        worker_prefetch_multiplier=1,
        task_queues=[Queue("tasks"), Queue("urgent", queue_arguments={"x-job-queue": "priority"})],
        task_default_queue="tasks",
        worker_hijack_root_logger=False,
    )
    return app


def working(app: Any, pool: str, **options: Any) -> Any:
    return start_worker(app, pool=pool, perform_ping_check=False, shutdown_timeout=PATIENCE, **options)


def queue(app: Any, name: str) -> tuple[str | None, dict[str, int]]:
    """A queue's type and counts."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        return channel.queue_type(name), channel.queue_stats(name)


class Stack:
    """An app with a running worker."""

    def __init__(self, pool: str) -> None:
        self.app = app = new_app()
        self.redelivered: list[bool] = []

        @app.task(shared=False)  # type: ignore[untyped-decorator]
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(shared=False)  # type: ignore[untyped-decorator]
        def moment() -> float:
            return time.time()

        @app.task(shared=False, bind=True, acks_late=True)  # type: ignore[untyped-decorator]
        def twice(task: Any) -> str:
            self.redelivered.append(bool(task.request.delivery_info["redelivered"]))
            if len(self.redelivered) == 1:
                raise Reject("once more", requeue=True)
            return "done"

        self.add, self.moment, self.twice = add, moment, twice
        self.hostname = ""


@pytest.fixture(scope="module", params=["solo", "threads"])
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    stack = Stack(request.param)
    with working(stack.app, request.param, concurrency=2) as worker:
        stack.hostname = worker.hostname
        yield stack
    stack.app.close()


def test_worker_runs_tasks_and_returns_results(stack: Stack) -> None:
    results = [stack.add.delay(number, 1) for number in range(50)]
    assert [result.get(timeout=PATIENCE) for result in results] == list(range(1, 51))


def test_worker_runs_a_task_with_an_eta_not_before_its_time(stack: Stack) -> None:
    earliest = time.time() + 0.5
    ran = stack.moment.apply_async(countdown=0.5).get(timeout=PATIENCE)
    assert ran >= earliest - 0.01  # Celery's timer may ring a moment early


def test_worker_answers_remote_control_again_and_again(stack: Stack) -> None:
    for _ in range(3):
        assert stack.app.control.ping(timeout=PATIENCE, limit=1) == [{stack.hostname: {"ok": "pong"}}]
    assert stack.hostname in stack.app.control.inspect(timeout=PATIENCE, limit=1).active_queues()


def test_task_that_is_given_back_runs_again(stack: Stack) -> None:
    assert stack.twice.delay().get(timeout=PATIENCE) == "done"
    assert stack.redelivered == [False, True]


def test_worker_takes_higher_priorities_first_and_leaves_no_mailbox_behind() -> None:
    app = new_app()
    ran: list[int] = []

    @app.task(shared=False)  # type: ignore[untyped-decorator]
    def note(priority: int) -> None:
        ran.append(priority)

    results = [note.apply_async((each,), queue="urgent", priority=each) for each in (1, 9, 5, 0, 7)]
    with working(app, "solo", queues=["urgent"]) as worker:
        for result in results:
            result.get(timeout=PATIENCE)
        mailbox = f"{worker.hostname}.celery.pidbox"
        assert queue(app, mailbox)[0] == ""
    assert ran == [9, 7, 5, 1, 0]
    assert queue(app, mailbox)[0] is None
    app.close()


def test_stopped_worker_loses_no_task() -> None:
    app = new_app()
    app.conf.worker_prefetch_multiplier = 2
    one_done = threading.Event()
    ran: set[int] = set()

    @app.task(shared=False, acks_late=True)  # type: ignore[untyped-decorator]
    def work(number: int) -> None:
        ran.add(number)
        one_done.set()

    for number in range(5):
        work.delay(number)
    with working(app, "threads", concurrency=1):
        assert one_done.wait(PATIENCE)
    stats = queue(app, "tasks")[1]
    assert (stats["unacknowledged"], stats["consumers"]) == (0, 0)
    with app.connection_for_read() as connection, connection.channel() as channel:
        # Celery closes its channel without waiting for its pool: what that still runs is here too.
        left = {channel.basic_get("tasks", no_ack=True).payload[0][0] for _ in range(stats["ready"])}
    assert ran | left == set(range(5))
    app.close()
