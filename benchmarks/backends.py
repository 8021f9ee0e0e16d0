"""Publish, batch publish, receive and consume, each as a ratio to bare Kombu with JSON on the same server in the same run.

Bare Kombu is what a user would write without this package: one connection, one Producer, a SimpleQueue-like get and
acknowledge, a Consumer with drain_events. On RabbitMQ it publishes with ``confirm_publish``, as ours does, and once
without. Rounds are interleaved (ours, Kombu, ours, ...), so that whatever else the machine does hits both sides alike;
only the ratio of the medians means something. Above 1: ours takes more time.

    python benchmarks/backends.py [--rounds 7] [--jobs 500] [--backend local redis rabbitmq]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import kombu

from mindtrace.jobs import Consumer, Job, JobInput, JobOutput, JobSchema, Orchestrator
from tests.jobs.servers import RabbitMQServer, RedisServer


class DetectionInput(JobInput):
    """A small job."""

    image_url: str
    threshold: float = 0.5


class DetectionOutput(JobOutput):
    """Its result."""

    objects: list[str]


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    """Its name."""

    name: str = "benchmark_detection"


def make_job(number: int) -> Job[DetectionSchema]:
    return Job(payload=DetectionSchema(input=DetectionInput(image_url=f"s3://bucket/{number}.jpg")))


class Ours:
    """This package."""

    def __init__(self, url: str) -> None:
        self.orchestrator = Orchestrator.from_url(url)
        self.queue = "ours"
        self.orchestrator.declare_queue(self.queue)

    def publish(self, count: int) -> None:
        for number in range(count):
            self.orchestrator.publish_message(self.queue, make_job(number))

    def publish_many(self, count: int) -> None:
        self.orchestrator.publish_many(self.queue, [make_job(number) for number in range(count)])

    def receive(self, count: int) -> None:
        for _ in range(count):
            assert self.orchestrator.receive_message(self.queue) is not None

    def consume(self, count: int) -> None:
        done = Consumer(self.orchestrator, self.queue, lambda _: None, prefetch=50).consume(num_messages=count)
        assert done == count


class Bare:
    """Kombu and its JSON serializer, with the same data as a dict."""

    def __init__(self, url: str, *, confirm: bool) -> None:
        options = {"confirm_publish": True} if confirm else {}
        self.connection = kombu.Connection(url, transport_options=options)
        self.channel = self.connection.channel()
        self.producer = kombu.Producer(self.channel)
        self.queue = kombu.Queue("bare", kombu.Exchange("bare", type="direct"), routing_key="bare")
        self.queue(self.channel).declare()

    def publish(self, count: int) -> None:
        for number in range(count):
            body = make_job(number).model_dump(mode="json")
            self.producer.publish(body, routing_key="bare", serializer="json", delivery_mode=2)

    def receive(self, count: int) -> None:
        queue = self.queue(self.channel)
        for _ in range(count):
            message = queue.get()
            Job[DetectionSchema].model_validate(message.payload)
            message.ack()

    def consume(self, count: int) -> None:
        left = count

        def handle(body: Any, message: Any) -> None:
            nonlocal left
            Job[DetectionSchema].model_validate(body)
            message.ack()
            left -= 1

        with kombu.Consumer(self.channel, queues=[self.queue], callbacks=[handle], prefetch_count=50):
            while left:
                self.connection.drain_events(timeout=5)


@contextmanager
def servers(backends: list[str]) -> Iterator[dict[str, tuple[str, str]]]:
    """URLs for ours and for Kombu, on servers of this run."""
    with ExitStack() as stack:
        urls = {}
        if "local" in backends:
            urls["local"] = ("memory://benchmark", "memory://")
        if "redis" in backends:
            url = stack.enter_context(RedisServer()).url()
            urls["redis"] = (url, url)
        if "rabbitmq" in backends:
            url = stack.enter_context(RabbitMQServer()).url()
            urls["rabbitmq"] = (url, url)
        yield urls


def timed(action: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    action(count)
    return (time.perf_counter() - start) / count * 1e6


def measure(name: str, ours_url: str, bare_url: str, rounds: int, jobs: int) -> None:
    ours = Ours(ours_url)
    sides: dict[str, Any] = {"Kombu": Bare(bare_url, confirm=False)}
    if name == "rabbitmq":
        sides["Kombu, confirmed"] = Bare(bare_url, confirm=True)
    times: dict[tuple[str, str], list[float]] = {}

    def note(side: str, action: str, microseconds: float) -> None:
        times.setdefault((side, action), []).append(microseconds)

    for number in range(rounds + 1):
        record = note if number else (lambda *_: None)  # the first round warms up
        record("ours", "publish", timed(ours.publish, jobs))
        record("ours", "receive", timed(ours.receive, jobs))
        record("ours", "publish_many", timed(ours.publish_many, jobs))
        record("ours", "consume", timed(ours.consume, jobs))
        for side, bare in sides.items():
            record(side, "publish", timed(bare.publish, jobs))
            record(side, "receive", timed(bare.receive, jobs))
            bare.publish(jobs)
            record(side, "consume", timed(bare.consume, jobs))

    median = {key: statistics.median(values) for key, values in times.items()}
    for side in sides:
        for action in ("publish", "publish_many", "receive", "consume"):
            yardstick = median[side, "publish" if action == "publish_many" else action]
            mine = median["ours", action]
            print(
                f"{name:9} {action:13} {mine:8.1f} us a job; {side:17} {yardstick:8.1f} us; "
                f"ratio {mine / yardstick:5.2f}, {yardstick / mine:5.1f} times as fast"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--backend", nargs="+", default=["local", "redis", "rabbitmq"])
    arguments = parser.parse_args()
    with servers(arguments.backend) as urls:
        for name, (ours_url, bare_url) in urls.items():
            measure(name, ours_url, bare_url, arguments.rounds, arguments.jobs)


if __name__ == "__main__":
    main()
