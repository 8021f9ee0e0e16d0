"""What the benchmarks compare: this package, and what a user would write with bare Kombu. Shared; no benchmark itself."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import kombu

from mindtrace.jobs import Consumer, Job, JobInput, JobOutput, JobSchema, Orchestrator


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


Jobs = list[Job[DetectionSchema]]


def make_jobs(count: int) -> Jobs:
    return [
        Job(payload=DetectionSchema(input=DetectionInput(image_url=f"s3://bucket/{number}.jpg")))
        for number in range(count)
    ]


class Ours:
    """This package, through its public interface."""

    def __init__(self, url: str, results: str | None = None) -> None:
        self.orchestrator = Orchestrator.from_url(url, client_options={"result_backend": results} if results else {})
        self.queue = "ours"
        self.orchestrator.declare_queue(self.queue)

    def publish(self, jobs: Jobs) -> None:
        for job in jobs:
            self.orchestrator.publish_message(self.queue, job)

    def publish_many(self, jobs: Jobs) -> None:
        self.orchestrator.publish_many(self.queue, jobs)

    def submit(self, jobs: Jobs) -> None:
        for job in jobs:
            self.orchestrator.submit(job, queue=self.queue)

    def receive(self, jobs: Jobs) -> None:
        for _ in jobs:
            assert self.orchestrator.receive_message(self.queue) is not None

    def consume(self, jobs: Jobs) -> None:
        consumer: Consumer[DetectionSchema] = Consumer(self.orchestrator, self.queue, lambda _: None, prefetch=50)
        assert consumer.consume(num_messages=len(jobs)) == len(jobs)

    def close(self) -> None:
        self.orchestrator.close()


class Bare:
    """Kombu and its JSON serializer, with the same data as a dict, validated by the consumer."""

    def __init__(self, url: str, *, confirm: bool = False) -> None:
        options = {"confirm_publish": True} if confirm else {}
        self.connection = kombu.Connection(url, transport_options=options)
        self.channel = self.connection.channel()
        self.producer = kombu.Producer(self.channel)
        self.queue = kombu.Queue("bare", kombu.Exchange("bare", type="direct"), routing_key="bare")
        self.queue(self.channel).declare()

    def publish(self, jobs: Jobs) -> None:
        for job in jobs:
            body = job.model_dump(mode="json")
            self.producer.publish(body, exchange="bare", routing_key="bare", serializer="json", delivery_mode=2)

    def receive(self, jobs: Jobs) -> None:
        queue = self.queue(self.channel)
        for _ in jobs:
            message = queue.get()
            Job[DetectionSchema].model_validate(message.payload)
            message.ack()

    def consume(self, jobs: Jobs) -> None:
        left = len(jobs)

        def handle(body: Any, message: Any) -> None:
            nonlocal left
            Job[DetectionSchema].model_validate(body)
            message.ack()
            left -= 1

        with kombu.Consumer(self.channel, queues=[self.queue], callbacks=[handle], prefetch_count=50):
            while left:
                self.connection.drain_events(timeout=5)

    def close(self) -> None:
        self.connection.release()


def timed(action: Callable[[Jobs], Any], jobs: Jobs) -> float:
    """Microseconds for each of the jobs."""
    start = time.perf_counter()
    action(jobs)
    return (time.perf_counter() - start) / len(jobs) * 1e6


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Rounds:
    """Figures of interleaved rounds, of which only the medians count."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, ...], list[float]] = {}

    def note(self, *key: str, value: float) -> None:
        self._figures.setdefault(key, []).append(value)

    def values(self, *key: str) -> list[float]:
        return self._figures[key]

    def median(self, *key: str) -> float:
        return statistics.median(self._figures[key])
