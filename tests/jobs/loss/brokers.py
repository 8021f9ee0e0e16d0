"""The broker of a run: how it is restarted, and what lies on it at the end."""

from __future__ import annotations

import base64
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from kombu import Connection

from mindtrace_jobs.clients import dead_letter_queue
from tests.jobs.loss.history import gone_with_stock
from tests.jobs.loss.plan import QUEUE
from tests.jobs.redis_channels import server, tracks
from tests.jobs.servers import RabbitMQServer, RedisServer

_TOKEN = re.compile(rb"#(\d+)#")


@dataclass
class Left:
    """What lies on the broker when no consumer is left."""

    #: Jobs that wait in the queue, or that a dead consumer still holds.
    numbers: set[int] = field(default_factory=set)
    #: What should not be there.
    names: list[str] = field(default_factory=list)
    dead_lettered: int = 0


class Broker(ABC):
    """A broker under test."""

    name: str
    url: str

    @abstractmethod
    def restart(self, *, hard: bool) -> None:
        """Stop it, by SIGKILL if ``hard``, start it again, and return when it takes connections."""

    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing waits and nothing is held."""

    @abstractmethod
    def left(self) -> Left:
        """What is there. It may be taken away by looking."""

    def gone_with_stock(self) -> set[int]:
        """The jobs that are nowhere and that stock consumers had last, as far as the broker can tell."""
        return set()


class RedisBroker(Broker):
    """Database 0 of a Redis server with an append-only file."""

    name = "redis"

    def __init__(self, redis: RedisServer) -> None:
        self._server = redis
        self.url = redis.url()

    def restart(self, *, hard: bool) -> None:
        if hard:
            self._server.kill()
        else:
            self._server.stop()
        self._server.start()

    def idle(self) -> bool:
        with server(self.url) as client:
            return not client.exists(QUEUE, "unacked", "unacked_index", "mindtrace.leases")

    def left(self) -> Left:
        with server(self.url) as client:
            waiting = client.lrange(QUEUE, 0, -1)
            held = client.hvals("unacked")
            # Kombu's lock for restoring what stock consumers held: who is killed with it leaves it for five minutes.
            names = sorted(tracks(client)) + [QUEUE] * bool(waiting)
            dead = client.llen(dead_letter_queue(QUEUE))
        messages = [json.loads(value) for value in waiting] + [json.loads(value)[0] for value in held]
        numbers = {number for message in messages for number in _numbers(_body(message))}
        return Left(numbers, names, dead)

    def gone_with_stock(self) -> set[int]:
        return gone_with_stock(self._server.folder, lambda message: _numbers(_body(message)))


class RabbitMQBroker(Broker):
    """A virtual host of a RabbitMQ node.

    Args:
        url: Of the virtual host.
        node: The node, if it may be restarted.
    """

    name = "rabbitmq"

    def __init__(self, url: str, node: RabbitMQServer | None = None) -> None:
        self.url = url
        self._node = node

    def restart(self, *, hard: bool) -> None:
        assert self._node is not None, "a shared node must not be restarted"
        if hard:
            self._node.kill()
        else:
            self._node.stop()
        self._node.start()

    def idle(self) -> bool:
        # What consumers hold is not counted by AMQP: it shows when they have stopped.
        with Connection(self.url) as connection:
            return bool(connection.default_channel.queue_declare(QUEUE, passive=True).message_count == 0)

    def left(self) -> Left:
        waiting, dead = self._take_all(QUEUE), self._take_all(dead_letter_queue(QUEUE))
        numbers = {number for body in waiting for number in _numbers(body)}
        return Left(numbers, [f"{len(waiting)} messages"] if waiting else [], len(dead))

    def _take_all(self, queue: str) -> list[bytes]:
        bodies = []
        with Connection(self.url) as connection:
            channel = connection.default_channel
            try:
                while (message := channel.basic_get(queue, no_ack=True)) is not None:
                    bodies.append(message.body if isinstance(message.body, bytes) else message.body.encode())
            except connection.channel_errors:
                return []  # there is no such queue
        return bodies


def _body(message: dict[str, Any]) -> bytes:
    body = message["body"].encode()
    return base64.b64decode(body) if message["properties"].get("body_encoding") == "base64" else body


def _numbers(body: bytes) -> list[int]:
    return [int(number) for number in _TOKEN.findall(body)]
