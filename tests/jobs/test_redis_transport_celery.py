"""An ordinary Celery worker runs plain tasks over the Redis transport, in each pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis.exceptions import ResponseError

from mindtrace_jobs.transports import our_url, register_aliases
from tests.jobs.redis_channels import PATIENCE, server, tracks
from tests.jobs.servers import wait_until

LEASE = 1.0
_ALONE = ("--without-gossip", "--without-mingle")

PROGRAM = """
import os, sys, time
from celery import Celery
from tests.jobs.test_redis_transport_celery import make_app
app = make_app(os.environ["TEST_BROKER"], os.environ["TEST_PREFIX"])
"""


def make_app(url: str, prefix: str = "") -> Any:
    """The app of the test and of its workers, with a prefix before its keys."""
    register_aliases()
    app = Celery("tests", broker=our_url(url), backend=url, set_as_current=False)
    app.conf.update(
        broker_transport_options={"lease": LEASE, "global_keyprefix": prefix},
        result_backend_transport_options={"global_keyprefix": prefix},
        broker_connection_retry_on_startup=True,
        worker_prefetch_multiplier=4,
        task_reject_on_worker_lost=True,
    )

    @app.task(name="add", shared=False)  # type: ignore[untyped-decorator]
    def add(one: int, two: int) -> int:
        return one + two

    @app.task(name="work", acks_late=True, shared=False)  # type: ignore[untyped-decorator]
    def work(seconds: float) -> int:
        with server(url) as client:
            client.incr("runs")
        time.sleep(seconds)
        return os.getpid()

    return app


class Worker:
    """A Celery worker in a process of its own, which takes no notice of others if it is ``alone``."""

    def __init__(
        self, url: str, pool: str, folder: Path, name: str = "one", *, prefix: str = "", alone: bool = True
    ) -> None:
        self.log = folder / f"{name}.log"
        (folder / "worker_app.py").write_text(PROGRAM)
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root), str(folder)])
        arguments = ["-A", "worker_app", "worker", "-P", pool, "-c", "2", "-l", "info", "-n", f"{name}@test"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments, *(_ALONE if alone else ())],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path, "TEST_BROKER": url, "TEST_PREFIX": prefix},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._ready, "the worker is ready")

    def _ready(self) -> bool:
        text = self.log.read_text()
        assert self.process.poll() is None, text
        return " ready." in text

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture
def app(redis_url: str) -> Iterator[Any]:
    app = make_app(redis_url)
    yield app
    app.close()
    app.backend.client.connection_pool.disconnect()


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork", "gevent"])
def test_worker_runs_tasks_obeys_remote_control_keeps_eta_and_long_tasks_and_stops_in_order(
    app: Any, redis_url: str, tmp_path: Path, pool: str
) -> None:
    worker = Worker(redis_url, pool, tmp_path)
    try:
        # So many that a turn of the event loop that sleeps with work before it, a second each time, is seen.
        results = [app.send_task("add", (number, 1)) for number in range(400)]
        end = time.monotonic() + PATIENCE
        assert [result.get(timeout=end - time.monotonic()) for result in results] == list(range(1, 401))
        assert app.control.ping(timeout=2) == [{"one@test": {"ok": "pong"}}]
        # Held for more than two leases before it starts, and longer than a lease at work.
        later = app.send_task("work", (0.1,), countdown=2.2)
        long = app.send_task("work", (2.2,))
        long.get(timeout=PATIENCE)
        later.get(timeout=PATIENCE)
        with server(redis_url) as client:
            assert int(client.get("runs")) == 2
        worker.stop()
        with server(redis_url) as client:
            assert not tracks(client)
        assert "Traceback" not in worker.log.read_text()
        assert "lease of" not in worker.log.read_text()
    finally:
        worker.kill()


def test_tasks_of_a_killed_worker_run_on_another_one(app: Any, redis_url: str, tmp_path: Path) -> None:
    first = Worker(redis_url, "prefork", tmp_path, "first")
    second = None
    try:
        results = [app.send_task("work", (0.5,)) for _ in range(6)]
        with server(redis_url) as client:
            wait_until(lambda: client.get("runs") == b"2", "the first worker is at work")
            wait_until(lambda: client.hlen("unacked") == 6, "it has prefetched the rest")
        first.kill()
        second = Worker(redis_url, "threads", tmp_path, "second")
        assert [result.get(timeout=PATIENCE) for result in results] == [second.process.pid] * 6
        second.stop()
        with server(redis_url) as client:
            assert not tracks(client)
    finally:
        first.kill()
        if second is not None:
            second.kill()


def test_worker_goes_on_after_its_connections_are_killed(app: Any, redis_url: str, tmp_path: Path) -> None:
    worker = Worker(redis_url, "threads", tmp_path)
    database = redis_url.rpartition("/")[2]
    try:
        for number in range(3):
            with server(redis_url) as client:
                for one in client.client_list():
                    if one["db"] == database and one["id"] != str(client.client_id()):
                        with suppress(ResponseError):
                            client.client_kill_filter(_id=one["id"])
                app.send_task("work", (0,), ignore_result=True)
                wait_until(partial(_ran, client, number + 1), "it has run")
        worker.stop()
    finally:
        worker.kill()


def _ran(client: Any, count: int) -> bool:
    return int(client.get("runs") or 0) >= count
