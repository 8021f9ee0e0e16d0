"""The brokers' own clients, with JSON: redis-py's LPUSH and a pop that loses nothing, py-amqp with confirms."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

import amqp
import redis

from _peers.place import Detection, Place, Verb


def _amqp(url: str) -> amqp.Connection:
    parts = urlsplit(url)
    connection = amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        parts.username,
        parts.password,
        virtual_host=unquote(parts.path[1:]) or "/",
        confirm_publish=True,
    )
    connection.connect()
    return connection


def _publisher(place: Place) -> Callable[[str], object]:
    if place.kind == "redis":
        client = redis.Redis.from_url(place.url)
        return lambda body: client.lpush(place.queue, body)
    channel = _amqp(place.url).channel()
    channel.queue_declare(place.queue, durable=True, auto_delete=False)
    return lambda body: channel.basic_publish(amqp.Message(body, delivery_mode=2), routing_key=place.queue)


def publish(place: Place) -> None:
    send = _publisher(place)
    for detection in place.detections:
        send(json.dumps({"id": "0" * 36, "task": "detect", "created": time.time(), "input": detection}))
        place.watch.tick()


def consume(place: Place) -> None:
    send = _publisher(place)
    for detection in place.detections:
        send(json.dumps({"id": "0" * 36, "task": "detect", "created": time.time(), "input": detection}))
    if place.kind == "redis":
        client, held = redis.Redis.from_url(place.url), f"{place.queue}.held"
        while True:
            body = client.blmove(place.queue, held, 5, "RIGHT", "LEFT")
            last = place.watch.tick(Detection.model_validate(json.loads(body)["input"]))
            client.lrem(held, 1, body)
            if last:
                return
    connection = _amqp(place.url)
    channel = connection.channel()
    channel.basic_qos(0, 50, False)
    done = False

    def handle(message: amqp.Message) -> None:
        nonlocal done
        done = place.watch.tick(Detection.model_validate(json.loads(message.body)["input"]))
        message.channel.basic_ack(message.delivery_tag)

    channel.basic_consume(place.queue, callback=handle)
    while not done:
        connection.drain_events(timeout=5)


VERBS: dict[str, Verb] = {"publish": publish, "consume": consume}
