"""Jobs a second of one Celery worker: typed jobs here, against plain JSON tasks and Celery's own ``pydantic=True``.

The same no-op, the same broker, pool and settings (acknowledged late on every side), one worker process that finds its
queue full. It notes the time at a job near the beginning and at the last one. "ours, plain" are the plain JSON tasks on a
worker with jobs installed. With ``--results`` each side stores its results on Redis. Rounds are interleaved; the ratios of
the medians count.

    python benchmarks/celery_workers.py [--rounds 5] [--jobs 2000] [--broker redis rabbitmq]
        [--pool solo threads prefork] [--results]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _sides import Rounds
from celery import Celery

from mindtrace.jobs import Job, Orchestrator
from tests.jobs.servers import RabbitMQServer, RedisServer

KINDS = {"ours": "ours", "ours, plain": "ours-plain", "plain JSON": "plain", "pydantic=True": "pydantic"}
#: Jobs before the clock starts: the worker is warm then.
_WARM_UP = 200
_PATIENCE = 120.0


def publish(kind: str, url: str, jobs: int, marks: tuple[str, str]) -> None:
    """Fill the queue as the kind's own publishers do, with a mark in the first counted job and in the last."""
    places = {_WARM_UP: marks[0], _WARM_UP + jobs - 1: marks[1]}
    values = [
        {"image_url": f"s3://bucket/{number}.jpg", "threshold": 0.5, "mark": places.get(number, "")}
        for number in range(_WARM_UP + jobs)
    ]
    if kind == "ours":
        from _worker_app import NoopInput, NoopSchema

        with Orchestrator.from_url(url) as orchestrator:
            orchestrator.publish_many(
                "benchmark", [Job(payload=NoopSchema(input=NoopInput.model_validate(value))) for value in values]
            )
        return
    app = Celery("publisher", broker=url, set_as_current=False)
    app.conf.task_default_queue = "benchmark"
    with app.producer_pool.acquire() as producer:
        for value in values:
            app.send_task("benchmark_noop", args=[value], producer=producer)
    app.close()


def run(kind: str, url: str, results: str, pool: str, jobs: int, folder: Path) -> tuple[float, float]:
    """Microseconds a job: by the clock, and of the processor, of all the worker's processes."""
    marks = str(folder / "first"), str(folder / "last")
    for mark in marks:
        Path(mark).unlink(missing_ok=True)
    publish(kind, url, jobs, marks)
    environment = {
        **os.environ,
        "BENCHMARK_KIND": kind,
        "BENCHMARK_BROKER": url,
        "BENCHMARK_RESULTS": results,
        "PYTHONPATH": str(Path(__file__).parent),
    }
    command = [
        *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "_worker_app", "worker", "--pool", pool),
        *("--concurrency", "1" if pool == "solo" else "2", "--loglevel", "ERROR"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + _PATIENCE
    try:
        while not all(Path(mark).exists() and Path(mark).read_text() for mark in marks):
            if time.monotonic() > deadline or worker.poll() is not None:
                raise SystemExit(f"{kind} on {pool} did not finish:\n{(folder / 'worker.log').read_text()}")
            time.sleep(0.02)
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    first, last = (tuple(map(float, Path(mark).read_text().split())) for mark in marks)
    taken, used = ((after - before) / (jobs - 1) * 1e6 for before, after in zip(first, last, strict=True))
    return taken, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--broker", nargs="+", default=["redis", "rabbitmq"])
    parser.add_argument("--pool", nargs="+", default=["solo", "threads", "prefork"])
    parser.add_argument("--results", action="store_true", help="store results on Redis")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        results = redis.url(15) if arguments.results else ""
        brokers: dict[str, Any] = {}
        if "redis" in arguments.broker:
            brokers["redis"] = redis.url
        if "rabbitmq" in arguments.broker:
            node = stack.enter_context(RabbitMQServer())
            hosts = [node.url(node.add_vhost()) for _ in KINDS]
            brokers["rabbitmq"] = lambda number: hosts[number]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for broker, url_of in brokers.items():
            for pool in arguments.pool:
                figures = Rounds()
                for _ in range(arguments.rounds):
                    for number, (name, kind) in enumerate(KINDS.items()):
                        taken, used = run(kind, url_of(number), results, pool, arguments.jobs, folder)
                        figures.note(name, value=taken)
                        figures.note(name, "cpu", value=used)
                ours = figures.median("ours")
                for name in KINDS:
                    median = figures.median(name)
                    print(
                        f"{broker:9} {pool:8} {name:14} {median:7.0f} us a job, {1e6 / median:6.0f} jobs/s, "
                        f"CPU {figures.median(name, 'cpu'):5.0f} us; "
                        f"ours is {median / ours:4.2f} times as fast",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
