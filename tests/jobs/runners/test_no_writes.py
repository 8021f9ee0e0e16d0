"""While Redis takes no writes jobs are neither begun in vain nor run twice: those that are done are acknowledged later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from mindtrace_jobs import Consumer, Job, Orchestrator
from mindtrace_jobs.testing.models import ImageSchema, image_job
from mindtrace_jobs.testing.runners import RunnerKind, Runners
from mindtrace_jobs.testing.runners.jobs import begun, release
from tests.jobs.servers import RedisServer, wait_until

MANY = 20


def _too_few_replicas(client: Any) -> Callable[[], object]:
    client.config_set("min-replicas-to-write", 1)
    return lambda: client.config_set("min-replicas-to-write", 0)


def _demoted(client: Any) -> Callable[[], object]:
    client.replicaof("127.0.0.1", 1)  # where there is no master
    return lambda: client.replicaof("NO", "ONE")


@pytest.mark.parametrize("refuse", [_too_few_replicas, _demoted])
@pytest.mark.parametrize("tracked", [True, False])
def test_a_consumer_begins_nothing_of_what_it_holds_and_runs_nothing_twice(
    refuse: Callable[[Any], Callable[[], object]], tracked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[str] = []
    ends: list[Callable[[], object]] = []
    with (
        RedisServer() as server,
        Redis.from_url(server.url()) as client,
        Orchestrator.from_url(server.url(), client_options={"lease": 1.0}) as orchestrator,
    ):

        def handle(job: Job[ImageSchema]) -> None:
            runs.append(job.payload.input.url)
            if len(runs) == 5:
                ends.append(refuse(client))

        names = [f"job {number}" for number in range(MANY)]
        handles = [orchestrator.submit(image_job(name), queue="q") for name in names if tracked]
        if not tracked:
            orchestrator.publish_many("q", [image_job(name) for name in names])
        consumer = Consumer(orchestrator, "q", handle, schema=ImageSchema, prefetch=MANY)
        thread = threading.Thread(target=consumer.run_forever)
        thread.start()
        try:
            # Longer than the lease: each pause is twice the one before.
            wait_until(lambda: caplog.text.count("job not begun") >= 5, "it waits")
            # One may have begun before the server's word was read on the acknowledgement of the one before.
            assert len(runs) in (5, 6)
            ends[0]()
            wait_until(lambda: len(runs) >= MANY, "the others run")
            wait_until(lambda: not client.hlen("unacked"), "all are acknowledged")
        finally:
            consumer.stop()
            thread.join()
        assert runs == names
        assert orchestrator.queue_status("q") == 0
        assert [handle.status().value for handle in handles] == ["completed"] * len(handles)


@pytest.fixture
def own_runners(
    request: pytest.FixtureRequest, new_redis_url: Callable[[], str], tmp_path: Path
) -> Iterator[tuple[Runners, Any]]:
    """Runners of the parameter's kind on a server of their own, whose results are elsewhere, and a client of the server."""
    kind: RunnerKind = request.param
    with (
        RedisServer() as server,
        Redis.from_url(server.url()) as client,
        Runners(server.url(), kind, tmp_path, results=new_redis_url()) as runners,
    ):
        yield runners, client


@pytest.mark.parametrize("own_runners", ["consumer", "solo", "threads", "prefork"], indirect=True)
def test_no_runner_runs_a_job_twice_since_it_could_not_be_acknowledged(own_runners: tuple[Runners, Any]) -> None:
    runners, client = own_runners
    queue = runners.new_name()
    runner = runners.new(queue, prefetch=MANY).start().wait_ready()
    paths = [runners.new_path() for _ in range(MANY)]
    handles = [
        runners.submit("work" if number else "wait", queue=queue, path=str(path)) for number, path in enumerate(paths)
    ]
    runners.wait_begun(paths[0])
    end = _too_few_replicas(client)
    release(paths[0])
    runners.wait(lambda: "NOREPLICAS" in runner.log, "the server's refusal is noticed")
    end()
    for handle in handles:
        runners.ended(handle)
    runners.wait_empty(queue)
    assert [len(begun(path)) for path in paths] == [1] * MANY


@pytest.mark.parametrize("own_runners", ["consumer", "solo", "threads", "prefork", "gevent"], indirect=True)
def test_a_runner_outlives_a_server_that_answers_a_new_connection_and_takes_no_writes(
    own_runners: tuple[Runners, Any],
) -> None:
    # As one that has just taken over for another, and has no replica of its own yet.
    runners, client = own_runners
    queue = runners.new_name()
    runner = runners.new(queue).start().wait_ready()
    runners.ended(runners.submit(queue=queue))
    end = _too_few_replicas(client)
    client.client_kill_filter(_type="normal", skipme=True)
    runners.wait(lambda: "NOREPLICAS" in runner.log, "the server's refusal is noticed")
    end()
    runners.ended(runners.submit(queue=queue))
    assert runner.alive
