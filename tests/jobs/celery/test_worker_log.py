"""Every log record of a job in a worker says which job it is: id, name, queue and attempt. Those of plain tasks do not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import Job
from mindtrace_jobs.celery import cancel
from mindtrace_jobs.logs import FIELDS
from tests.jobs.celery.models import SecretDeed, SecretInput, SecretSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import RedisServer, wait_until

PATIENCE = 60.0
QUEUE = "detection_jobs"
NAME = "watched_detection"
APP = "tests.jobs.celery.watched"


@pytest.fixture(scope="module")
def broker(own_redis: RedisServer) -> Iterator[Broker]:
    broker = Broker("redis", own_redis.url(1), own_redis.url(2))
    yield broker
    broker.close()


def submit(broker: Broker, deed: SecretDeed) -> str:
    return broker.orchestrator.submit(
        Job(payload=SecretSchema(input=SecretInput(secret="x", deed=deed))), queue=QUEUE
    ).id


class FormattedLog:
    """A worker's log whose format names the fields."""

    FORMAT = "<%(job_id)s %(job_name)s %(queue)s %(attempt)s> %(message)s"

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def fields(self, message: str) -> list[str]:
        """Of each line with a message, oldest first."""
        return re.findall(rf"^<(.*)> {message}$", self.worker.log.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def formatted(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FormattedLog]:
    worker = Worker(
        broker,
        tmp_path_factory.mktemp("formatted"),
        pool="prefork",
        app=APP,
        environment={"STACK_LOG_FORMAT": FormattedLog.FORMAT},
    ).wait_ready()
    yield FormattedLog(worker)
    worker.close()


def test_a_format_may_name_the_job(formatted: FormattedLog, broker: Broker) -> None:
    job_id = submit(broker, "retry")
    formatted.worker.wait_logged(f"Task {NAME}[{job_id}] succeeded")
    first, second = (f"{job_id} {NAME} {QUEUE} {attempt}" for attempt in (1, 2))
    for message in ("a plain logger's line", "a task logger's line", "the context's line"):
        assert formatted.fields(message)[-2:] == [first, second]
    name = re.escape(f"Task {NAME}[{job_id}]")
    assert formatted.fields(f"{name} retry: .*") == [first]
    assert formatted.fields(f"{name} succeeded in .*") == [second]


def test_what_is_printed_in_a_job_is_named_too(formatted: FormattedLog, broker: Broker) -> None:
    job_id = submit(broker, "print")
    formatted.worker.wait_logged("printed")
    assert formatted.fields("printed") == [f"{job_id} {NAME} {QUEUE} 1"]


def test_a_dead_letter_is_logged_with_its_job(formatted: FormattedLog, broker: Broker) -> None:
    job_id = submit(broker, "retry for ever")
    formatted.worker.wait_logged(f"job {job_id} dead-lettered")
    assert formatted.fields(f"job {job_id} dead-lettered .*") == [f"{job_id} {NAME} {QUEUE} 2"]


def test_plain_tasks_and_the_worker_itself_have_a_dash_for_each_field(formatted: FormattedLog, broker: Broker) -> None:
    broker.plain.send_task("watched.plain").get(timeout=PATIENCE)
    assert formatted.fields("a plain task's line") == ["- - - -"]
    assert formatted.fields(r"\S+ ready\.") == ["- - - -"]
    assert not formatted.worker.logged("Logging error")


class OwnHandler:
    """What a handler of the stack's own, on the root logger, has got."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def records(self) -> list[dict[str, Any]]:
        lines = self.worker.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


@pytest.fixture(scope="module")
def own(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnHandler]:
    worker = Worker(
        broker,
        tmp_path_factory.mktemp("own"),
        pool="threads",
        concurrency=2,
        queues=("own_jobs",),
        app=APP,
        environment={"STACK_OWN_HANDLER": "yes"},
    ).wait_ready()
    yield OwnHandler(worker)
    worker.close()


def test_a_projects_own_handlers_get_the_fields_and_plain_tasks_records_stay_as_they_are(
    own: OwnHandler, broker: Broker
) -> None:
    done = broker.plain.send_task("watched.plain", queue="own_jobs")
    done.get(timeout=PATIENCE)
    job = Job(payload=SecretSchema(input=SecretInput(secret="x")))
    broker.orchestrator.submit(job, queue="own_jobs").result(PATIENCE)
    own.worker.wait_logged(f"Task {NAME}[{job.id}] succeeded")
    records = own.records()
    (of_job,) = [record for record in records if record["message"] == "a plain logger's line"]
    assert [of_job[field] for field in FIELDS] == [job.id, NAME, "own_jobs", 1]
    (of_plain,) = [record for record in records if record["message"] == "a plain task's line"]
    about_plain = [record for record in records if done.id in record["message"]]
    assert len(about_plain) == 2  # received, succeeded
    for record in (of_plain, *about_plain):
        assert not set(FIELDS) & set(record)


def test_handlers_that_take_records_apart_get_no_data_either(own: OwnHandler, broker: Broker) -> None:
    sent = broker.plain.send_task(NAME, kwargs={"secret": "unmistakable-secret"}, queue="own_jobs")
    own.worker.wait_logged(f"Task {NAME}[{sent.id}] succeeded")
    (succeeded,) = [record for record in own.records() if f"[{sent.id}] succeeded" in record["message"]]
    assert succeeded["data"]["return_value"] == "<SecretOutput>"
    assert not own.worker.logged("unmistakable-secret")


def test_every_line_of_this_packages_own_about_a_job_has_the_fields(
    own: OwnHandler, broker: Broker, tmp_path: Path
) -> None:
    orchestrator = broker.orchestrator
    cancelled = orchestrator.submit(Job(payload=SecretSchema(input=SecretInput(secret="x"))), queue="elsewhere_jobs")
    assert cancelled.cancel()
    delivery = orchestrator.client.get("elsewhere_jobs")
    assert delivery is not None
    orchestrator.client.publish(delivery.message, queue="own_jobs")
    delivery.acknowledge()
    stopped = orchestrator.submit(
        Job(payload=SecretSchema(input=SecretInput(secret="x", deed="until cancelled"))), queue="own_jobs"
    )
    wait_until(lambda: stopped.record().progress is not None, "progress")
    assert cancel(broker.app, stopped.id)
    unknown = broker.plain.send_task("watched_nothing", queue="own_jobs")
    own.worker.wait_logged(f"job {unknown.id} dead-lettered")
    own.worker.wait_logged(f"job {stopped.id} was cancelled: stopped")
    own.worker.wait_logged(f"job {cancelled.id} was cancelled: skipped")
    about = [
        record
        for record in own.records()
        if record["name"].startswith("mindtrace_jobs.")
        and any(job_id in record["message"] for job_id in (unknown.id, stopped.id, cancelled.id))
    ]
    assert {record["action"]: [record[field] for field in FIELDS] for record in about} == {
        "dead_letter_job": [unknown.id, "watched_nothing", "own_jobs", 1],
        "stop_job": [stopped.id, NAME, "own_jobs", 1],
        "skip_job": [cancelled.id, NAME, "own_jobs", 1],
    }
