"""On Redis the record of a job is written in the same step as its message begins and ends, in Celery's own format."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import redis
from celery import Celery

from mindtrace_jobs import ConfigurationError, Consumer, ExecutionStatus, Job, JobsError, Orchestrator
from mindtrace_jobs.results import JobState, ResultStore
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, image_job
from mindtrace_jobs.transports.contract import Record
from tests.jobs.celery.workers import ROOT
from tests.jobs.redis_channels import connection, get, publish, server, vanish
from tests.jobs.servers import RedisServer, wait_until

KEY = "celery-task-meta-x"
WHEN = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def record(state: str, more: str = "") -> Record:
    return Record(KEY, json.dumps({"status": state, "result": more}), 60, f"{KEY}.cancel")


def state(client: redis.Redis) -> str | None:
    value: Any = client.get(KEY)
    return json.loads(value)["status"] if value else None


@pytest.fixture
def channel(redis_url: str) -> Iterator[Any]:
    with connection(redis_url) as source:
        publish(source.default_channel, "body")
        yield source.default_channel


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with server(redis_url) as client:
        yield client


def detect(job: Job[ImageSchema]) -> ImageOutput:
    return ImageOutput(objects=[job.payload.input.url])


def test_a_message_begins_and_ends_together_with_its_record(channel: Any, client: redis.Redis) -> None:
    message = get(channel)
    assert channel.start(message.delivery_tag, record("STARTED"))
    assert state(client) == "STARTED"
    assert client.hlen("mindtrace.started") == 1
    channel.ack_nowait(message.delivery_tag, record("SUCCESS"))
    channel.close()
    assert state(client) == "SUCCESS"
    assert 0 < int(client.ttl(KEY)) <= 60
    assert not client.exists("unacked", "mindtrace.started")


def test_a_cancelled_message_is_not_begun_and_its_record_stays(channel: Any, client: redis.Redis) -> None:
    message = get(channel)
    client.set(KEY, record("REVOKED").value)
    client.set(f"{KEY}.cancel", "1")
    assert not channel.start(message.delivery_tag, record("STARTED"))
    assert state(client) == "REVOKED"
    assert not client.exists("mindtrace.started")
    assert client.hlen("unacked") == 1


def test_a_success_is_never_taken_back_by_a_second_delivery(channel: Any, client: redis.Redis) -> None:
    client.set(KEY, record("SUCCESS", "the first").value)
    message = get(channel)
    assert channel.start(message.delivery_tag, record("STARTED"))
    channel.ack_nowait(message.delivery_tag, record("FAILURE"))
    channel.close()
    assert json.loads(client.get(KEY) or "") == {"status": "SUCCESS", "result": "the first"}


def test_a_record_that_cannot_be_written_keeps_no_message_from_being_settled(
    channel: Any, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.lpush(KEY, "somebody else's")
    publish(channel, "other")
    message, other = get(channel), get(channel)
    assert channel.start(message.delivery_tag, record("STARTED"))
    channel.ack_nowait(message.delivery_tag, record("SUCCESS"))
    channel.acknowledge(other.delivery_tag, record("SUCCESS"))
    assert not channel.lost_deliveries
    assert not client.exists("unacked", "mindtrace.started", "mindtrace.leases")
    assert client.lrange(KEY, 0, -1) == [b"somebody else's"]
    assert [one.message for one in caplog.records if "could not be written" in one.message] == [
        f"the record of a job, {KEY!r}, could not be written: WRONGTYPE Operation against a key holding the wrong kind of value"
    ] * 3


def test_while_the_key_of_a_record_holds_something_else_jobs_run_once(redis_url: str, client: redis.Redis) -> None:
    ran: list[str] = []
    with Orchestrator.from_url(redis_url) as orchestrator:
        handle = orchestrator.submit(image_job("first"), queue="q")
        client.delete(f"celery-task-meta-{handle.id}")
        client.lpush(f"celery-task-meta-{handle.id}", "somebody else's")
        orchestrator.submit(image_job("second"), queue="q")

        def note(job: Job[ImageSchema]) -> None:
            ran.append(job.payload.input.url)

        assert Consumer(orchestrator, "q", note).consume_until_empty() == 2
        assert ran == ["first", "second"]
        with pytest.raises(ConfigurationError, match="result of a task"):
            orchestrator.declare_queue(f"celery-task-meta-{handle.id}")


def test_who_lost_the_lease_writes_no_record(channel: Any, client: redis.Redis) -> None:
    message = get(channel)
    assert channel.start(message.delivery_tag, record("STARTED", "mine"))
    vanish(channel, message.delivery_tag)
    channel.ack_nowait(message.delivery_tag, record("SUCCESS"))
    channel.close()
    assert state(client) == "STARTED"
    assert client.llen("q") == 1


@pytest.mark.parametrize("status", [ExecutionStatus.RUNNING, ExecutionStatus.COMPLETED])
def test_the_record_is_what_celerys_backend_would_write(
    redis_url: str, client: redis.Redis, status: ExecutionStatus
) -> None:
    state = JobState(
        "a",
        "conformance_image",
        status,
        output=ImageOutput(objects=["x"]) if status.final else None,
        starts=2,
        losses=1,
        queued_at=WHEN,
        started_at=WHEN,
        completed_at=WHEN if status.final else None,
        worker="w",
    )
    store = ResultStore(redis_url, inline=True)
    record = store.inline_record(state)
    assert record is not None
    store.save(state)
    by_celery = json.loads(client.get(record.key) or "")
    if status.final:
        by_celery["date_done"] = WHEN.isoformat()  # Celery takes the time at which it writes
    assert json.loads(record.value) == by_celery
    assert record.seconds == client.ttl(record.key)
    assert ResultStore(redis_url).inline_record(state) is None  # the broker keeps it only where it is the same server
    store.close()


def test_a_tracked_job_costs_one_round_trip(redis_url: str) -> None:
    with Orchestrator.from_url(redis_url) as orchestrator, server(redis_url) as client:
        handles = [orchestrator.submit(image_job(str(number)), queue="q") for number in range(100)]
        client.config_resetstat()
        assert Consumer(orchestrator, "q", detect, prefetch=100).consume(num_messages=100) == 100
        calls: dict[str, Any] = client.info("commandstats")
        asked = {name.removeprefix("cmdstat_"): value["calls"] for name, value in calls.items()}
        # Inside the scripts a few commands more; from outside one script for each job, and a few to come and go.
        assert asked.get("get", 0) == 0
        assert asked["evalsha"] + asked.get("eval", 0) < 120
        assert [handle.result() for handle in handles] == [ImageOutput(objects=[str(n)]) for n in range(100)]


def test_whoever_waits_with_celerys_own_result_is_told(redis_url: str) -> None:
    app = Celery("waiting", backend=redis_url, set_as_current=False)
    app.conf.update(accept_content=["pydantic", "json"], result_serializer="pydantic")
    with Orchestrator.from_url(redis_url) as orchestrator:
        waiting, go_on = threading.Event(), threading.Event()

        def wait_for_it(job: Job[ImageSchema]) -> ImageOutput:
            waiting.set()
            assert go_on.wait(30)
            return detect(job)

        handle = orchestrator.submit(image_job("a"), queue="q")
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", wait_for_it)
        worker = threading.Thread(target=consumer.consume, args=(1,))
        worker.start()
        assert waiting.wait(30)
        result = app.AsyncResult(handle.id)
        assert result.state == "STARTED"
        result.then(lambda _: None)  # subscribes before the job ends
        go_on.set()
        assert result.get(timeout=30) == ImageOutput(objects=["a"])
        worker.join(30)
        assert handle.status() is ExecutionStatus.COMPLETED
        app.backend.result_consumer.stop()
        app.backend.client.close()
        app.close()


# --- submitted: the record and the message in one step

_SUBMITTING = """
import sys
from mindtrace_jobs import Orchestrator
from mindtrace_jobs.testing.models import image_job
with Orchestrator.from_url(sys.argv[1]) as orchestrator:
    print("up", flush=True)
    while True:
        orchestrator.submit(image_job(), queue="q", **({"delay": 3600} if len(sys.argv) > 2 else {}))
"""


def recorded(client: Any) -> set[str]:
    return {key.decode().removeprefix("celery-task-meta-") for key in client.keys("celery-task-meta-*")}


def more_than(client: Any, count: int) -> bool:
    return len(recorded(client)) > count


@pytest.mark.parametrize("arguments", [(), ("delayed",)])
def test_no_kill_of_a_producer_leaves_a_record_without_its_job(
    redis_url: str, client: redis.Redis, arguments: tuple[str, ...]
) -> None:
    for number in range(12):
        command = [sys.executable, "-c", _SUBMITTING, redis_url, *arguments]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as producer:
            assert producer.stdout is not None
            producer.stdout.readline()
            wait_until(partial(more_than, client, number), "it has submitted more")
            producer.kill()
    waiting: list[Any] = client.zrange("q\x06\x16delayed", 0, -1) if arguments else client.lrange("q", 0, -1)
    ids = {json.loads(raw[raw.index(b"{") :])["headers"]["id"] for raw in waiting}
    assert recorded(client) == ids


@pytest.mark.parametrize("why", ["full", "read-only", "wrong type"])
def test_a_job_that_is_refused_leaves_no_record(own_redis_server: RedisServer, why: str) -> None:
    with Orchestrator.from_url(own_redis_server.url(9)) as orchestrator, server(own_redis_server.url(9)) as admin:
        orchestrator.submit(image_job("first"), queue="q")
        before = recorded(admin)
        try:
            if why == "full":
                admin.config_set("maxmemory", 1)
            elif why == "read-only":
                admin.config_set("min-replicas-to-write", 1)
            else:
                admin.set("other", "somebody else's")
            with pytest.raises(JobsError):
                orchestrator.submit(image_job("second"), queue="other" if why == "wrong type" else "q")
        finally:
            admin.config_set("maxmemory", 0)
            admin.config_set("min-replicas-to-write", 0)
        assert recorded(admin) == before
        assert orchestrator.queue_status("q") == 1
        admin.flushdb()


def test_submitting_an_id_again_forgets_that_its_earlier_job_was_cancelled(redis_url: str, client: redis.Redis) -> None:
    with Orchestrator.from_url(redis_url) as orchestrator:
        handle = orchestrator.submit(image_job(), queue="q")
        assert handle.cancel()
        assert orchestrator.receive_message("q") is None
        again = orchestrator.submit(image_job().model_copy(update={"id": handle.id}), queue="q")
        assert again.status() is ExecutionStatus.QUEUED
        assert not client.exists(f"celery-task-meta-{handle.id}.cancel")
        assert Consumer(orchestrator, "q", detect, schema=ImageSchema).consume_until_empty() == 1
        assert again.status() is ExecutionStatus.COMPLETED


def test_a_record_goes_to_a_queue_only(channel: Any) -> None:
    with pytest.raises(NotImplementedError, match="not to an exchange"):
        publish(channel, "x", exchange="amq.direct", routing_key="q", record=record("PENDING"))
