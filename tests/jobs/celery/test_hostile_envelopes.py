"""Whatever stands on a queue's key on Redis, no pool of a Celery worker ends for it, and what waits behind it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from mindtrace_jobs import Job
from mindtrace_jobs.wire.message import Message, encode
from tests.jobs.celery.models import DetectionInput, DetectionSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.envelopes import hostile_envelopes
from tests.jobs.servers import wait_until

PATIENCE = 30.0
QUEUE = "detection_jobs"


@pytest.fixture(scope="module", params=["solo", "threads", "prefork", "gevent"])
def worker(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp(request.param)
    worker = Worker(broker, folder, pool=request.param, concurrency=2, prefetch=4).wait_ready()
    yield worker
    worker.close()


def a_job() -> Message:
    return encode(Job(payload=DetectionSchema(input=DetectionInput(image="hostile"))))


def a_plain_task() -> Message:
    headers = {"task": "stack.add", "id": "plain", "lang": "py", "retries": 0}
    return Message(b"[[1, 2], {}, {}]", headers, "application/json", "utf-8", {"correlation_id": "plain"})


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
@pytest.mark.parametrize("make", [a_job, a_plain_task])
def test_a_worker_outlives_every_envelope(make: object, worker: Worker, broker: Broker, tmp_path: Path) -> None:
    assert callable(make)
    pid = worker.process.pid
    with redis.Redis.from_url(broker.url) as client:
        client.lpush(QUEUE, *hostile_envelopes(make()))
    handle = broker.orchestrator.submit(Job(payload=DetectionSchema(input=DetectionInput(image="behind"))))
    assert handle.result(PATIENCE) is not None
    wait_until(lambda: not broker.orchestrator.queue_status(QUEUE), "an empty queue")
    wait_until(lambda: not broker.orchestrator.queue_info(QUEUE).unacknowledged, "the end of what was received")
    assert worker.running
    assert worker.process.pid == pid
    assert not worker.logged("Unrecoverable error")
