"""pytest-celery's own fixtures for apps with jobs, on processes (the default) or on its Docker containers.

``--nodes=process`` replaces four of them, the containers; ``--nodes=docker`` none. All else is the library's: clusters,
the app that is made for each test, environment, command and content of the worker, ``wait_for_log``, kill and restart.
``engine.py`` says what the second needs.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery import _state
from pytest_celery import *  # noqa: F403 - as the library's plug-in does, which other tests do without
from pytest_celery import (
    CELERY_RABBITMQ_BROKER,
    CELERY_REDIS_BROKER,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryWorkerContainer,
    RabbitMQContainer,
    RedisContainer,
)
from pytest_celery import default_rabbitmq_broker as docker_rabbitmq_broker  # noqa: F401 - a fixture by that name
from pytest_celery import default_redis_backend as docker_redis_backend  # noqa: F401
from pytest_celery import default_redis_broker as docker_redis_broker  # noqa: F401
from pytest_celery import default_worker_container as docker_worker_container  # noqa: F401

from mindtrace_jobs import Orchestrator
from mindtrace_jobs.celery import install
from tests.jobs.celery.workers import close_app
from tests.jobs.nodes import jobs, worker_app
from tests.jobs.nodes.containers import ProcessRabbitMQ, ProcessRedis, WorkerServer
from tests.jobs.nodes.engine import celery_base_worker_image  # noqa: F401
from tests.jobs.nodes.handle import ProcessHandle
from tests.jobs.servers import RabbitMQServer, RedisServer

# --- what a project that tests its jobs with pytest-celery would write


class JobsSetup(CeleryTestSetup):  # type: ignore[misc]
    """Installs jobs on the app of each test."""

    @classmethod
    def update_app_config(cls, app: Any) -> None:
        install(app)

    def teardown(self) -> None:
        close_app(self.app)


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    return JobsSetup


@pytest.fixture
def default_worker_app_module() -> ModuleType:
    return worker_app


@pytest.fixture
def default_worker_tasks() -> set[ModuleType]:
    return {jobs}


@pytest.fixture(params=["prefork", "threads"])
def pool(request: pytest.FixtureRequest) -> str:
    """The worker's pool. Ask for it, or use it, in every test: the library asks too late for a parameter."""
    return str(request.param)


@pytest.fixture
def default_worker_command(default_worker_container_cls: type[CeleryWorkerContainer], pool: str) -> list[str]:
    options = ("--pool", pool, "--concurrency", "1", "--without-mingle", "--without-gossip")
    return list(default_worker_container_cls.command(*options))


@pytest.fixture
def default_redis_broker_command(default_redis_broker_cls: type[RedisContainer]) -> list[str]:
    """Jobs outlive a restart, unlike with the library's command."""
    return list(default_redis_broker_cls.command("--appendonly", "yes", "--appendfsync", "always"))


@pytest.fixture(params=[CELERY_REDIS_BROKER, CELERY_RABBITMQ_BROKER])
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """In this order. The library's parameters are a set: the processes that share a run would disagree on theirs."""
    broker: CeleryTestBroker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()


@pytest.fixture
def orchestrator(celery_setup: CeleryTestSetup) -> Iterator[Orchestrator]:
    """On the app of the test."""
    with Orchestrator.from_celery(celery_setup.app) as orchestrator:
        yield orchestrator


@pytest.fixture(autouse=True)
def _no_current_app_left() -> Iterator[None]:
    """The library makes its app the current one, and leaves it so."""
    yield
    _state._set_current_app(None)


# --- processes or containers


@pytest.fixture
def nodes(pytestconfig: pytest.Config) -> str:
    """What nodes are: ``process`` or ``docker``."""
    return str(pytestconfig.getoption("nodes", "process"))


@pytest.fixture
def default_redis_broker(request: pytest.FixtureRequest, nodes: str) -> RedisContainer:
    return request.getfixturevalue(f"{nodes}_redis_broker")


@pytest.fixture
def default_redis_backend(request: pytest.FixtureRequest, nodes: str) -> RedisContainer:
    return request.getfixturevalue(f"{nodes}_redis_backend")


@pytest.fixture
def default_rabbitmq_broker(request: pytest.FixtureRequest, nodes: str) -> RabbitMQContainer:
    return request.getfixturevalue(f"{nodes}_rabbitmq_broker")


@pytest.fixture
def default_worker_container(request: pytest.FixtureRequest, nodes: str) -> CeleryWorkerContainer:
    return request.getfixturevalue(f"{nodes}_worker_container")


@pytest.fixture
def process_redis_broker(default_redis_broker_command: list[str]) -> Iterator[ProcessRedis]:
    with RedisServer(arguments=default_redis_broker_command[1:]) as server:
        yield ProcessRedis(server)


@pytest.fixture
def process_redis_backend(default_redis_backend_command: list[str]) -> Iterator[ProcessRedis]:
    with RedisServer(arguments=default_redis_backend_command[1:]) as server:
        yield ProcessRedis(server)


@pytest.fixture(scope="module")
def vhosts(own_rabbitmq_server: RabbitMQServer) -> Iterator[str]:
    """Names of empty virtual hosts, made many at a time: the command takes as long as the start of a worker."""

    def make() -> Iterator[str]:
        while True:
            names = [f"test-{secrets.token_hex(4)}" for _ in range(16)]
            own_rabbitmq_server.add_vhosts(names)
            yield from names

    return make()


@pytest.fixture
def process_rabbitmq_broker(own_rabbitmq_server: RabbitMQServer, vhosts: Iterator[str]) -> ProcessRabbitMQ:
    """A virtual host for each test: a node takes too long to start."""
    own_rabbitmq_server.start()  # the test before may have killed it
    return ProcessRabbitMQ(own_rabbitmq_server, next(vhosts))


@pytest.fixture
def process_worker_container(
    default_worker_command: list[str],
    default_worker_env: dict[str, str],
    default_worker_initial_content: dict[str, bytes],
) -> Iterator[CeleryWorkerContainer]:
    with WorkerServer(default_worker_command, default_worker_env, default_worker_initial_content) as server:
        container = CeleryWorkerContainer(ProcessHandle(server, server.id))
        yield container
        print(container.logs())  # pytest shows it where a test failed
