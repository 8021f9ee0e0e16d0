"""What monitors see: Flower shows each job by name, id and type, whatever becomes of it, and never its data."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen
from uuid import uuid4

import pytest

from mindtrace_jobs import Job, JobSchema
from mindtrace_jobs.celery import cancel
from tests.jobs.celery.models import SecretDeed, SecretInput, SecretOutput, SecretSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import free_port, wait_until
from tests.jobs.servers.process import ServerProcess

PATIENCE = 60.0
QUEUE = "detection_jobs"
SECRET = "unmistakable-secret"
APP = "tests.jobs.celery.watched"

#: What becomes of a job that does a deed, in Celery's words.
ENDS: dict[SecretDeed, str] = {
    "work": "SUCCESS",
    "retry": "SUCCESS",
    "fail": "FAILURE",
    "reject": "FAILURE",
    "retry for ever": "FAILURE",
    "retry on error": "FAILURE",
    "wrong output": "FAILURE",
    "invalid output": "FAILURE",
}


class NobodysInput(SecretInput):
    """An input that the worker does not know."""


class NobodysSchema(JobSchema[SecretInput, SecretOutput]):
    name: str = "nobodys_detection"


def _with_flower(broker: Broker) -> str:
    """A Python path on which Flower is found, which is installed beside everything else."""
    folder = Path(sys.prefix) / "flower"
    assert folder.is_dir(), f"Flower is not in {folder}: make .venv/.installed"
    return os.pathsep.join((str(folder), broker.environment["PYTHONPATH"]))


class Flower:
    """A Flower process on a broker."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = ServerProcess(
            "Flower",
            [sys.executable, "-m", "celery", "-A", APP, "flower", "--address=127.0.0.1", f"--port={port}"],
            folder=folder,
            log=folder / "flower.log",
            env={**broker.environment, "PYTHONPATH": _with_flower(broker), "FLOWER_UNAUTHENTICATED_API": "true"},
        )
        self.process.wait_for_port(("127.0.0.1", port), timeout=PATIENCE)

    def get(self, path: str) -> str:
        with urlopen(f"{self.url}{path}", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
        return text

    def tasks(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/api/tasks"))
        return found

    def state(self, job_id: str) -> str | None:
        state: str | None = self.tasks().get(job_id, {}).get("state")
        return state


@pytest.fixture(scope="module")
def flower(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    flower = Flower(broker, tmp_path_factory.mktemp("flower"))
    yield flower
    flower.process.kill()


@pytest.fixture(scope="module")
def worker(broker: Broker, flower: Flower, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(
        broker,
        tmp_path_factory.mktemp("watched"),
        pool="prefork",
        app=APP,
        arguments=("-E", "--prefetch-multiplier", "4"),
    ).wait_ready()
    wait_until(lambda: worker.name in flower.get("/api/workers?refresh=true"), "Flower to see the worker")
    yield worker
    worker.close()


def by_orchestrator(broker: Broker, deed: SecretDeed, path: str = "") -> str:
    job = Job(payload=SecretSchema(input=SecretInput(secret=SECRET, deed=deed, path=path)))
    return broker.orchestrator.submit(job, queue=QUEUE).id


def by_plain_celery(broker: Broker, deed: SecretDeed, path: str = "") -> str:
    fields = {"secret": SECRET, "deed": deed, "path": path}
    return str(broker.plain.send_task("watched_detection", kwargs=fields, queue=QUEUE, task_id=str(uuid4())).id)


PRODUCERS = {"orchestrator": by_orchestrator, "plain producer": by_plain_celery}


@pytest.fixture(params=PRODUCERS)
def publish(request: pytest.FixtureRequest) -> Callable[[Broker, SecretDeed], str]:
    return PRODUCERS[request.param]


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Path]:
    """A file that a job may wait for."""
    path = tmp_path / "go"
    yield path
    path.touch()


def everything(flower: Flower, *job_ids: str) -> str:
    """All that Flower tells of some jobs, on its pages and in its API, but for the result backend's own content."""
    columns = quote("columns[0][data]"), quote("order[0][column]")
    pages = [
        "/api/tasks",
        "/metrics",
        "/tasks",
        f"/tasks/datatable?draw=1&start=0&length=1000&{columns[0]}=name&{columns[1]}=0",
        *(f"{page}/{job_id}" for job_id in job_ids for page in ("/api/task/info", "/task")),
    ]
    return "\n".join(flower.get(page) for page in pages)


def test_jobs_are_shown_by_name_id_and_type_and_without_their_data(
    flower: Flower, worker: Worker, broker: Broker, publish: Callable[[Broker, SecretDeed], str]
) -> None:
    ids = {deed: publish(broker, deed) for deed in ENDS}
    for deed, end in ENDS.items():
        wait_until(lambda deed=deed, end=end: flower.state(ids[deed]) == end, f"{deed}: {end}")  # type: ignore[misc]
    tasks = flower.tasks()
    for job_id in ids.values():
        assert tasks[job_id]["name"] == "watched_detection"
        assert tasks[job_id]["args"] == f"(<SecretSchema job {job_id}>,)"
        assert tasks[job_id]["kwargs"] == "{}"
    assert tasks[ids["work"]]["result"] == "<SecretOutput>"
    assert "nothing there" in tasks[ids["fail"]]["exception"]
    assert SECRET not in everything(flower, *ids.values())
    assert SECRET not in worker.log.read_text()


def test_input_that_does_not_fit_is_explained_without_its_values(
    flower: Flower, worker: Worker, broker: Broker
) -> None:
    sent = broker.plain.send_task("watched_detection", kwargs={"secret": "x", "deed": SECRET}, queue=QUEUE)
    wait_until(lambda: flower.state(sent.id) == "FAILURE", "its failure")
    assert "InvalidInputError" in flower.tasks()[sent.id]["exception"]
    assert SECRET not in everything(flower, sent.id)
    assert SECRET not in worker.log.read_text()


def test_jobs_that_no_worker_can_read_are_not_printed(flower: Flower, worker: Worker, broker: Broker) -> None:
    unknown: list[Job[Any]] = [
        Job(payload=NobodysSchema(input=SecretInput(secret=SECRET))),
        Job(payload=SecretSchema(input=NobodysInput(secret=SECRET))),
    ]
    for job in unknown:
        broker.orchestrator.submit(job, queue=QUEUE)
        worker.wait_logged(f"job {job.id} dead-lettered")
    wait_until(lambda: flower.state(unknown[0].id) == "FAILURE", "its failure")
    assert SECRET not in everything(flower, unknown[0].id)
    assert SECRET not in worker.log.read_text()


def test_jobs_that_run_and_wait_are_listed_without_their_data(
    flower: Flower, worker: Worker, broker: Broker, publish: Callable[..., str], go: Path
) -> None:
    running = publish(broker, "wait", str(go))
    wait_until(lambda: flower.state(running) == "STARTED", "a running job")
    reserved = publish(broker, "work")
    scheduled = broker.plain.send_task(
        "watched_detection", kwargs={"secret": SECRET}, queue=QUEUE, countdown=3600, task_id=str(uuid4())
    ).id
    wait_until(lambda: {reserved, scheduled} <= flower.tasks().keys(), "both jobs to be received")
    lists = json.loads(flower.get(f"/api/workers?refresh=true&workername={quote(worker.name)}"))[worker.name]
    assert [task["id"] for task in lists["active"]] == [running]
    assert reserved in {task["id"] for task in lists["reserved"]}
    assert scheduled in {task["request"]["id"] for task in lists["scheduled"]}
    assert SECRET not in json.dumps(lists)
    assert SECRET not in flower.get(f"/worker/{quote(worker.name)}")
    queried = broker.plain.control.inspect(timeout=PATIENCE, limit=1).query_task(running, reserved, scheduled)
    assert SECRET not in str(queried)
    go.touch()
    wait_until(lambda: flower.state(reserved) == "SUCCESS", "the end of what waited")


def test_cancelled_jobs_do_not_seem_to_run_for_ever(flower: Flower, worker: Worker, broker: Broker) -> None:
    running = by_orchestrator(broker, "until cancelled")
    wait_until(lambda: broker.orchestrator.job_record(running).progress is not None, "progress")
    waiting = by_orchestrator(broker, "work")
    wait_until(lambda: flower.state(waiting) == "RECEIVED", "a job that waits in the worker")
    assert broker.orchestrator.cancel(waiting)
    assert cancel(broker.app, running)
    for job_id in (running, waiting):
        wait_until(lambda job_id=job_id: flower.state(job_id) == "REVOKED", "its cancellation")  # type: ignore[misc]


def test_the_log_says_of_an_output_which_type_it_is(flower: Flower, worker: Worker, broker: Broker) -> None:
    done = by_orchestrator(broker, "work")
    wait_until(lambda: flower.state(done) == "SUCCESS", "its end")
    (line,) = [line for line in worker.log.read_text().splitlines() if f"[{done}] succeeded" in line]
    assert line.endswith(": <SecretOutput>")
