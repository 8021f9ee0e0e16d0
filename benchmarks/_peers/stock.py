"""Kombu and Celery as they are; Celery's workers are measured by ``celery_workers.py``."""

from __future__ import annotations

from typing import Any

import kombu
from celery import Celery

from _peers.place import Detection, Place, Verb


def publish(place: Place) -> None:
    app = Celery("publisher", broker=place.url, set_as_current=False)
    app.conf.task_default_queue = place.queue
    for detection in place.detections:
        app.send_task("detect", args=[detection])
        place.watch.tick()


def submit(place: Place) -> None:
    app = Celery("publisher", broker=place.url, backend=place.results, set_as_current=False)
    app.conf.task_default_queue = place.queue
    for detection in place.detections:
        app.send_task("detect", args=[detection])
        place.watch.tick()


def consume(place: Place) -> None:
    connection = kombu.Connection(place.url)
    channel = connection.channel()
    queue = kombu.Queue(place.queue, kombu.Exchange(place.queue, type="direct"), routing_key=place.queue)(channel)
    queue.declare()
    producer = kombu.Producer(channel)
    for detection in place.detections:
        producer.publish(detection, exchange=place.queue, routing_key=place.queue, serializer="json", delivery_mode=2)
    done = False

    def handle(body: Any, message: Any) -> None:
        nonlocal done
        done = place.watch.tick(Detection.model_validate(body))
        message.ack()

    with kombu.Consumer(channel, queues=[queue], callbacks=[handle], prefetch_count=50):
        while not done:
            connection.drain_events(timeout=5)


VERBS: dict[str, Verb] = {"publish": publish, "submit": submit, "consume": consume}
