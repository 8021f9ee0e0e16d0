"""The way back to stock Kombu and Celery that docs/redis.md describes loses no job."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Producer

from mindtrace_jobs import Job, Orchestrator
from mindtrace_jobs.testing.models import image_job
from tests.jobs.loss.plan import QUEUE, Kind
from tests.jobs.loss.processes import Options, lines, start
from tests.jobs.loss.publishing import StockPublisher
from tests.jobs.redis_channels import connection, consume, drain, server, tracks
from tests.jobs.servers import wait_until
from tests.jobs.servers.process import ServerProcess

#: Seconds; long, so that nothing but stock's own visibility timeout brings anything back.
LEASE = 600.0
VISIBILITY = 1.0


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """Kills what was started."""
    with ExitStack() as stack:
        yield stack


def _options(url: str, folder: Path, worker: str, *, work: float, stock: bool) -> Options:
    return Options(
        url=url,
        record=str(folder / "record"),
        worker=worker,
        work=work,
        lease=VISIBILITY if stock else LEASE,
        prefetch=4,
        stock=stock,
    )


def _start(stack: ExitStack, kind: Kind, options: Options, folder: Path) -> ServerProcess:
    process = start(kind, options, folder)
    stack.callback(process.kill)
    return process


def _stock(url: str) -> Any:
    return connection(url, stock=True, visibility_timeout=VISIBILITY, unacked_restore_throttle=1)


def _restored(channel: Any, client: Any) -> bool:
    """Have stock look for what dead consumers held, as a timer of its worker's does; whether it put all back."""
    channel.qos.restore_visible(interval=1)
    return not client.exists("unacked")


def _remove_our_keys(client: Any) -> None:
    """The last step: nothing of this package runs any more."""
    client.delete(*client.keys("mindtrace.*"))


@pytest.mark.parametrize("queue_type", ["fifo", "priority"])
def test_stock_kombu_finds_every_job_of_a_queue_after_a_killed_worker(
    redis_url: str, tmp_path: Path, processes: ExitStack, queue_type: str
) -> None:
    # given: jobs of several priorities, some delayed, some in the hands of a worker that is killed
    with Orchestrator.from_url(redis_url, client_options={"lease": LEASE}) as orchestrator, server(redis_url) as client:
        orchestrator.declare_queue(QUEUE, queue_type)
        jobs: list[Job[Any]] = [image_job(f"#{number}#", priority=number % 10) for number in range(20)]
        soon = image_job("#20#")
        if queue_type == "fifo":
            for job in jobs:
                job.priority = 0
        orchestrator.publish_many(QUEUE, jobs)
        orchestrator.publish_message(QUEUE, soon, delay=0.3)
        worker = _start(processes, Kind.OURS, _options(redis_url, tmp_path, "killed", work=600, stock=False), tmp_path)
        wait_until(lambda: client.hlen("unacked") == 4, "the worker holds its prefetch")
        worker.kill()

        # when: delayed jobs are waited for, by a consumer that takes one job and gives the rest back
        with orchestrator.receiving(QUEUE, timeout=10) as taken:
            assert taken is not None
        done = {taken.id}
        wait_until(lambda: _moved(orchestrator, client), "the delayed job is due")
    stock = _stock(redis_url)
    try:
        # and: stock Kombu takes over
        with server(redis_url) as client:
            channel = stock.default_channel
            wait_until(lambda: _restored(channel, client), "stock restores what the killed worker held")
            received = drain(stock, consume(channel, [QUEUE]), 20)
            for message in received:
                message.ack()

            # then
            ids = [message.headers["id"] for message in received]
            assert len(set(ids)) == 20
            assert set(ids) | done == {job.id for job in [*jobs, soon]}
            _remove_our_keys(client)
            assert not tracks(client)
            # What is left is Kombu's own: its bindings.
            assert {key.partition(b".")[0] for key in client.scan_iter()} <= {b"_kombu"}
    finally:
        stock.release()


def _moved(orchestrator: Orchestrator, client: Any) -> bool:
    # Looking at a queue moves what is due into it.
    orchestrator.queue_status(QUEUE)
    return not client.exists(f"{QUEUE}\x06\x16delayed")


def test_a_stock_celery_worker_runs_every_task_that_ours_left(
    redis_url: str, tmp_path: Path, processes: ExitStack
) -> None:
    # given: tasks, and a worker of this package at work on them
    tasks = StockPublisher(redis_url, tasks=True)
    tasks.publish(range(30))
    first = _start(
        processes, Kind.CELERY_THREADS, _options(redis_url, tmp_path, "ours", work=0.05, stock=False), tmp_path
    )
    record = tmp_path / "record"
    wait_until(lambda: len(lines(record)) >= 4, "it works")

    # when: it is stopped in order, another one is killed, and a stock worker starts
    first.send_signal(signal.SIGTERM)
    wait_until(lambda: not first.running, "it has stopped")
    with server(redis_url) as client:
        assert not tracks(client)
        killed = _start(
            processes, Kind.CELERY_THREADS, _options(redis_url, tmp_path, "killed", work=600, stock=False), tmp_path
        )
        wait_until(lambda: client.hlen("unacked") >= 8, "another one holds its prefetch")
        killed.kill()
        stock = _start(
            processes, Kind.STOCK_CELERY, _options(redis_url, tmp_path, "stock", work=0.0, stock=True), tmp_path
        )
        wait_until(lambda: {number for _, number in lines(record)} == set(range(30)), "every task was run")
        wait_until(lambda: not {"unacked", "unacked_index"} & tracks(client), "every task is acknowledged")
        stock.terminate(timeout=30)

        # then: each was done once, and nothing is left but our own keys, which may go
        assert sorted(number for _, number in lines(record)) == list(range(30))
        assert not client.exists(QUEUE)
        _remove_our_keys(client)
        assert not tracks(client)


def test_stock_does_not_read_delayed_jobs_so_they_are_waited_for_first(redis_url: str) -> None:
    with Orchestrator.from_url(redis_url) as orchestrator, server(redis_url) as client:
        due = datetime.now(UTC) + timedelta(hours=1)
        orchestrator.publish_message(QUEUE, image_job(), eta=due)
        assert client.zcard(f"{QUEUE}\x06\x16delayed") == 1
        with Connection(redis_url) as stock:
            assert stock.default_channel.basic_get(QUEUE) is None
            # Published by stock, a time is left to the worker.
            Producer(stock.default_channel, auto_declare=False).publish(
                {}, exchange="", routing_key=QUEUE, headers={"eta": due.isoformat()}
            )
            assert stock.default_channel.basic_get(QUEUE) is not None
