"""From publishing a job to an idle worker's handler: p50 and p99, in memory and on Redis, ours and bare Kombu's.

The worker is a process of its own on Redis, a thread of this one in memory. One job at a time, with a pause in between, so
that the worker is idle; both sides read the machine's monotonic clock. The sides take turns.

    python benchmarks/latency.py [--jobs 1000] [--pause 0.005]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import kombu
from _sides import Bare, DetectionInput, DetectionOutput, DetectionSchema, Ours, percentile

from mindtrace.jobs import Consumer, Job, Orchestrator
from tests.jobs.servers import RedisServer


def now() -> str:
    return repr(time.monotonic())


def stamped() -> Job[DetectionSchema]:
    return Job(payload=DetectionSchema(input=DetectionInput(image_url=now())))


def report(sent: str) -> None:
    sys.stdout.write(f"{time.monotonic() - float(sent)!r}\n")
    sys.stdout.flush()


def consume_ours(url: str) -> None:
    def handle(job: Job[DetectionSchema]) -> DetectionOutput | None:
        report(job.payload.input.image_url)
        return None

    with Orchestrator.from_url(url) as orchestrator:
        Consumer(orchestrator, "ours", handle).run_forever()


def consume_bare(url: str) -> None:
    def handle(body: Any, message: Any) -> None:
        report(Job[DetectionSchema].model_validate(body).payload.input.image_url)
        message.ack()

    bare = Bare(url)
    with kombu.Consumer(bare.channel, queues=[bare.queue], callbacks=[handle], prefetch_count=1):
        while True:
            bare.connection.drain_events()


def measure(sides: dict[str, tuple[Callable[[], None], Callable[[], float]]], jobs: int, pause: float) -> None:
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(jobs + 50):
        for name, (publish, answer) in sides.items():
            publish()
            seconds = answer()
            if number >= 50:  # the first ones warm up
                taken[name].append(seconds * 1000)
            time.sleep(pause)
    for name, values in taken.items():
        print(f"{name:14} p50 {percentile(values, 0.5):6.2f} ms   p99 {percentile(values, 0.99):6.2f} ms", flush=True)


def on_redis(jobs: int, pause: float) -> None:
    with RedisServer() as server:
        url = server.url()
        ours, bare = Ours(url), Bare(url)
        workers: list[Any] = [
            subprocess.Popen([sys.executable, __file__, "--worker", kind, url], stdout=subprocess.PIPE, text=True)
            for kind in ("ours", "bare")
        ]
        time.sleep(2)
        answers = [lambda process=process: float(process.stdout.readline()) for process in workers]
        measure(
            {
                "redis, ours": (lambda: ours.publish([stamped()]), answers[0]),
                "redis, Kombu": (lambda: bare.publish([stamped()]), answers[1]),
            },
            jobs,
            pause,
        )
        for process in workers:
            process.kill()
            process.wait()
            process.stdout.close()
        ours.close()
        bare.close()


def in_memory(jobs: int, pause: float) -> None:
    ours = Ours("memory://latency")
    arrived = threading.Semaphore(0)
    taken: list[float] = []

    def handle(job: Job[DetectionSchema]) -> None:
        taken.append(time.monotonic() - float(job.payload.input.image_url))
        arrived.release()

    def answer() -> float:
        arrived.acquire()
        return taken[-1]

    consumer: Consumer[DetectionSchema] = Consumer(ours.orchestrator, "ours", handle)
    thread = threading.Thread(target=consumer.run_forever)
    thread.start()
    measure({"memory, ours": (lambda: ours.publish([stamped()]), answer)}, jobs, pause)
    consumer.stop()
    thread.join()
    ours.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--pause", type=float, default=0.005)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, url = arguments.worker
        {"ours": consume_ours, "bare": consume_bare}[kind](url)
        return
    in_memory(arguments.jobs, arguments.pause)
    on_redis(arguments.jobs, arguments.pause)


if __name__ == "__main__":
    main()
