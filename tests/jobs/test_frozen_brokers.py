"""A broker that answers nothing any more holds up nobody for ever: calls raise, consumers and workers end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import Consumer, Job, Orchestrator, RabbitMQClient, RedisClient
from mindtrace_jobs.errors import BrokerUnavailableError
from mindtrace_jobs.testing.models import ImageSchema, image_job
from mindtrace_jobs.testing.runners import Runners
from tests.jobs.servers import RabbitMQServer, RedisServer, wait_until

#: Seconds for an answer of Redis, which may be frozen in the midst of one; of RabbitMQ longer than any test is waited for.
REDIS_TIMEOUT, FOR_EVER = 5.0, 3600.0


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Any]]:
    """Servers of this module by their names, started when they are first asked for; they may be frozen."""
    made: dict[str, Any] = {}
    kinds = {"redis": RedisServer, "rabbitmq": RabbitMQServer}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = kinds[name]()
            made[name].start()
        return made[name]

    yield get
    for server in made.values():
        server.close()


@pytest.fixture(params=["redis", "rabbitmq"])
def server(request: pytest.FixtureRequest, servers: Callable[[str], Any]) -> Iterator[Any]:
    """A server that is thawed afterwards."""
    server = servers(request.param)
    yield server
    server.thaw()


def client_of(server: Any, timeout: float) -> Any:
    """A client that waits so many seconds for an answer."""
    if isinstance(server, RedisServer):
        return RedisClient.from_url(server.url(), socket_timeout=timeout)
    return RabbitMQClient.from_url(server.url(server.add_vhost()), socket_timeout=timeout)


def test_a_call_raises_after_the_timeout_and_the_next_one_works_again(server: Any) -> None:
    with Orchestrator(client_of(server, 1.0)) as orchestrator:
        orchestrator.declare_queue("frozen")
        server.freeze()
        with pytest.raises(BrokerUnavailableError):
            orchestrator.queue_status("frozen")
        server.thaw()
        assert orchestrator.queue_status("frozen") == 0


def test_a_consumer_stops_and_an_orchestrator_closes(server: Any) -> None:
    orchestrator = Orchestrator(client_of(server, REDIS_TIMEOUT if isinstance(server, RedisServer) else FOR_EVER))
    orchestrator.publish_message("stopped", image_job())
    ran = threading.Event()
    consumer: Consumer[Any] = Consumer(orchestrator, "stopped", lambda _: ran.set())
    thread = threading.Thread(target=consumer.consume, daemon=True)
    thread.start()
    assert ran.wait(30)
    # The job is acknowledged before the next is waited for.
    wait_until(lambda: orchestrator.queue_info("stopped").ready == 0, "it is received")
    server.freeze()
    consumer.stop()
    wait_until(lambda: not thread.is_alive(), "the consumer has ended")
    closing = threading.Thread(target=orchestrator.close, daemon=True)
    closing.start()
    wait_until(lambda: not closing.is_alive(), "the orchestrator is closed")


def test_a_consumer_that_waits_for_work_notices_it_and_goes_on_afterwards(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    def handle(job: Job[ImageSchema]) -> None:
        ran.append(job.payload.input.url)

    with Orchestrator(client_of(server, 1.0)) as orchestrator:
        orchestrator.declare_queue("waiting")
        consumer = Consumer(orchestrator, "waiting", handle, schema=ImageSchema)
        thread = threading.Thread(target=consumer.run_forever)
        thread.start()
        try:
            orchestrator.publish_message("waiting", image_job("before"))
            wait_until(lambda: ran == ["before"], "it works")
            server.freeze()
            wait_until(lambda: "consuming is interrupted" in caplog.text, "it notices")
            server.thaw()
            orchestrator.publish_message("waiting", image_job("after"))
            wait_until(lambda: "after" in ran, "it goes on")
        finally:
            server.thaw()
            consumer.stop()
            thread.join()


def test_a_celery_worker_ends_on_sigterm(server: Any, tmp_path: Path, redis_url: str) -> None:
    rabbitmq = isinstance(server, RabbitMQServer)
    url = server.url(server.add_vhost()) if rabbitmq else server.url()
    settings = {"broker_transport_options": {} if rabbitmq else {"socket_timeout": REDIS_TIMEOUT}}
    with Runners(url, "prefork", tmp_path, results=redis_url, settings=settings) as runners:
        queue = runners.new_name()
        runner = runners.new(queue).start().wait_ready()
        runners.ended(runners.submit(queue=queue))
        runners.wait_empty(queue)
        server.freeze()
        try:
            runner.stop()
        finally:
            server.thaw()


class _AlarmError(Exception):
    """Raised by a handler of a signal in whatever is going on."""


def test_publishing_that_a_signal_handler_interrupts_does_not_harm_the_next(server: Any) -> None:
    def ring(*_: object) -> None:
        raise _AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with Orchestrator(client_of(server, 30.0)) as orchestrator:
            orchestrator.publish_message("interrupted", image_job())
            server.freeze()
            # Long after the message was sent: what is interrupted is the wait for the answer.
            signal.setitimer(signal.ITIMER_REAL, 2.0)
            with pytest.raises(_AlarmError):
                orchestrator.publish_message("interrupted", image_job())
            server.thaw()
            for _ in range(5):
                orchestrator.publish_message("interrupted", image_job())
            # What was interrupted may have been published or not.
            wait_until(lambda: orchestrator.queue_status("interrupted") in (6, 7), "all others are there")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
