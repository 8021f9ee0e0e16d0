"""Where a side of the comparison works, its jobs, and its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

#: Jobs before the clock starts.
WARM_UP = 50

Verb = Callable[["Place"], None]


class Detection(BaseModel):
    """What every job carries, validated by whoever handles it."""

    image_url: str
    threshold: float = 0.5


class Stopwatch:
    """Counts jobs: starts with the first one after the warm-up, stops with the last.

    Args:
        jobs: How many are measured.
    """

    def __init__(self, jobs: int) -> None:
        self._last = WARM_UP + jobs
        self._done = 0
        self._begin = self._end = (0.0, 0.0)

    def tick(self, detection: Detection | None = None) -> bool:
        """One job is done; whether it was the last one."""
        del detection
        self._done += 1
        if self._done == WARM_UP:
            self._begin = time.perf_counter(), time.process_time()
        if self._done == self._last:
            self._end = time.perf_counter(), time.process_time()
        return self._done >= self._last

    @property
    def taken(self) -> tuple[float, float]:
        """Microseconds a job: by the clock, and of the processor."""
        if self._done < self._last:
            raise RuntimeError(f"only {self._done} of {self._last} jobs")
        jobs = self._last - WARM_UP
        clock, processor = ((end - begin) / jobs * 1e6 for begin, end in zip(self._begin, self._end, strict=True))
        return clock, processor


@dataclass(frozen=True)
class Place:
    """Where it works.

    Attributes:
        kind: "redis" or "rabbitmq".
        url: The broker's.
        results: The URL of a Redis database for results, beside RabbitMQ on a server of its own.
        queue: A name that nobody else uses.
        jobs: How many are measured.
    """

    kind: str
    url: str
    results: str
    queue: str
    jobs: int
    watch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "watch", Stopwatch(self.jobs))

    @property
    def detections(self) -> Iterator[dict[str, Any]]:
        """The jobs' data, the warm-up's too."""
        for number in range(WARM_UP + self.jobs):
            yield {"image_url": f"s3://bucket/{number}.jpg", "threshold": 0.5}
