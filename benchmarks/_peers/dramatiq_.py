"""dramatiq with one thread."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

from _peers.place import Detection, Place, Verb


def _actor(place: Place, done: threading.Event) -> Any:
    broker: Any = RedisBroker(url=place.url) if place.kind == "redis" else RabbitmqBroker(url=place.url)
    dramatiq.set_broker(broker)

    def detect(detection: dict[str, Any]) -> None:
        if place.watch.tick(Detection.model_validate(detection)):
            done.set()

    return dramatiq.actor(detect, queue_name=place.queue)


def publish(place: Place) -> None:
    actor = _actor(place, threading.Event())
    for detection in place.detections:
        actor.send(detection)
        place.watch.tick()


def consume(place: Place) -> None:
    done = threading.Event()
    actor = _actor(place, done)
    for detection in place.detections:
        actor.send(detection)
    worker = dramatiq.Worker(dramatiq.get_broker(), worker_threads=1)
    worker.start()
    done.wait()
    worker.stop()


VERBS: dict[str, Verb] = {"publish": publish, "consume": consume}
