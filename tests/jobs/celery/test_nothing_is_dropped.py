"""Each way in which Celery drops a message, and the same message on a worker with jobs installed.

The plain worker beside it shows the loss; without that the other would prove nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mindtrace_jobs import ExecutionStatus, Job, JobFailedError
from mindtrace_jobs._serializer_entry import CONTENT_TYPE
from mindtrace_jobs.wire.message import encode
from mindtrace_jobs.wire.packing import decompressed
from tests.jobs.celery.models import DeedInput, DeedOutput, DeedSchema, DetectionInput, DetectionSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.servers import wait_until

JSON = "application/json"
QUEUE = "detection_jobs"


def task_headers(job_id: str, task: Any = "stack.add", **more: Any) -> dict[str, Any]:
    return {
        "task": task,
        "id": job_id,
        "lang": "py",
        "retries": 0,
        "root_id": job_id,
        "parent_id": None,
        "group": None,
    } | more


#: name -> body, headers, content type, reason
BAD: dict[str, tuple[bytes | str, dict[str, Any], str, str]] = {
    "an undecodable body": (b"{not json", task_headers("undecodable"), JSON, "undecodable"),
    "a content type that is not accepted": (
        b"x",
        task_headers("content"),
        "application/x-python-serialize",
        "undecodable",
    ),
    "no task message": (b'{"hello": 1}', {}, JSON, "undecodable"),
    "an unknown task": (b"[[], {}, {}]", task_headers("unknown", "stack.nobody"), JSON, "unknown-type"),
    "invalid arguments": (b"[[], {}, {}]", task_headers("arguments", eta=5), JSON, "undecodable"),
}
#: Those that end a stock worker, with every one of its restarts.
FATAL: dict[str, tuple[bytes | str, dict[str, Any], str, str]] = {
    "a body of one word": (b'"hello"', task_headers("word"), JSON, "undecodable"),
    "a body of a number": (b"5", task_headers("number"), JSON, "undecodable"),
    "an empty body": (b"", task_headers("empty"), JSON, "undecodable"),
    "a third part that is a list": (b"[[], {}, [1]]", task_headers("third", timelimit=[1, 2, 3]), JSON, "undecodable"),
    "no id": (b"[[], {}, {}]", {"task": "stack.add"}, JSON, "undecodable"),
}


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(broker, tmp_path_factory.mktemp("installed"), pool="prefork").wait_ready()
    yield worker
    worker.close()


def letter(broker: Broker, job_id: str | None, queue: str = QUEUE) -> Any:
    """The dead letter of a job, waited for."""

    def find() -> list[Any]:
        return [found for found in broker.orchestrator.dead_letters.list(queue, 1000) if found.id == job_id]

    wait_until(find, f"the dead letter of {job_id}")
    return find()[0]


def still_works(broker: Broker) -> bool:
    return bool(broker.plain.send_task("stack.add", args=[1, 1]).get(timeout=30) == 2)


@pytest.mark.parametrize("case", [*BAD, *FATAL])
def test_a_bad_message_is_dead_lettered_as_it_was_and_the_worker_goes_on(
    case: str, worker: Worker, broker: Broker
) -> None:
    body, headers, content_type, reason = {**BAD, **FATAL}[case]
    broker.orchestrator.dead_letters.purge(QUEUE)
    broker.publish(QUEUE, body, headers, content_type)
    found = letter(broker, headers.get("id"))
    assert found.body == (body if isinstance(body, bytes) else body.encode())
    assert {name: found.headers.get(name) for name in headers} == headers
    assert found.content_type == content_type
    assert (found.reason, found.queue, found.worker) == (reason, QUEUE, worker.name)
    assert found.error
    assert found.at is not None
    if "id" in headers:
        wait_until(lambda: broker.plain.AsyncResult(headers["id"]).state == "FAILURE", "the recorded failure")
    assert still_works(broker)


@pytest.mark.parametrize("case", list(BAD))
def test_control_a_stock_worker_loses_it(case: str, broker: Broker, start_worker: Callable[..., Worker]) -> None:
    body, headers, content_type, _ = BAD[case]
    queue = f"stock {case}"
    broker.publish(queue, body, headers, content_type)
    stock = start_worker(installed=False, queues=("celery", queue), pool="prefork")
    assert still_works(broker)
    wait_until(lambda: broker.orchestrator.queue_status(queue) == 0, "the message's end")
    stock.stop()
    info = broker.orchestrator.queue_info(queue)
    assert (info.ready, info.dead_lettered) == (0, 0)


@pytest.mark.parametrize("case", ["a body of one word", "an empty body"])
def test_control_a_stock_worker_dies_of_it_and_so_does_its_successor(
    case: str, broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    body, headers, content_type, _ = FATAL[case]
    queue = f"fatal {case}"
    broker.publish(queue, body, headers, content_type)
    for _ in range(2 if broker.kind == "rabbitmq" else 1):
        stock = start_worker(installed=False, queues=(queue,))
        wait_until(lambda stock=stock: not stock.running, "the worker's end")  # type: ignore[misc]
        assert stock.logged("Unrecoverable error")


def submit(broker: Broker, **deed: Any) -> Any:
    return broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput(**deed))))


@pytest.mark.parametrize(
    ("deed", "reason", "error_type"),
    [
        ("fail", "retries-exhausted", "LookupError"),
        ("reject", "rejected", "RejectJob"),
        ("wrong output", "invalid-output", "InvalidOutputError"),
    ],
)
def test_a_job_that_fails_for_good_is_dead_lettered(
    deed: str, reason: str, error_type: str, worker: Worker, broker: Broker
) -> None:
    handle = submit(broker, deed=deed)
    with pytest.raises(JobFailedError) as failure:
        handle.result(30)
    found = letter(broker, handle.id)
    assert (found.reason, found.error_type, failure.value.error_type) == (reason, error_type, error_type)
    assert found.job().payload.input == DeedInput(deed=deed)  # type: ignore[arg-type]
    assert found.worker == worker.name


def test_retries_are_counted_before_a_job_is_dead_lettered(worker: Worker, broker: Broker, tmp_path: Any) -> None:
    handle = submit(broker, deed="work", path=str(tmp_path / "no such folder" / "file"))
    with pytest.raises(JobFailedError):
        handle.result(30)
    found = letter(broker, handle.id)
    assert (found.reason, found.error_type, found.retries) == ("retries-exhausted", "FileNotFoundError", 1)


def test_invalid_input_is_dead_lettered(worker: Worker, broker: Broker) -> None:
    sent = broker.plain.send_task("stack_detection", kwargs={"wrong": 1}, queue=QUEUE)
    found = letter(broker, sent.id)
    assert (found.reason, found.error_type) == ("invalid-input", "InvalidInputError")
    assert "image: Field required" in found.error


def test_invalid_input_in_our_own_format_is_dead_lettered(worker: Worker, broker: Broker) -> None:
    job = Job(payload=DetectionSchema(input=DetectionInput(image="x")))
    message = encode(job)
    broken = message.body.replace(b'"threshold":0.5', b'"threshold":"high"')
    assert broken != message.body
    broker.publish(QUEUE, broken, message.headers, CONTENT_TYPE)
    assert letter(broker, job.id).reason == "invalid-input"
    assert broker.orchestrator.job_record(job.id).errors[0]["type"] == "float_parsing"
    assert broker.orchestrator.job_status(job.id) is ExecutionStatus.FAILED


def test_an_unknown_schema_is_dead_lettered(worker: Worker, broker: Broker) -> None:
    job = Job(payload=DetectionSchema(input=DetectionInput(image="x")))
    message = encode(job)
    body = message.body.replace(b"stack_detection", b"nobodys_schema").replace(
        b"tests.jobs.celery.models:", b"elsewhere:"
    )
    broker.publish(QUEUE, body, message.headers, CONTENT_TYPE)
    assert letter(broker, job.id).reason == "unknown-type"


def test_an_expired_job_is_dead_lettered(worker: Worker, broker: Broker) -> None:
    job = Job(payload=DeedSchema(input=DeedInput()))
    handle = broker.orchestrator.submit(job, expires=-1.0)
    with pytest.raises(JobFailedError, match="expired"):
        handle.result(30)
    assert letter(broker, job.id).reason == "expired"


def send_limited(broker: Broker, deed: DeedInput, **limits: float) -> Any:
    job = Job(payload=DeedSchema(input=deed))
    return broker.app.send_task(
        "stack_deed_detection", args=[job], serializer="pydantic", queue=QUEUE, task_id=job.id, **limits
    )


@pytest.mark.parametrize(
    ("limit", "error_type"), [("time_limit", "TimeLimitExceeded"), ("soft_time_limit", "SoftTimeLimitExceeded")]
)
def test_a_job_over_its_time_limit_is_dead_lettered(
    limit: str, error_type: str, worker: Worker, broker: Broker
) -> None:
    sent = send_limited(broker, DeedInput(deed="hang"), **{limit: 1})
    found = letter(broker, sent.id)
    assert (found.reason, found.error_type) == ("time-limit", error_type)
    wait_until(lambda: sent.state == "FAILURE", "the recorded failure")
    assert type(sent.result).__name__ == error_type


def test_a_job_may_catch_its_soft_time_limit_and_end_well(worker: Worker, broker: Broker, tmp_path: Any) -> None:
    path = tmp_path / "deeds"
    sent = send_limited(broker, DeedInput(deed="catch", path=str(path)), soft_time_limit=1)
    assert sent.get(timeout=30) == DeedOutput(attempt=1)
    assert path.read_text().splitlines() == ["begin 1", "time is up", "end 1"]


def test_a_dead_letter_is_replayed_as_it_was(worker: Worker, broker: Broker, tmp_path: Any) -> None:
    folder = tmp_path / "later"
    handle = submit(broker, path=str(folder / "deeds"))
    with pytest.raises(JobFailedError):
        handle.result(30)
    letter(broker, handle.id)
    folder.mkdir()
    assert broker.orchestrator.dead_letters.replay(QUEUE, handle.id) == [handle.id]
    wait_until(lambda: handle.status() is ExecutionStatus.COMPLETED, "the replayed job's end")
    assert (folder / "deeds").read_text().splitlines() == ["begin 1", "end 1"]


def test_compressed_messages_are_dead_lettered_as_they_came(worker: Worker, broker: Broker) -> None:
    sent = broker.plain.send_task("stack.nobody", args=[["x"] * 500], queue=QUEUE, compression="gzip")
    found = letter(broker, sent.id)
    assert json.loads(decompressed(found.body, found.headers["compression"]))[0] == [["x"] * 500]


@pytest.mark.parametrize("limits", [["a", "b"], [-1, None], [True, None], [0, 0.0], [1], "ab", {"a": 1}])
def test_time_limits_that_the_pool_cannot_count_down_are_refused(broker: Broker, worker: Worker, limits: Any) -> None:
    job = Job(payload=DetectionSchema(input=DetectionInput(image="x")))
    message = encode(job)
    broker.orchestrator.client.publish(
        dataclasses.replace(message, headers={**message.headers, "timelimit": limits}), queue="detection_jobs"
    )
    letter = broker.dead_letter("detection_jobs", job.id)
    assert (letter.reason, letter.body) == ("undecodable", message.body)
    assert worker.running
