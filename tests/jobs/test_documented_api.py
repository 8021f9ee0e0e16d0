"""The API as its user documented it runs as written, block by block, on every backend."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import ValidationError

import mindtrace.jobs
from mindtrace.jobs import (
    ExecutionStatus,
    Job,
    JobInput,
    JobOutput,
    JobSchema,
    LocalClient,
    Orchestrator,
    RabbitMQClient,
    RedisClient,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "documented-api.md"


@dataclass(frozen=True)
class Block:
    """One Python code block of the document."""

    number: int
    line: int
    source: str

    @property
    def legacy(self) -> bool:
        """Whether it shows what no longer works."""
        return "job_schema=" in self.source


def python_blocks() -> list[Block]:
    text = DOCUMENT.read_text()
    return [
        Block(number, text.count("\n", 0, found.start(1)) + 1, found[1])
        for number, found in enumerate(re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL), 1)
    ]


def run(block: Block, names: dict[str, Any]) -> None:
    # Blank lines in front: a traceback then points into the document.
    code = compile("\n" * (block.line - 1) + block.source, str(DOCUMENT), "exec")
    exec(code, names)


class DetectionInput(JobInput):
    image_url: str


class DetectionOutput(JobOutput):
    objects: list[str]
    confidence: float


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    name: str = "object_detection"


def process_detection(given: DetectionInput) -> SimpleNamespace:
    assert type(given) is DetectionInput
    assert given.image_url == "s3://bucket/image.jpg"
    return SimpleNamespace(objects=["car"], confidence=0.9)


@pytest.fixture
def orchestrator(backend_url: str) -> Iterator[Orchestrator]:
    with Orchestrator.from_url(backend_url) as orchestrator:
        yield orchestrator


@pytest.fixture
def names(orchestrator: Orchestrator) -> dict[str, Any]:
    """What the document uses and does not define."""
    return {
        "__name__": "documented_api",
        "os": os,
        "DetectionInput": DetectionInput,
        "DetectionOutput": DetectionOutput,
        "DetectionSchema": DetectionSchema,
        "ExecutionStatus": ExecutionStatus,
        "process_detection": process_detection,
    }


def test_the_document_has_its_blocks() -> None:
    blocks = python_blocks()
    assert len(blocks) == 10
    assert [block.number for block in blocks if block.legacy] == [9]


def test_every_block_runs_as_written_in_order(
    orchestrator: Orchestrator, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    clients: list[type] = []
    for block in python_blocks():
        if block.legacy:
            with pytest.raises(ValidationError) as caught:
                run(block, names)
            for field, remedy in (("job_schema", "payload"), ("backend_type", "client"), ("queue_name", "publish")):
                assert field in str(caught.value)
                assert remedy in str(caught.value)
            assert "routing_key" in str(caught.value)
            continue
        run(block, names)
        if isinstance(made := names.get("orchestrator"), Orchestrator) and made is not orchestrator:
            # Made for a host of the document's author: constructing connects to nothing, using it here cannot work.
            clients.append(type(made.client))
            made.close()
            names["orchestrator"] = orchestrator

    assert clients == [LocalClient, RedisClient, RabbitMQClient]
    assert "Pending jobs: 0" in capsys.readouterr().out
    trained = names["schema"]
    assert trained.input.model_dump() == {"model_path": "/models/v1", "epochs": 100, "batch_size": 32}
    last = names["job"]
    assert isinstance(last, Job)
    assert (last.payload, last.entrypoint, last.name) == (trained, "train.py", "vbrain_training")


def test_the_detection_job_is_processed_as_documented(orchestrator: Orchestrator, names: dict[str, Any]) -> None:
    names |= {"orchestrator": orchestrator, "Job": Job}
    publish = next(block for block in python_blocks() if "publish_message(" in block.source)
    process = next(block for block in python_blocks() if "receive_message(" in block.source)
    run(publish, names)
    sent = names["job"]
    assert orchestrator.queue_status("detection_jobs") == 1
    run(process, names)
    received = names["job"]
    assert received is not sent
    assert received.id == "detection_001"
    assert received.status is ExecutionStatus.COMPLETED
    assert received.payload.output == DetectionOutput(objects=["car"], confidence=0.9)
    run(process, names)  # nothing left: `if job` guards it
    assert names["job"] is None


def test_the_queue_block_counts_and_cleans(
    orchestrator: Orchestrator, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    names["orchestrator"] = orchestrator
    block = next(block for block in python_blocks() if "clean_queue(" in block.source)
    job = Job(payload=DetectionSchema(input=DetectionInput(image_url="x")))
    orchestrator.publish_many("vbrain_jobs", [job, job.model_copy(update={"id": "second"})])
    run(block, names)
    assert names["count"] == 2
    assert "Pending jobs: 2" in capsys.readouterr().out
    assert orchestrator.queue_status("vbrain_jobs") == 0


@pytest.mark.parametrize(
    ("name", "queue"),
    [("vbrain_training", "vbrain_jobs"), ("object_detection", "detection_jobs"), ("report", "default_jobs")],
)
def test_the_cluster_pattern_submits_to_its_queues(
    backend_url: str,
    orchestrator: Orchestrator,
    names: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    queue: str,
) -> None:
    """``ClusterJobManager`` as written; only the ports, virtual host and database of the test's servers are supplied."""
    parts = urlsplit(backend_url)

    def redis_client(host: str) -> RedisClient:
        return RedisClient(host=host, port=parts.port or 0, db=int(parts.path.lstrip("/")))

    def rabbitmq_client(host: str, username: str, password: str) -> RabbitMQClient:
        return RabbitMQClient(
            host=host, port=parts.port or 0, username=username, password=password, virtual_host=unquote(parts.path[1:])
        )

    names |= {
        "Job": Job,
        "Orchestrator": Orchestrator,
        "LocalClient": lambda: LocalClient(parts.netloc),
        "RedisClient": redis_client,
        "RabbitMQClient": rabbitmq_client,
    }
    host = parts.hostname or ""
    monkeypatch.setenv("REDIS_HOST", host)
    monkeypatch.setenv("RABBITMQ_HOST", host)
    monkeypatch.setenv("RABBITMQ_USER", unquote(parts.username or ""))
    monkeypatch.setenv("RABBITMQ_PASS", unquote(parts.password or ""))
    environment = {"memory": "development", "redis": "production", "amqp": "enterprise"}[parts.scheme]
    run(next(block for block in python_blocks() if "class ClusterJobManager" in block.source), names)

    manager = names["ClusterJobManager"](environment)
    job: Job[Any] = Job(name=name, payload=DetectionSchema(input=DetectionInput(image_url="x")))
    assert manager.submit_job(job) == job.id
    assert orchestrator.receive_message(queue) == job
    manager.orchestrator.close()


def test_the_cluster_pattern_runs_in_memory_without_anything_supplied(names: dict[str, Any]) -> None:
    names |= {name: getattr(mindtrace.jobs, name) for name in ("Job", "Orchestrator", "LocalClient")}
    run(next(block for block in python_blocks() if "class ClusterJobManager" in block.source), names)
    manager = names["ClusterJobManager"]("development")
    job: Job[Any] = Job(payload=JobSchema(name="vbrain_x", input=DetectionInput(image_url="x")))
    assert manager.submit_job(job) == job.id
    assert manager.orchestrator.receive_message("vbrain_jobs") == job
    manager.orchestrator.close()
