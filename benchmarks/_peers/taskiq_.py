"""taskiq, one task at a time: Redis streams, which are its broker with acknowledgements there, or aio-pika; results on Redis."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskiq.receiver import Receiver
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from _peers.place import Detection, Place, Verb


def _broker(place: Place, *, results: bool) -> Any:
    if place.kind == "redis":
        broker: Any = RedisStreamBroker(place.url, queue_name=place.queue)
    else:
        broker = AioPikaBroker(place.url, task_queues=[Queue(name=place.queue)])
    return broker.with_result_backend(RedisAsyncResultBackend(place.results)) if results else broker


async def _send(place: Place, *, results: bool) -> None:
    broker = _broker(place, results=results)
    await broker.startup()

    @broker.task(task_name="detect")
    async def detect(detection: Detection) -> None: ...

    for detection in place.detections:
        await detect.kiq(Detection.model_construct(**detection))
        place.watch.tick()
    await broker.shutdown()


async def _receive(place: Place, *, results: bool) -> None:
    broker = _broker(place, results=results)
    broker.is_worker_process = True
    await broker.startup()
    done = asyncio.Event()

    @broker.task(task_name="detect")
    async def detect(detection: Detection) -> dict[str, list[str]]:
        if place.watch.tick(detection):
            done.set()
        return {"objects": []}

    for detection in place.detections:
        await detect.kiq(Detection.model_construct(**detection))
    with ThreadPoolExecutor(1) as executor:
        receiver = Receiver(broker, executor, max_async_tasks=1, max_prefetch=50, run_startup=False)
        listening = asyncio.create_task(receiver.listen(done))
        await done.wait()
        listening.cancel()


def _run(work: Any, *, results: bool) -> Verb:
    return lambda place: asyncio.run(work(place, results=results))


VERBS: dict[str, Verb] = {
    "publish": _run(_send, results=False),
    "submit": _run(_send, results=True),
    "consume": _run(_receive, results=False),
    "tracked": _run(_receive, results=True),
}
