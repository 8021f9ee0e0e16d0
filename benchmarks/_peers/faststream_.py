"""FastStream, which keeps no results; on Redis with a list, whose messages are gone when they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from faststream.rabbit import RabbitBroker, RabbitQueue
from faststream.redis import RedisBroker

from _peers.place import Detection, Place, Verb


def _broker(place: Place) -> tuple[Any, Any]:
    """The broker, and how a subscriber names the queue."""
    if place.kind == "redis":
        return RedisBroker(place.url, logger=None), {"list": place.queue}
    return RabbitBroker(place.url, logger=None), {"queue": RabbitQueue(place.queue, durable=True)}


async def _fill(broker: Any, queue: Any, place: Place, tick: Callable[[], object] = lambda: None) -> None:
    if place.kind == "rabbitmq":
        await broker.declare_queue(RabbitQueue(place.queue, durable=True))
    for detection in place.detections:
        await broker.publish(Detection.model_construct(**detection), **queue)
        tick()


async def _publish(place: Place) -> None:
    broker, queue = _broker(place)
    async with broker:
        await _fill(broker, queue, place, place.watch.tick)


async def _consume(place: Place) -> None:
    broker, queue = _broker(place)
    done = asyncio.Event()

    @broker.subscriber(**queue)  # type: ignore[untyped-decorator]
    async def detect(detection: Detection) -> None:
        if place.watch.tick(detection):
            done.set()

    async with broker:
        await _fill(broker, queue, place)
        await broker.start()
        await done.wait()


VERBS: dict[str, Verb] = {
    "publish": lambda place: asyncio.run(_publish(place)),
    "consume": lambda place: asyncio.run(_consume(place)),
}
