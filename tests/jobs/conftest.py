"""Servers for the tests, and a clean place on them for each test.

==================== ======== =======================================================================================
fixture              scope    what
==================== ======== =======================================================================================
backend_url          function one run each on ``local``, ``redis`` and ``rabbitmq``; ``-k redis`` picks one
memory_url           function a memory broker nobody else uses
redis_url            function an empty database on the shared Redis server
rabbitmq_url         function an empty virtual host on the shared RabbitMQ node
redis_server         session  the shared Redis server (no persistence), to look at, not to stop
rabbitmq_server      session  the shared RabbitMQ node, to look at, not to stop
own_redis_server     function a Redis server with an append-only file: kill it, restart it
own_rabbitmq_server  module   a RabbitMQ node of this module: restart it
proxy_to             function makes a TCP proxy before a server: cut, refuse or freeze its connections
==================== ======== =======================================================================================

``MINDTRACE_TEST_REDIS_URL`` and ``MINDTRACE_TEST_RABBITMQ_URL`` send ``redis_url``, ``rabbitmq_url`` and
``backend_url`` to servers that run already. The ``*_server`` fixtures always start their own: whoever stops a server
must own it. A program that is not installed fails the run before the first test.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from celery import _state
from hypothesis import HealthCheck, settings

from tests.jobs.servers import RabbitMQServer, RedisServer, ServerError, TcpProxy
from tests.jobs.servers.rabbitmq import check_rabbitmq
from tests.jobs.servers.redis import check_redis
from tests.jobs.servers.spaces import OwnRabbitMQ, OwnRedis, Spaces, rabbitmq_spaces, redis_spaces

# Before anything imports it: its asserts then explain themselves, as those of the test files do.
pytest.register_assert_rewrite("mindtrace_jobs.testing")

# The same examples on every machine and in every run; no verdict depends on how busy the machine is.
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

_RABBITMQ = {"rabbitmq_url", "rabbitmq_server"}
_OWN_RABBITMQ = {"own_rabbitmq_server"}
_RABBITMQ_KEY = pytest.StashKey[Spaces]()


def _needs(item: pytest.Item) -> set[str]:
    """Names of the fixtures an item asks for, those behind ``backend_url`` included."""
    names = set(getattr(item, "fixturenames", ()))
    call = getattr(item, "callspec", None)
    backend = call.params.get("backend_url") if call is not None else None
    return names | {f"{backend}_url"} if backend else names


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nodes",
        choices=("process", "docker"),
        default="process",
        help="what the tests in tests/jobs/nodes run on: processes, or containers (with -p docker_tools)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files without RabbitMQ first: its node starts in the background meanwhile."""
    rabbitmq_files = {item.path for item in items if _needs(item) & (_RABBITMQ | _OWN_RABBITMQ)}
    items.sort(key=lambda item: item.path in rabbitmq_files)


def pytest_configure(config: pytest.Config) -> None:
    """Fail now if a server cannot be had. Of the processes that share a run the first does so for all."""
    if config.option.collectonly or hasattr(config, "workerinput"):
        return
    checks = [check_redis, check_rabbitmq]
    if config.getoption("nodes", "process") == "docker":
        from tests.jobs.nodes.engine import check_engine

        checks.append(lambda: check_engine(config))
    missing = []
    for check in checks:
        try:
            check()
        except ServerError as error:
            missing.append(str(error))
    if missing:
        raise pytest.UsageError("\n".join(missing))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start RabbitMQ now if a test will need it."""
    needs: set[str] = set().union(*(_needs(item) for item in session.items))
    if needs & _RABBITMQ and not session.config.option.collectonly:
        _rabbitmq(session.config)


def _rabbitmq(config: pytest.Config) -> Spaces:
    if _RABBITMQ_KEY not in config.stash:
        spaces = rabbitmq_spaces()
        config.stash[_RABBITMQ_KEY] = spaces
        config.add_cleanup(spaces.close)
    return config.stash[_RABBITMQ_KEY]


@pytest.fixture(scope="module", autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """What a Celery worker in this process leaves behind.

    It sets the root logger's level, which would hide the warnings of later files, and has results refuse to be waited for.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    _state._set_task_join_will_block(False)
    root.setLevel(level)
    root.handlers[:] = [handler for handler in root.handlers if handler in handlers]


@pytest.fixture(scope="session")
def _redis_spaces() -> Iterator[Spaces]:
    spaces = redis_spaces()
    yield spaces
    spaces.close()


@pytest.fixture(scope="session")
def redis_server(_redis_spaces: Spaces) -> Iterator[RedisServer]:
    """The shared Redis server, without persistence. Use it to look, not to stop."""
    if isinstance(_redis_spaces, OwnRedis):
        yield _redis_spaces.server
    else:
        with RedisServer() as server:
            yield server


@pytest.fixture
def redis_url(_redis_spaces: Spaces) -> Iterator[str]:
    """URL of an empty Redis database."""
    url = _redis_spaces.new()
    yield url
    _redis_spaces.done(url)


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A Redis server of this test, whose data outlives ``kill()`` and ``restart()``."""
    with RedisServer(appendonly=True) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Iterator[RabbitMQServer]:
    """The shared RabbitMQ node. Use it to look, to add users and virtual hosts, not to stop."""
    spaces = _rabbitmq(pytestconfig)
    if isinstance(spaces, OwnRabbitMQ):
        yield spaces.server
    else:
        with RabbitMQServer() as server:
            yield server


@pytest.fixture
def rabbitmq_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """URL of an empty RabbitMQ virtual host."""
    spaces = _rabbitmq(pytestconfig)
    url = spaces.new()
    yield url
    spaces.done(url)


@pytest.fixture(scope="module")
def own_rabbitmq_server() -> Iterator[RabbitMQServer]:
    """A RabbitMQ node of this test module: restart it, stop its application, kill it."""
    with RabbitMQServer() as server:
        yield server


@pytest.fixture
def memory_url() -> str:
    """URL of a memory broker that nobody else uses."""
    return f"memory://test-{secrets.token_hex(4)}"


@pytest.fixture(params=["local", "redis", "rabbitmq"])
def backend_url(request: pytest.FixtureRequest) -> str:
    """URL of an empty broker, one run on each backend."""
    name = "memory_url" if request.param == "local" else f"{request.param}_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def proxy_to() -> Iterator[Callable[[str], TcpProxy]]:
    """Makes a listening TCP proxy to the server of a URL; ``proxy.url(url)`` is the URL through it."""
    proxies: list[TcpProxy] = []

    def make(url: str) -> TcpProxy:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        proxy = TcpProxy(parts.hostname, parts.port).start()
        proxies.append(proxy)
        return proxy

    yield make
    for proxy in proxies:
        proxy.close()
