"""Publish, batch publish, receive and consume, each as a ratio to bare Kombu with JSON on the same server in the same run.

Bare Kombu is what a user would write without this package: one connection, one Producer, a SimpleQueue-like get and
acknowledge, a Consumer with drain_events; ``model_dump`` before, ``model_validate`` after. On RabbitMQ it publishes
with ``confirm_publish``, as ours does, and once without. "submit" publishes jobs whose status and results are kept,
and "tracked" is our Consumer on these; with RabbitMQ they are kept on a Redis of their own. Jobs are made beforehand.
Rounds are interleaved (ours, Kombu, ours, ...), so that whatever else the machine does hits both sides alike; only
the ratio of the medians means something. Above 1: ours takes more time.

    python benchmarks/backends.py [--rounds 7] [--jobs 500] [--backend local redis rabbitmq]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from _sides import Bare, Ours, Rounds, make_jobs, timed

from tests.jobs.servers import RabbitMQServer, RedisServer


@contextmanager
def servers(backends: list[str]) -> Iterator[dict[str, tuple[str, str, str | None]]]:
    """URLs for ours, for Kombu, and for results that are kept elsewhere, on servers of this run."""
    with ExitStack() as stack:
        urls: dict[str, tuple[str, str, str | None]] = {}
        if "local" in backends:
            urls["local"] = ("memory://benchmark", "memory://", None)
        if "redis" in backends:
            url = stack.enter_context(RedisServer()).url()
            urls["redis"] = (url, url, None)
        if "rabbitmq" in backends:
            url = stack.enter_context(RabbitMQServer()).url()
            urls["rabbitmq"] = (url, url, stack.enter_context(RedisServer()).url())
        yield urls


def measure(name: str, ours_url: str, bare_url: str, results: str | None, rounds: int, count: int) -> None:
    ours = Ours(ours_url, results)
    sides: dict[str, Any] = {"Kombu": Bare(bare_url)}
    if name == "rabbitmq":
        sides["Kombu, confirmed"] = Bare(bare_url, confirm=True)
    figures = Rounds()
    for number in range(rounds + 1):
        jobs = make_jobs(count)
        times: list[tuple[str, str, float]] = [
            ("ours", "publish", timed(ours.publish, jobs)),
            ("ours", "receive", timed(ours.receive, jobs)),
            ("ours", "publish_many", timed(ours.publish_many, jobs)),
            ("ours", "consume", timed(ours.consume, jobs)),
        ]
        for side, bare in sides.items():
            times.append((side, "publish", timed(bare.publish, jobs)))
            times.append((side, "receive", timed(bare.receive, jobs)))
            bare.publish(jobs)
            times.append((side, "consume", timed(bare.consume, jobs)))
        if ours.orchestrator.results.configured:
            times.append(("ours", "submit", timed(ours.submit, jobs := make_jobs(count))))
            times.append(("ours", "tracked", timed(ours.consume, jobs)))
        if number:  # the first round warms up
            for side, action, microseconds in times:
                figures.note(side, action, value=microseconds)

    # What of ours is held against what of Kombu's: it has no batch and no results.
    actions = {"publish": "publish", "publish_many": "publish", "receive": "receive", "consume": "consume"}
    if ours.orchestrator.results.configured:
        actions |= {"submit": "publish", "tracked": "consume"}
    for side in sides:
        for action, other in actions.items():
            mine, yardstick = figures.median("ours", action), figures.median(side, other)
            print(
                f"{name:9} {action:13} {mine:8.1f} us a job; {side:17} {yardstick:8.1f} us; "
                f"ratio {mine / yardstick:5.2f}, {yardstick / mine:5.1f} times as fast",
                flush=True,
            )
    for side in (ours, *sides.values()):
        side.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--backend", nargs="+", default=["local", "redis", "rabbitmq"])
    arguments = parser.parse_args()
    with servers(arguments.backend) as urls:
        for name, (ours_url, bare_url, results) in urls.items():
            measure(name, ours_url, bare_url, results, arguments.rounds, arguments.jobs)


if __name__ == "__main__":
    main()
