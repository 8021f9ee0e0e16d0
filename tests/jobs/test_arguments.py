"""Arguments that cannot work are refused at once, by a ConfigurationError that names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mindtrace_jobs import ConfigurationError, Consumer, Job, LocalClient, Orchestrator, RabbitMQClient, RedisClient
from mindtrace_jobs.testing.models import ImageInput, ImageSchema, image_job

Call = Callable[[Any], object]


class AsyncHandler:
    async def __call__(self, job: Job[Any]) -> None:
        """Never awaited by anybody."""


@pytest.fixture
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Any]:
    with Orchestrator(LocalClient(request.node.name)) as orchestrator:
        orchestrator.declare_queue("q")
        yield orchestrator


CASES: dict[str, tuple[str, Call]] = {
    "no messages": ("num_messages", lambda o: Consumer(o, "q", print).consume(0)),
    "fewer": ("num_messages", lambda o: Consumer(o, "q", print).consume(-1)),
    "half a message": ("num_messages", lambda o: Consumer(o, "q", print).consume(0.5)),  # type: ignore[arg-type]
    "true messages": ("num_messages", lambda o: Consumer(o, "q", print).consume(True)),
    "not a number of seconds": ("timeout", lambda o: Consumer(o, "q", print).consume(timeout=float("nan"))),
    "seconds as text": ("timeout", lambda o: o.receive_message("q", timeout="1")),
    "negative seconds": ("timeout", lambda o: o.receive_message("q", timeout=-1)),
    "seconds of a block": ("timeout", lambda o: o.receiving("q", timeout="1").__enter__()),
    "seconds of a get": ("timeout", lambda o: o.client.get("q", float("nan"))),
    "seconds of a handle": ("timeout", lambda o: o.submit(image_job(), queue="q").wait(float("nan"))),
    "seconds of a result": ("timeout", lambda o: o.submit(image_job(), queue="q").result("1")),
    "prefetch as text": ("prefetch", lambda o: Consumer(o, "q", print, prefetch="5")),  # type: ignore[arg-type]
    "prefetch of none": ("prefetch", lambda o: Consumer(o, "q", print, prefetch=0)),
    "prefetch of a stream": ("prefetch", lambda o: o.client.consume(["q"], 70_000)),
    "no queue": ("queues", lambda o: Consumer(o, None, print)),  # type: ignore[arg-type]
    "a queue that is none": ("name of a queue", lambda o: Consumer(o, [None], print)),  # type: ignore[list-item]
    "no jobs": ("jobs", lambda o: o.publish_many("q", None)),
    "no job": ("Job(payload=...)", lambda o: o.submit(None)),
    "an input": ("Job(payload=YourSchema(input=...))", lambda o: o.submit(ImageInput(url="a"))),
    "a schema": ("Job(payload=...)", lambda o: o.publish_message("q", ImageSchema(input=ImageInput(url="a")))),
    "the other order": ("publish_message takes (queue, job)", lambda o: o.publish_message(image_job(), "q")),
    "no time to connect": ("connect_timeout", lambda _: RabbitMQClient(connect_timeout=0)),
    "negative time to connect": ("connect_timeout", lambda _: RabbitMQClient(connect_timeout=-1)),
    "no time to answer": ("socket_timeout", lambda _: RabbitMQClient(socket_timeout=0)),
    "time to answer as text": ("socket_timeout", lambda _: RabbitMQClient(socket_timeout="5")),
    "no time to answer on Redis": ("socket_timeout", lambda _: RedisClient(socket_timeout=0)),
    "time without end": ("socket_timeout", lambda _: RedisClient(socket_timeout=float("inf"))),
    "no time to connect to Redis": ("connect_timeout", lambda _: RedisClient(connect_timeout=float("nan"))),
    "a lease as text": ("lease", lambda _: RedisClient(lease="60")),  # type: ignore[arg-type]
    "no lease": ("lease", lambda _: RedisClient(lease=None)),  # type: ignore[arg-type]
    "time to confirm as text": ("confirm_timeout", lambda _: RabbitMQClient(confirm_timeout="5")),
    "an async callable": ("handler", lambda o: Consumer(o, "q", AsyncHandler())),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_by_name(case: str, orchestrator: Orchestrator) -> None:
    name, call = CASES[case]
    with pytest.raises(ConfigurationError) as error:
        call(orchestrator)
    assert name in str(error.value)
