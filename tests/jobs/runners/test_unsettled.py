"""What the broker does not take waits aside: the handler does not run again, and those behind it run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from redis import Redis

from mindtrace_jobs.testing.runners import RunnerKind, Runners
from mindtrace_jobs.testing.runners.checks import check_completed, completed, outcome
from mindtrace_jobs.testing.runners.jobs import begun, release
from mindtrace_jobs.wire.message import Message
from tests.jobs.servers import RabbitMQServer, RedisServer

#: More than any runner of these tests holds at a time.
MANY = 12


def _refuse_dead_letters(runners: Runners, queue: str) -> Callable[[], object]:
    """Have the broker take no dead letter of a queue; returns what ends it."""
    letters, broker = f"{queue}.dlq", runners.options.broker
    if broker.startswith("redis"):
        with Redis.from_url(broker) as client:
            client.set(letters, "no list")

        def delete() -> None:
            with Redis.from_url(broker) as client:
                client.delete(letters)

        return delete
    with Connection(broker) as connection:
        arguments = {"x-max-length": 0, "x-overflow": "reject-publish"}
        connection.default_channel.queue_declare(letters, durable=True, auto_delete=False, arguments=arguments)
    return lambda: runners.orchestrator.delete_queue(letters)


@pytest.mark.parametrize(
    "runners",
    [
        *(f"redis-{kind}" for kind in ("consumer", "solo", "threads", "prefork", "gevent")),
        *(f"rabbitmq-{kind}" for kind in ("consumer", "solo", "threads", "prefork")),
    ],
    indirect=True,
)
def test_jobs_whose_dead_letters_are_refused_wait_aside_and_do_not_run_again(runners: Runners) -> None:
    queue = runners.new_name()
    runner = runners.new(queue).start().wait_ready()
    end = _refuse_dead_letters(runners, queue)
    strange = Message(b"[[], {}, {}]", {"id": "strange", "task": "nobody's"}, "application/json", "utf-8")
    runners.orchestrator.client.publish(strange, queue=queue)
    paths = [runners.new_path() for _ in range(MANY)]
    handles = [runners.submit("reject", queue=queue, path=str(path)) for path in paths]
    behind = [runners.submit(queue=queue, text=f"behind {number}") for number in range(3)]
    assert [outcome(runners.ended(handle)) for handle in behind] == [
        completed(f"behind {number}") for number in range(3)
    ]
    for path in paths:
        runners.wait_begun(path)
    end()
    for job_id in ["strange", *(handle.id for handle in handles)]:
        runners.dead_letter(job_id, queue)
    runners.wait_empty(queue)
    assert runners.orchestrator.dead_letters.count(queue) == MANY + 1
    assert [len(begun(path)) for path in paths] == [1] * MANY
    assert runner.alive
    # And it receives as many at a time as before.
    check_completed(runners, runners.submit(queue=queue, text="after"), "after", starts=1, queue=queue)


@pytest.fixture
def full_runners(
    request: pytest.FixtureRequest, new_redis_url: Callable[[], str], tmp_path: Path
) -> Iterator[tuple[Runners, Callable[[str], object]]]:
    """Runners of the parameter's kind, whose results are elsewhere, and what sets their server's ``maxmemory``."""
    kind: RunnerKind = request.param
    with (
        RedisServer() as server,
        Redis.from_url(server.url()) as client,
        Runners(server.url(), kind, tmp_path, results=new_redis_url()) as runners,
    ):
        yield runners, lambda limit: client.config_set("maxmemory", limit)


@pytest.mark.parametrize("full_runners", ["consumer", "solo", "threads", "prefork"], indirect=True)
def test_jobs_are_retried_and_dead_lettered_by_a_redis_without_memory(
    full_runners: tuple[Runners, Callable[[str], object]],
) -> None:
    runners, limit = full_runners
    queue = runners.new_name()
    runners.new(queue).start().wait_ready()
    first, *paths = (runners.new_path() for _ in range(4))
    waiting = runners.submit("wait", queue=queue, path=str(first), text="first")
    actions = ["fail once", "reject", "fail"]
    handles = [
        runners.submit(action, queue=queue, path=str(path), text=action)
        for action, path in zip(actions, paths, strict=True)
    ]
    runners.wait_begun(first)
    limit("1")
    release(first)
    check_completed(runners, waiting, "first", starts=1, queue=queue)
    check_completed(runners, handles[0], "fail once", starts=2, queue=queue)
    assert runners.dead_letter(handles[1].id, queue).reason == "rejected"
    assert runners.dead_letter(handles[2].id, queue).reason == "retries-exhausted"
    assert [len(begun(path)) for path in paths] == [2, 1, 3]
    limit("0")


@pytest.mark.parametrize("kind", ["consumer", "prefork"])
def test_jobs_run_through_a_memory_alarm_of_rabbitmq_and_are_settled_once_behind_it(
    kind: RunnerKind, new_redis_url: Callable[[], str], tmp_path: Path
) -> None:
    with (
        RabbitMQServer() as server,
        Runners(server.url(), kind, tmp_path, results=new_redis_url()) as runners,
    ):
        queue = runners.new_name()
        runners.new(queue).start().wait_ready()
        first, *paths = (runners.new_path() for _ in range(3))
        waiting = runners.submit("wait", queue=queue, path=str(first), text="first")
        actions = ["fail once", "reject"]
        handles = [
            runners.submit(action, queue=queue, path=str(path), text=action)
            for action, path in zip(actions, paths, strict=True)
        ]
        behind = runners.submit(queue=queue, text="behind")
        runners.wait_begun(first)
        server.rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
        release(first)
        check_completed(runners, waiting, "first", starts=1, queue=queue)
        check_completed(runners, behind, "behind", starts=1, queue=queue)
        for path in paths:
            runners.wait_begun(path)
        server.rabbitmqctl("set_vm_memory_high_watermark", "0.6")
        check_completed(runners, handles[0], "fail once", starts=2, queue=queue)
        runners.dead_letter(handles[1].id, queue)
        runners.wait_empty(queue)
        assert runners.orchestrator.dead_letters.count(queue) == 1
        assert [len(begun(path)) for path in paths] == [2, 1]


@pytest.mark.parametrize("runners", ["redis-consumer", "redis-prefork", "rabbitmq-prefork"], indirect=True)
def test_a_runner_that_stops_gives_back_what_waits_to_be_settled(runners: Runners) -> None:
    queue = runners.new_name()
    runner = runners.new(queue).start().wait_ready()
    end = _refuse_dead_letters(runners, queue)
    path = runners.new_path()
    handle: Any = runners.submit("reject", queue=queue, path=str(path))
    runners.wait(lambda: "waits to be settled" in runner.log, "it waits")
    runner.stop()
    assert runners.orchestrator.queue_status(queue) == 1
    end()
    runners.new(queue).start()
    assert runners.dead_letter(handle.id, queue).reason == "rejected"
    runners.wait_empty(queue)
