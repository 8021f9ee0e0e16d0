"""What the tests of the Redis transport share: connections, publishing, taking, and the server seen from outside."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import redis
from kombu import Connection, Consumer, Producer, Queue

from mindtrace_jobs.transports.redis import Transport
from mindtrace_jobs.transports.redis.leases import keeper
from tests.jobs.servers import wait_until

Connect = Callable[..., Any]
#: Seconds after which something that should have happened is given up: a guard against hanging.
PATIENCE = 30.0


def connection(url: str, *, stock: bool = False, **options: Any) -> Any:
    """A connection over this package's transport, or over Kombu's own."""
    transport = "kombu.transport.redis:Transport" if stock else Transport
    return Connection(url, transport=transport, transport_options=options)


def publish(channel: Any, body: Any, queue: str = "q", **options: Any) -> None:
    target = {"exchange": "", "routing_key": queue} | options
    Producer(channel, auto_declare=False).publish(body, serializer="json", **target)


def get(channel: Any, queue: str = "q") -> Any:
    message = channel.basic_get(queue)
    assert message is not None, f"nothing in {queue}"
    return message


def bodies(channel: Any, queue: str = "q") -> list[Any]:
    """Take everything that is ready, for good."""
    taken = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        taken.append(message.payload)
    return taken


def declare(channel: Any, queue_type: str, queue: str = "q") -> None:
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-job-queue": queue_type})


def counts(channel: Any, queue: str = "q") -> tuple[int, int, int]:
    stats = channel.queue_stats(queue)
    return stats["ready"], stats["unacknowledged"], stats["delayed"]


def consume(channel: Any, queues: Sequence[str] = ("q",), prefetch: int = 0) -> list[Any]:
    """Start to consume; returns the list to which messages are going to be added."""
    channel.basic_qos(0, prefetch, False)
    received: list[Any] = []
    consumer = Consumer(
        channel,
        queues=[Queue(queue, channel=channel) for queue in queues],
        auto_declare=False,
        on_message=received.append,
    )
    consumer.consume()
    return received


def drain(source: Any, received: list[Any], count: int, timeout: float = PATIENCE) -> list[Any]:
    """Drain a connection until so many messages were received."""
    while len(received) < count:
        source.drain_events(timeout=timeout)
    return received


@contextmanager
def server(url: str) -> Iterator[Any]:
    """The server, seen by a client of its own."""
    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def user(url: str, *rules: str) -> Iterator[str]:
    """A user of the server with the given ACL rules, to begin with none; the URL with its name and password."""
    name = f"user-{secrets.token_hex(4)}"
    with server(url) as client:
        client.execute_command("ACL", "SETUSER", name, "on", ">secret", "resetchannels", *rules)
        try:
            yield url.replace("://", f"://{name}:secret@")
        finally:
            client.acl_deluser(name)


def tracks(client: Any) -> set[str]:
    """The keys of deliveries that are left on the server.

    Not Kombu's lock, ``unacked_mutex``: who is killed while it looks for what stock consumers left keeps it for a while.
    """
    names = ("unacked", "unacked_index", "mindtrace.leases", "mindtrace.started")
    return {name for name in names if client.exists(name)}


def commands(client: Any) -> int:
    """How many commands the server has run, but for those that look at it."""
    stats = client.info("commandstats")
    return sum(value["calls"] for name, value in stats.items() if name not in ("cmdstat_info", "cmdstat_client|list"))


def let_expire(channel: Any, tag: str) -> None:
    """Let a lease expire as if its holder were stopped; a renewal that is on its way may come in between."""
    keeper.discard(channel.deliveries)
    channel.store.wire.call("ZADD", "mindtrace.leases", "XX", 1, tag)


def vanish(channel: Any, tag: str) -> None:
    """Have a delivery restored as if its holder were stopped for longer than the lease."""

    def restored() -> bool:
        let_expire(channel, tag)
        channel.store.restore_expired(channel.store.wire)
        return not channel.store.wire.call("HEXISTS", "unacked", tag)

    wait_until(restored, "it is restored")


class Child:
    """A Python program in a process of its own, which reports lines of JSON."""

    def __init__(self, program: str, *args: str) -> None:
        head = "import json, os, sys, time\ndef report(value): print(json.dumps(value), flush=True)\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(program), *args],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def line(self) -> Any:
        """The next line it reports."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        assert text, f"the child ended with {self.process.wait(PATIENCE)}"
        return json.loads(text)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
