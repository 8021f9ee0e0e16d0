"""This package beside bare clients, stock Kombu and Celery, dramatiq, taskiq and FastStream, on the same server in the same run.

Each figure is of a process of its own that does one thing with one library: publish jobs one by one, or run those that
wait, with a handler that validates the same small Pydantic model and returns. The sides take turns, round after round, so
that whatever else the machine does hits all alike; what counts are the ratios of the medians. The Celery workers are
those of ``celery_workers.py``: a worker that finds its queue full.

What the sides promise differs, and is part of the price: ours holds each job until it is done, counts its starts and
loses none; see the notes in the table that ``--write`` makes.

    pip install --group bench
    python benchmarks/peers.py [--rounds 5] [--jobs 1000] [--broker redis rabbitmq] [--only publish submit consume workers]
        [--pool solo threads prefork] [--write docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from _sides import Rounds
from celery_workers import run as run_worker

from tests.jobs.servers import RabbitMQServer, RedisServer

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Side:
    """One line of a table: what it is called, and the module and the verb that do it."""

    name: str
    module: str
    verb: str


OURS = "mindtrace_jobs"
#: Tables, by what is done. The first line of each is the one that others are compared with.
TABLES: dict[str, list[Side]] = {
    "publish": [
        Side(OURS, "ours", "publish"),
        Side("bare client", "bare", "publish"),
        Side("Celery, no results", "stock", "publish"),
        Side("dramatiq", "dramatiq_", "publish"),
        Side("taskiq", "taskiq_", "publish"),
        Side("FastStream", "faststream_", "publish"),
    ],
    "submit": [
        Side(f"{OURS}, submit", "ours", "submit"),
        Side(f"{OURS}, publish", "ours", "publish"),
        Side("Celery, with results", "stock", "submit"),
        Side("taskiq, with results", "taskiq_", "submit"),
    ],
    "consume": [
        Side(f"{OURS}, Consumer", "ours", "consume"),
        Side(f"{OURS}, 50 held ready", "ours", "consume, 50 ready"),
        Side(f"{OURS}, with results", "ours", "tracked"),
        Side(f"{OURS}, with results, 50 held ready", "ours", "tracked, 50 ready"),
        Side("bare client", "bare", "consume"),
        Side("Kombu", "stock", "consume"),
        Side("dramatiq", "dramatiq_", "consume"),
        Side("taskiq", "taskiq_", "consume"),
        Side("taskiq, with results", "taskiq_", "tracked"),
        Side("FastStream", "faststream_", "consume"),
    ],
}
#: The Celery workers: what they are called, and their kind there.
WORKERS = {OURS: "ours", "stock, acks_late": "plain", "stock, early": "plain-early"}
POOLS = ("solo", "threads", "prefork")
_TITLES = {
    "publish": "Publishing jobs one by one",
    "submit": "Publishing jobs whose status and result are kept",
    "consume": "Running jobs in one process, one at a time",
}
_PATIENCE = 180
_PACKAGES = ("dramatiq", "faststream", "taskiq", "taskiq_aio_pika", "taskiq_redis")


def measure(side: Side, kind: str, url: str, results: str, jobs: int) -> tuple[float, float]:
    """Microseconds a job: by the clock, and of the processor."""
    command = [sys.executable, "-W", "ignore", "-m", "_peers", side.module, side.verb, kind, url, results]
    found = subprocess.run(
        [*command, f"peers_{uuid4().hex}", str(jobs)],
        cwd=_HERE,
        env={**os.environ, "PYTHONPATH": str(_HERE)},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if found.returncode:
        raise SystemExit(f"{side.name}, {side.verb}, on {kind}:\n{found.stderr}")
    clock, processor = map(float, found.stdout.split()[-2:])
    return clock, processor


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and the third."""
    first, _, third = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return first, third


def table(title: str, names: list[str], figures: Rounds) -> Iterator[str]:
    """Markdown: jobs a second, the spread, the processor's time, and how many times as fast as the side the first one is."""
    yield f"### {title}"
    yield ""
    yield "| | jobs/s | quartiles | CPU, µs a job | the first is … times as fast |"
    yield "|---|---:|---:|---:|---:|"
    first = figures.median(names[0])
    for name in names:
        low, high = quartiles(figures.values(name))
        yield (
            f"| {name} | {1e6 / figures.median(name):,.0f} | {1e6 / high:,.0f} to {1e6 / low:,.0f} "
            f"| {figures.median(name, 'cpu'):,.0f} | {figures.median(name) / first:.2f} |"
        )
    yield ""


def peers(kind: str, url: str, results: str, what: str, rounds: int, jobs: int) -> list[str]:
    sides, figures = TABLES[what], Rounds()
    for number in range(rounds):
        # Nobody is always the first of a round.
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            clock, processor = measure(side, kind, url, results, jobs)
            figures.note(side.name, value=clock)
            figures.note(side.name, "cpu", value=processor)
    return list(table(f"{_TITLES[what]}, {kind}", [side.name for side in sides], figures))


def workers(kind: str, url: str, results: str, pool: str, rounds: int, jobs: int) -> list[str]:
    figures = Rounds()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, worker in WORKERS.items():
                clock, processor = run_worker(worker, url, results, pool, jobs, Path(folder))
                figures.note(name, value=clock)
                figures.note(name, "cpu", value=processor)
    kept = "with results" if results else "no results"
    return list(table(f"Celery worker, pool {pool}, {kind}, {kept}", list(WORKERS), figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--broker", nargs="+", default=["redis", "rabbitmq"])
    parser.add_argument("--only", nargs="+", default=[*TABLES, "workers"])
    parser.add_argument("--pool", nargs="+", default=POOLS, help="of the Celery workers")
    parser.add_argument("--write", type=Path, help="a Markdown file for the tables, beside printing them")
    arguments = parser.parse_args()
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} not installed: pip install --group bench")
    lines: list[str] = []

    def say(more: list[str]) -> None:
        print("\n".join(more), flush=True)
        lines.extend(more)
        if arguments.write:  # what there is, should this be interrupted
            arguments.write.write_text("\n".join([*_head(arguments), *lines]).rstrip() + "\n")

    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        places = {"redis": (redis.url(0), redis.url(0))}
        if "rabbitmq" in arguments.broker:
            places["rabbitmq"] = stack.enter_context(RabbitMQServer()).url(), redis.url(1)
        for kind in arguments.broker:
            url, results = places[kind]
            for what in TABLES:
                if what in arguments.only:
                    say(peers(kind, url, results, what, arguments.rounds, arguments.jobs))
            if "workers" in arguments.only:
                for pool in arguments.pool:
                    for kept in ("", results):
                        say(workers(kind, url, kept, pool, arguments.rounds, arguments.jobs))


def _head(arguments: argparse.Namespace) -> list[str]:
    names = ("celery", "kombu", "dramatiq", "taskiq", "taskiq-redis", "taskiq-aio-pika", "faststream", "redis", "amqp")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    only = "" if len(arguments.only) == len(TABLES) + 1 else f" --only {' '.join(arguments.only)}"
    return (
        (_HERE / "_peers" / "head.md")
        .read_text()
        .format(
            command=f"python benchmarks/peers.py --rounds {arguments.rounds} --jobs {arguments.jobs}{only}",
            rounds=arguments.rounds,
            versions=versions,
            python=sys.version.split()[0],
            cores=os.cpu_count(),
        )
        .splitlines()
    )


if __name__ == "__main__":
    main()
