"""Where each test gets a clean place on a shared server: a Redis database, a RabbitMQ virtual host.

The server is started here, or is the one that ``MINDTRACE_TEST_REDIS_URL`` or ``MINDTRACE_TEST_RABBITMQ_URL`` names.
Nothing of a user's own is ever touched on such a server: the Redis database must be empty when the tests start, and
on RabbitMQ virtual hosts are made (through its management API) and deleted again.
"""

from __future__ import annotations

import base64
import itertools
import os
import queue
import secrets
import threading
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import redis

from tests.jobs.servers.errors import ServerError
from tests.jobs.servers.rabbitmq import RABBITMQ_URL_VARIABLE, RabbitMQServer
from tests.jobs.servers.redis import DATABASES, REDIS_URL_VARIABLE, RedisServer, check_redis

#: Environment variable: URL of the management API that belongs to MINDTRACE_TEST_RABBITMQ_URL.
RABBITMQ_API_VARIABLE = "MINDTRACE_TEST_RABBITMQ_API"


class Spaces(ABC):
    """Gives out URLs of clean places."""

    @abstractmethod
    def new(self) -> str:
        """URL of a place that holds nothing.

        Raises:
            ServerError: The server cannot be used.
        """

    @abstractmethod
    def done(self, url: str) -> None:
        """The place is no longer used."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be asked for."""


def redis_spaces() -> Spaces:
    """Databases of the named Redis server, or of one that is started at first use."""
    url = os.environ.get(REDIS_URL_VARIABLE)
    return NamedRedis(url) if url else OwnRedis()


def rabbitmq_spaces() -> Spaces:
    """Virtual hosts of the named RabbitMQ server, or of one that starts in the background from now on."""
    url = os.environ.get(RABBITMQ_URL_VARIABLE)
    return NamedRabbitMQ(url) if url else OwnRabbitMQ()


def _flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushdb()


class OwnRedis(Spaces):
    """Databases of a server of ours, one after the other, so that a straggler of an earlier test meets nobody."""

    def __init__(self) -> None:
        check_redis()
        self._server: RedisServer | None = None
        self._databases = itertools.cycle(range(DATABASES))

    @property
    def server(self) -> RedisServer:
        """The server, started at first use."""
        if self._server is None:
            self._server = RedisServer().start()
        return self._server

    def new(self) -> str:
        url = self.server.url(next(self._databases))
        _flush(url)
        return url

    def done(self, url: str) -> None:
        _flush(url)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class NamedRedis(Spaces):
    """The one database that the environment names."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            with redis.Redis.from_url(url) as client:
                size = int(client.dbsize())
        except redis.RedisError as error:
            raise ServerError(f"{REDIS_URL_VARIABLE}: the server cannot be used: {error}") from error
        if size:
            raise ServerError(
                f"{REDIS_URL_VARIABLE}: that database holds {size} keys, and the tests would delete them."
                " Name an empty one, as redis://host:6379/9"
            )

    def new(self) -> str:
        _flush(self._url)
        return self._url

    def done(self, url: str) -> None:
        _flush(url)

    def close(self) -> None:
        pass


class OwnRabbitMQ(Spaces):
    """Virtual hosts of a node of ours; a thread makes them in batches, before they are asked for."""

    _BATCH = 24
    _LOW = 8
    #: Seconds for a start on a busy machine and the first batch.
    _PATIENCE = 110.0

    def __init__(self) -> None:
        self._server = RabbitMQServer()
        self._server.launch()
        self._ready: queue.Queue[str | BaseException] = queue.Queue()
        self._refill = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._make, name="rabbitmq-vhosts", daemon=True)
        self._thread.start()

    @property
    def server(self) -> RabbitMQServer:
        """The node, ready."""
        self._server.wait_ready()
        return self._server

    def new(self) -> str:
        try:
            vhost = self._ready.get(timeout=self._PATIENCE)
        except queue.Empty:
            raise ServerError(f"RabbitMQ is not ready. Its log:\n{self._server.log_tail()}") from None
        if isinstance(vhost, BaseException):
            self._ready.put(vhost)  # every later test fails the same way, at once
            raise ServerError(f"RabbitMQ did not start or gave no virtual host: {vhost}") from vhost
        if self._ready.qsize() < self._LOW:
            self._refill.set()
        return self._server.url(vhost)

    def done(self, url: str) -> None:
        pass  # deleting costs half a second, and the node goes soon

    def close(self) -> None:
        self._closing = True
        self._refill.set()
        self._server.close()
        self._thread.join(timeout=30)

    def _make(self) -> None:
        try:
            self._server.wait_ready()
            while not self._closing:
                self._refill.clear()
                vhosts = [f"test-{secrets.token_hex(4)}" for _ in range(self._BATCH)]
                self._server.add_vhosts(vhosts)
                for vhost in vhosts:
                    self._ready.put(vhost)
                self._refill.wait()
        except Exception as error:
            self._ready.put(error)


class NamedRabbitMQ(Spaces):
    """Virtual hosts on the server that the environment names, made and deleted through its management API."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._api = os.environ.get(RABBITMQ_API_VARIABLE) or f"http://{self._parts.hostname}:15672"
        self._user = unquote(self._parts.username or "guest")
        self._password = unquote(self._parts.password or "guest")
        self._vhosts: set[str] = set()
        self._call("GET", "whoami")

    def new(self) -> str:
        vhost = f"mindtrace-test-{secrets.token_hex(4)}"
        self._call("PUT", f"vhosts/{vhost}", b"{}")
        self._vhosts.add(vhost)
        everything = b'{"configure": ".*", "write": ".*", "read": ".*"}'
        self._call("PUT", f"permissions/{vhost}/{quote(self._user, safe='')}", everything)
        return urlunsplit(self._parts._replace(path=f"/{vhost}"))

    def done(self, url: str) -> None:
        vhost = urlsplit(url).path.lstrip("/")
        self._call("DELETE", f"vhosts/{vhost}")
        self._vhosts.discard(vhost)

    def close(self) -> None:
        for vhost in sorted(self._vhosts):
            self._call("DELETE", f"vhosts/{vhost}")
        self._vhosts.clear()

    def _call(self, method: str, path: str, body: bytes | None = None) -> None:
        token = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._api}/api/{path}", data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=15) as response:
                response.read()
        except (OSError, urllib.error.URLError) as error:
            raise ServerError(
                f"{RABBITMQ_URL_VARIABLE}: each test needs a virtual host of its own, made through the server's"
                f" management API, and {method} {self._api}/api/{path} failed: {error}. Enable the plug-in"
                f" rabbitmq_management, use an administrator's credentials, and set {RABBITMQ_API_VARIABLE} if it"
                " listens elsewhere"
            ) from error
