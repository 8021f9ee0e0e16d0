"""A user of the server with the permissions that docs/redis.md names, and no others, can do everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import AccessDeniedError, Consumer, ExecutionStatus, Job, Orchestrator, RejectJob
from mindtrace_jobs.testing.base import receive_all
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, image_job, urls
from tests.jobs.celery.workers import close_app
from tests.jobs.redis_channels import PATIENCE, connection, consume, drain, publish, server, tracks, user
from tests.jobs.servers import RedisServer
from tests.jobs.test_redis_transport_celery import Worker, make_app

PREFIX = "site:"


def documented() -> list[str]:
    """The commands that the documentation has an administrator allow."""
    text = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    found = re.search(r"^ +(\+@read .*)$", text, re.MULTILINE)
    assert found is not None
    return found[1].split()


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server of this test: its log of what was denied is nobody else's."""
    with RedisServer() as own:
        yield own


def denied(own: RedisServer) -> list[tuple[str, str]]:
    """What the server refused to anybody, but for what redis-py tells of itself unasked (CLIENT SETINFO)."""
    with server(own.url()) as admin:
        refused = [(entry["reason"], entry["object"]) for entry in admin.acl_log()]
    return [one for one in refused if one not in (("command", "client"), ("command", "client|setinfo"))]


def do_everything(orchestrator: Orchestrator) -> None:
    ran: list[str] = []

    def handle(job: Job[ImageSchema]) -> ImageOutput:
        ran.append(job.payload.input.url)
        if ran[-1] == "reject":
            raise RejectJob("not this one")
        return ImageOutput(objects=[ran[-1]])

    for queue_type in ("fifo", "priority", "stack"):
        orchestrator.declare_queue(queue_type, queue_type)
    orchestrator.publish_many("priority", [image_job(str(number), priority=number) for number in (1, 9)])
    orchestrator.publish_message("fifo", image_job("late"), delay=0.3)
    handle_of_one = orchestrator.submit(image_job("submitted"), queue="fifo")
    cancelled = orchestrator.submit(image_job("cancelled"), queue="fifo")
    cancelled.cancel()
    orchestrator.publish_message("stack", image_job("reject"))
    orchestrator.declare_exchange("x", "topic")
    orchestrator.bind_queue("fifo", "x", "a.#")
    orchestrator.publish_message("", image_job("routed"), exchange="x", routing_key="a.b")
    consumer = Consumer(orchestrator, ["fifo", "priority", "stack"], handle, schema=ImageSchema)
    assert consumer.consume(7, timeout=PATIENCE) == 7
    assert sorted(ran) == ["1", "9", "late", "reject", "routed", "submitted"]
    assert handle_of_one.result(PATIENCE) == ImageOutput(objects=["submitted"])
    assert cancelled.status() is ExecutionStatus.CANCELLED
    assert orchestrator.queue_info("fifo").ready == 0
    [letter] = orchestrator.dead_letters.list("stack")
    assert orchestrator.dead_letters.replay("stack", letter.id or "") == [letter.id]
    with orchestrator.receiving("stack") as job:
        assert job is not None
    orchestrator.publish_many("fifo", [image_job("a"), image_job("b")])
    assert urls(receive_all(orchestrator, "fifo")) == ["a", "b"]
    orchestrator.publish_message("fifo", image_job("purged"))
    assert orchestrator.clean_queue("fifo") == 1
    orchestrator.client.delete_exchange("x")
    for queue_type in ("fifo", "priority", "stack"):
        orchestrator.delete_queue(queue_type)


@pytest.mark.parametrize(("keys", "prefix"), [(["~*", "&*"], ""), ([f"~{PREFIX}*", f"&{PREFIX}*"], PREFIX)])
def test_user_with_the_documented_permissions_does_everything(
    own: RedisServer, keys: list[str], prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    with user(own.url(), *keys, *documented()) as url:
        with Orchestrator.from_url(url, client_options={"key_prefix": prefix}) as orchestrator:
            do_everything(orchestrator)
        assert denied(own) == []
        assert "refuses CLIENT TRACKING" not in caplog.text


@pytest.mark.parametrize(("keys", "prefix"), [(["~*", "&*"], ""), ([f"~{PREFIX}*", f"&{PREFIX}*"], PREFIX)])
def test_user_with_the_documented_permissions_restores_what_ours_and_stock_consumers_left(
    own: RedisServer, keys: list[str], prefix: str
) -> None:
    with user(own.url(), *keys, *documented()) as url, server(own.url()) as admin:
        options: dict[str, Any] = {"global_keyprefix": prefix, "lease": 1.0, "visibility_timeout": 60}
        with connection(url, stock=True, global_keyprefix=prefix) as stock, connection(url, **options) as source:
            # One that vanishes; its close would restore by itself, over a connection that Kombu leaves open.
            stock.default_channel.do_restore = False
            publish(stock.default_channel, "stock")
            left = stock.default_channel.basic_get("q")
            # As if an hour had passed.
            admin.zadd(f"{prefix}unacked_index", {left.delivery_tag: 1})
            publish(stock.default_channel, "ours")
            channel = source.default_channel
            assert len(channel.store.claim([("q", False)], 1, 1).deliveries) == 1
            received = drain(source, consume(channel), 2)
            assert sorted(message.payload for message in received) == ["ours", "stock"]
            for message in received:
                message.ack()
        assert denied(own) == []
        assert not [name for name in tracks(admin) if not name.startswith(prefix)]


def test_celery_worker_of_a_user_with_the_documented_permissions_runs_tasks_and_obeys(
    own: RedisServer, tmp_path: Path
) -> None:
    keys = [f"~{PREFIX}*", f"&{PREFIX}*", f"&{PREFIX}/0.celery.pidbox", f"&{PREFIX}/0.celeryev/worker.*"]
    with user(own.url(), *keys, *documented()) as url:
        worker = Worker(url, "threads", tmp_path, prefix=PREFIX, alone=False)
        app: Any = make_app(url, PREFIX)
        try:
            assert app.send_task("add", (1, 2)).get(timeout=PATIENCE) == 3
            assert app.control.ping(timeout=2) == [{"one@test": {"ok": "pong"}}]
            worker.stop()
            assert denied(own) == []
        finally:
            worker.kill()
            close_app(app)
        with server(own.url()) as admin:
            assert not [key for key in admin.scan_iter() if not key.startswith(PREFIX.encode())]


def test_user_of_a_prefix_is_denied_whatever_lies_outside(own: RedisServer) -> None:
    with (
        user(own.url(), f"~{PREFIX}*", f"&{PREFIX}*", *documented()) as url,
        Orchestrator.from_url(url) as orchestrator,
    ):
        verbs: list[Callable[[], Any]] = [
            lambda: orchestrator.declare_queue("q"),
            lambda: orchestrator.publish_message("q", image_job()),
            lambda: orchestrator.publish_many("q", [image_job()]),
            lambda: orchestrator.receive_message("q"),
            lambda: orchestrator.queue_status("q"),
            lambda: orchestrator.submit(image_job(), queue="q"),
            lambda: Consumer(orchestrator, "q", lambda job: None).consume_until_empty(),
        ]
        for verb in verbs:
            with pytest.raises(AccessDeniedError):
                verb()


def test_user_who_lacks_a_command_is_told_so(own: RedisServer) -> None:
    with (
        user(own.url(), "~*", "&*", *documented(), "-time") as url,
        Orchestrator.from_url(url) as orchestrator,
        pytest.raises(AccessDeniedError),
    ):
        orchestrator.declare_queue("q")
