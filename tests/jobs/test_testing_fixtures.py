"""The fixtures that users import: their own jobs run in their own tests, in memory, and acknowledge for real."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mindtrace_jobs import Consumer, Job, LocalClient, Orchestrator, RejectJob, RetryPolicy
from mindtrace_jobs.testing.fixtures import JobWorker, job_worker, orchestrator
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, image_job
from tests.jobs.servers import wait_until

__all__ = ["job_worker", "orchestrator"]

PATIENCE = 30.0


def detect(job: Job[ImageSchema]) -> ImageOutput:
    if job.payload.input.url == "bad":
        raise RejectJob("no image")
    return ImageOutput(objects=[job.payload.input.url])


class Detector(Consumer[ImageSchema]):
    schema = ImageSchema

    def run(self, job: Job[ImageSchema]) -> ImageOutput:
        return detect(job)


def test_a_started_worker_gives_typed_results(orchestrator: Orchestrator, job_worker: JobWorker) -> None:
    job_worker.start("q", detect)
    handle = orchestrator.submit(image_job("a"), queue="q")
    assert handle.result(PATIENCE) == ImageOutput(objects=["a"])


def test_a_subclass_of_consumer_is_started_too(orchestrator: Orchestrator, job_worker: JobWorker) -> None:
    job_worker.start(["q", "r"], Detector)
    handle = orchestrator.submit(image_job("a"), queue="r")
    assert handle.result(PATIENCE) == ImageOutput(objects=["a"])


def test_running_until_empty_settles_what_is_there_and_returns(
    orchestrator: Orchestrator, job_worker: JobWorker
) -> None:
    orchestrator.publish_many("q", [image_job("a"), image_job("bad"), image_job("c")])
    assert job_worker.run_until_empty("q", detect) == 3
    assert job_worker.run_until_empty("q", detect) == 0
    [letter] = orchestrator.dead_letters.list("q")
    assert letter.reason == "rejected"


def test_a_job_is_on_the_broker_until_its_handler_has_returned(
    orchestrator: Orchestrator, job_worker: JobWorker
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def handle(job: Job[ImageSchema]) -> None:
        began.set()
        assert go_on.wait(PATIENCE)

    job_worker.start("q", handle)
    orchestrator.publish_message("q", image_job())
    assert began.wait(PATIENCE)
    assert orchestrator.queue_info("q").unacknowledged == 1
    go_on.set()
    job_worker.wait_until_idle()
    assert orchestrator.queue_info("q").unacknowledged == 0


def test_waiting_until_idle_waits_for_retries(orchestrator: Orchestrator, job_worker: JobWorker) -> None:
    runs: list[str] = []

    def fail_twice(job: Job[ImageSchema]) -> None:
        runs.append(job.id)
        if len(runs) < 3:
            raise OSError("not yet")

    job_worker.start("q", fail_twice, retry=RetryPolicy(initial=0.02, jitter=0.0))
    orchestrator.publish_message("q", image_job())
    job_worker.wait_until_idle()
    assert len(runs) == 3
    assert orchestrator.dead_letters.count("q") == 0


def test_several_threads_run_several_jobs_at_once(orchestrator: Orchestrator, job_worker: JobWorker) -> None:
    together = threading.Barrier(3)

    def meet(job: Job[ImageSchema]) -> None:
        together.wait(PATIENCE)

    job_worker.start("q", meet, threads=3)
    orchestrator.publish_many("q", [image_job(str(number)) for number in range(3)])
    job_worker.wait_until_idle()
    assert not together.broken


def test_stopping_finishes_what_runs_and_gives_back_what_waits(
    orchestrator: Orchestrator, job_worker: JobWorker
) -> None:
    began, go_on = threading.Event(), threading.Event()
    ran: list[str] = []

    def handle(job: Job[ImageSchema]) -> None:
        began.set()
        assert go_on.wait(PATIENCE)
        ran.append(job.payload.input.url)

    job_worker.start("q", handle, prefetch=3)
    [running] = job_worker._running
    orchestrator.publish_many("q", [image_job(name) for name in "abc"])
    assert began.wait(PATIENCE)
    with pytest.raises(TimeoutError, match="not idle"):
        job_worker.wait_until_idle(timeout=0.05)
    stopper = threading.Thread(target=job_worker.stop)
    stopper.start()
    wait_until(running.consumer._stopping.is_set, "it is told to stop")
    go_on.set()
    stopper.join(PATIENCE)
    assert not stopper.is_alive()
    assert ran == ["a"]
    assert orchestrator.queue_status("q") == 2


def test_what_ends_a_worker_is_raised_when_it_is_stopped_or_waited_for(
    orchestrator: Orchestrator, job_worker: JobWorker
) -> None:
    def leave(job: Job[ImageSchema]) -> None:
        raise KeyboardInterrupt

    job_worker.start("q", leave)
    orchestrator.publish_message("q", image_job())
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        job_worker.wait_until_idle()
    # It was given back.
    assert orchestrator.queue_status("q") == 1


def test_a_handler_that_does_not_return_is_an_error_and_no_endless_wait() -> None:
    never, began = threading.Event(), threading.Event()

    def hang(job: Job[ImageSchema]) -> None:
        began.set()
        never.wait(PATIENCE)

    with Orchestrator(LocalClient("hanging")) as own:
        worker = JobWorker(own)
        worker.start("q", hang)
        own.publish_message("q", image_job())
        assert began.wait(PATIENCE)
        with pytest.raises(TimeoutError, match="still running"):
            worker.stop(timeout=0.02)
        never.set()


CONFTEST = """
from mindtrace_jobs.testing.fixtures import job_worker, orchestrator
"""

PROJECT = """
from mindtrace_jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.testing.fixtures import JobWorker


class TextInput(JobInput):
    text: str


class CountOutput(JobOutput):
    words: int


class CountSchema(JobSchema[TextInput, CountOutput]):
    name: str = "count_words"


def count(job: Job[CountSchema]) -> CountOutput:
    return CountOutput(words=len(job.payload.input.text.split()))


def test_counts(orchestrator, job_worker: JobWorker):
    job_worker.start("default_jobs", count)
    handle = orchestrator.submit(Job(payload=CountSchema(input=TextInput(text="one two"))))
    assert handle.result(timeout=30) == CountOutput(words=2)
    # Left on purpose.
    orchestrator.publish_message("left", Job(payload=CountSchema(input=TextInput(text=""))))


def test_sees_nothing_of_the_other_test(orchestrator):
    assert not orchestrator.client.exists("left")


def test_loses_its_worker(orchestrator, job_worker):
    def leave(job):
        raise KeyboardInterrupt

    job_worker.start("q", leave)
    orchestrator.publish_message("q", Job(payload=CountSchema(input=TextInput(text=""))))
    while orchestrator.queue_info("q").unacknowledged == 0 and not job_worker._running[0]._error:
        pass
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of a user's project; warnings are errors there too."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_words.py").write_text(PROJECT)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-v", "--rootdir", folder, folder],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_users_project_runs_its_jobs_on_a_broker_of_each_test(outcome: str) -> None:
    assert "test_counts PASSED" in outcome, outcome
    assert "test_sees_nothing_of_the_other_test PASSED" in outcome, outcome


def test_a_worker_that_died_is_an_error_of_the_users_test(outcome: str) -> None:
    assert "test_loses_its_worker ERROR" in outcome, outcome
    assert "KeyboardInterrupt()" in outcome
