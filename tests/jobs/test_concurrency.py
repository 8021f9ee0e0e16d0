"""One Orchestrator used by many threads, and by parent and child after a fork."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from mindtrace_jobs import BackendType, Consumer, Job, Orchestrator, QueueNotFoundError
from mindtrace_jobs.testing.base import in_forked_child
from mindtrace_jobs.testing.models import ImageSchema, image_job

THREADS = 16
JOBS = 5000
PATIENCE = 100.0


@pytest.fixture
def orchestrator(backend_url: str) -> Iterator[Orchestrator]:
    with Orchestrator.from_url(backend_url) as orchestrator:
        yield orchestrator


def _run_all(works: list[Callable[[], None]]) -> None:
    """Run each in a thread of its own; an error in any of them is raised here."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def test_sixteen_threads_publish_and_receive_each_job_exactly_once(orchestrator: Orchestrator) -> None:
    shares = [[image_job(f"{thread}-{number}") for number in range(thread, JOBS, THREADS)] for thread in range(THREADS)]
    received: list[str] = []
    orchestrator.declare_queue("shared")

    def work(share: list[Job[ImageSchema]]) -> None:
        for job in share:
            orchestrator.publish_message("shared", job)
            if (taken := orchestrator.receive_message("shared")) is not None:
                received.append(taken.id)
        while len(received) < JOBS:
            if (taken := orchestrator.receive_message("shared", timeout=0.1)) is not None:
                received.append(taken.id)

    _run_all([lambda share=share: work(share) for share in shares])  # type: ignore[misc]
    assert Counter(received) == Counter(job.id for share in shares for job in share)
    assert orchestrator.queue_status("shared") == 0


def test_many_consumers_and_a_batch_publisher_share_an_orchestrator(orchestrator: Orchestrator) -> None:
    jobs = [image_job(str(number)) for number in range(600)]
    orchestrator.declare_queue("shared")
    ran: list[str] = []
    enough = threading.Event()

    def note(job: Job[ImageSchema]) -> None:
        ran.append(job.id)
        if len(ran) >= len(jobs):
            enough.set()

    consumers: list[Consumer[ImageSchema]] = [Consumer(orchestrator, "shared", note, prefetch=10) for _ in range(6)]

    def publish() -> None:
        for start in range(0, len(jobs), 100):
            orchestrator.publish_many("shared", jobs[start : start + 100])
        assert enough.wait(PATIENCE)
        for consumer in consumers:
            consumer.stop()

    _run_all([publish, *(lambda consumer=consumer: consumer.run_forever() and None for consumer in consumers)])
    assert Counter(ran) == Counter(job.id for job in jobs)


def _works(orchestrator: Orchestrator, queue: str) -> bool:
    """Whether publishing, receiving, counting and consuming work in this process."""
    jobs = [image_job(f"{queue}-{number}") for number in range(20)]
    orchestrator.publish_many(queue, jobs[:10])
    for job in jobs[10:]:
        orchestrator.publish_message(queue, job)
    taken = [orchestrator.receive_message(queue, timeout=PATIENCE) for _ in range(10)]
    ran: list[str] = []
    Consumer(orchestrator, queue, lambda job: ran.append(job.id)).consume(10, timeout=PATIENCE)
    same = [job and job.id for job in taken] + ran == [job.id for job in jobs]
    return same and orchestrator.queue_status(queue) == 0


def _sees(orchestrator: Orchestrator, queue: str) -> bool:
    try:
        return orchestrator.queue_status(queue) > 0
    except QueueNotFoundError:
        return False


def test_parent_and_child_of_a_fork_both_go_on(orchestrator: Orchestrator) -> None:
    """A memory broker is the parent's: the child's is empty. The others are shared."""
    orchestrator.publish_message("before", image_job("before"))
    assert _works(orchestrator, "parent")
    shared = orchestrator.client.backend is not BackendType.LOCAL
    assert in_forked_child(lambda: _sees(orchestrator, "before") is shared and _works(orchestrator, "child"))
    assert _works(orchestrator, "parent")
    assert orchestrator.queue_status("before") == 1
    assert in_forked_child(lambda: _works(orchestrator, "second child"))
    assert _works(orchestrator, "parent")


def test_a_fork_while_jobs_are_held_leaves_them_with_the_parent(orchestrator: Orchestrator) -> None:
    orchestrator.publish_many("held", [image_job("a"), image_job("b"), image_job("c")])
    with orchestrator.client.consume(["held"], prefetch=2) as source, orchestrator.receiving("held") as job:
        assert job is not None
        assert in_forked_child(lambda: _works(orchestrator, "child"))
        for _ in range(2):
            delivery = source.next(PATIENCE)
            assert delivery is not None
            delivery.acknowledge()
    assert orchestrator.receive_message("held") is None


def test_a_fork_while_other_threads_work_harms_neither_side(orchestrator: Orchestrator) -> None:
    stop = threading.Event()
    children: list[bool] = []

    def busy(queue: str) -> None:
        while not stop.is_set():
            assert _works(orchestrator, queue)

    def fork() -> None:
        try:
            children.extend(in_forked_child(partial(_works, orchestrator, f"child-{n}")) for n in range(20))
        finally:
            stop.set()

    _run_all([lambda: busy("one"), lambda: busy("two"), fork])
    assert children == [True] * 20


def _child_process(orchestrator: Orchestrator, number: int) -> None:
    os._exit(0 if _works(orchestrator, f"process-{number}") else 1)


def test_multiprocessing_children_inherit_a_working_orchestrator(orchestrator: Orchestrator) -> None:
    assert _works(orchestrator, "parent")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_child_process, args=(orchestrator, number)) for number in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
        for process in processes:
            process.start()
    assert _works(orchestrator, "parent")
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert _works(orchestrator, "parent")
