"""Real faults: servers that are not there, refuse, die or restart; workers that are killed; connections that are cut."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from mindtrace_jobs import (
    AccessDeniedError,
    BrokerUnavailableError,
    Consumer,
    ExecutionStatus,
    Job,
    Orchestrator,
    RetryPolicy,
)
from mindtrace_jobs.testing.base import wait_until
from mindtrace_jobs.testing.models import ImageSchema, image_job, urls
from tests.jobs.fault_worker import PATIENCE, Worker
from tests.jobs.servers import RabbitMQServer, RedisServer, TcpProxy
from tests.jobs.servers.base import free_port

SECRET = "p4ss/w0rd:s3cret"
QUOTED = "p4ss%2Fw0rd%3As3cret"


def _verbs(orchestrator: Orchestrator) -> list[Callable[[], Any]]:
    return [
        lambda: orchestrator.declare_queue("q"),
        lambda: orchestrator.publish_message("q", image_job()),
        lambda: orchestrator.publish_many("q", [image_job()]),
        lambda: orchestrator.receive_message("q"),
        lambda: orchestrator.queue_status("q"),
        lambda: Consumer(orchestrator, "q", lambda job: None).consume_until_empty(),
    ]


def _receive_ids(orchestrator: Orchestrator, queue: str) -> list[str]:
    ids = []
    while (job := orchestrator.receive_message(queue, timeout=1)) is not None:
        ids.append(job.id)
    return ids


# --- nobody there


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_broker_that_is_not_there_is_an_error_of_every_verb(scheme: str, host: str) -> None:
    path = "0" if scheme == "redis" else ""
    url = f"{scheme}://me:{QUOTED}@{host}:{free_port()}/{path}"
    with Orchestrator.from_url(url, client_options={"connect_timeout": 1.0}) as orchestrator:
        for verb in _verbs(orchestrator):
            with pytest.raises(BrokerUnavailableError, match=host) as caught:
                verb()
            assert isinstance(caught.value, ConnectionError)
            assert caught.value.retryable
            assert SECRET not in str(caught.value)
            assert QUOTED not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_server_that_never_answers_is_an_error_and_no_endless_wait(
    scheme: str, redis_server: RedisServer, rabbitmq_server: RabbitMQServer, proxy_to: Callable[[str], TcpProxy]
) -> None:
    url = redis_server.url() if scheme == "redis" else rabbitmq_server.url()
    proxy = proxy_to(url)
    proxy.freeze()
    options: dict[str, Any] = {"connect_timeout": 0.5}
    if scheme == "redis":
        options["socket_timeout"] = 0.5
    with Orchestrator.from_url(proxy.url(url), client_options=options) as orchestrator:
        start = time.monotonic()
        with pytest.raises(BrokerUnavailableError):
            orchestrator.queue_status("q")
        assert time.monotonic() - start < PATIENCE


# --- refused


def _assert_denied_without_a_word_of_the_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with Orchestrator.from_url(url) as orchestrator:
        said = [repr(orchestrator), repr(orchestrator.client), str(orchestrator.client.where)]
        for verb in _verbs(orchestrator):
            with pytest.raises(AccessDeniedError) as caught:
                verb()
            assert isinstance(caught.value, PermissionError)
            assert not caught.value.retryable
            said += [str(caught.value), "".join(traceback.format_exception(caught.value))]
    for text in [*said, caplog.text]:
        assert SECRET not in text
        assert QUOTED not in text


def test_a_wrong_redis_password_is_denied_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(password="right") as server:
        address = f"127.0.0.1:{server.port}/0"
        _assert_denied_without_a_word_of_the_password(f"redis://:{QUOTED}@{address}", caplog)
        _assert_denied_without_a_word_of_the_password(f"redis://me:{QUOTED}@{address}", caplog)
        _assert_denied_without_a_word_of_the_password(f"redis://{address}", caplog)
        with Orchestrator.from_url(server.url()) as orchestrator:
            orchestrator.declare_queue("q")


def test_a_right_password_is_never_shown_either(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with RedisServer(password=SECRET) as server, Orchestrator.from_url(server.url()) as orchestrator:
        orchestrator.submit(image_job(), queue="q")
        assert orchestrator.receive_message("q") is not None
        server.kill()
        with pytest.raises(BrokerUnavailableError) as broker:
            orchestrator.queue_status("q")
        with pytest.raises(BrokerUnavailableError) as results:
            orchestrator.job_status("any")
        shown = [repr(orchestrator), caplog.text]
        shown += ["".join(traceback.format_exception(caught.value)) for caught in (broker, results)]
        for text in shown:
            assert SECRET not in text
            assert QUOTED not in text


def test_a_wrong_rabbitmq_password_is_denied_and_never_shown(
    rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts = urlsplit(rabbitmq_url)
    wrong = urlunsplit(parts._replace(netloc=f"{parts.username}:{QUOTED}@{parts.hostname}:{parts.port}"))
    _assert_denied_without_a_word_of_the_password(wrong, caplog)


def test_an_unknown_virtual_host_is_denied_by_name(rabbitmq_url: str) -> None:
    with Orchestrator.from_url(f"{rabbitmq_url}-nowhere") as orchestrator:
        for verb in _verbs(orchestrator):
            with pytest.raises(AccessDeniedError, match="nowhere"):
                verb()


# --- killed workers


@pytest.fixture(params=["redis", "rabbitmq"])
def distributed(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """URL and client options of a broker that other processes can use, with results and a short lease."""
    if request.param == "redis":
        return request.getfixturevalue("redis_url"), {"lease": 1.0}
    return request.getfixturevalue("rabbitmq_url"), {"result_backend": request.getfixturevalue("redis_url")}


def test_a_job_whose_worker_is_killed_runs_again_elsewhere(distributed: tuple[str, dict[str, Any]]) -> None:
    url, options = distributed
    with Orchestrator.from_url(url, client_options=options) as orchestrator:
        handle = orchestrator.submit(image_job("wait"), queue="q")
        orchestrator.publish_many("q", [image_job("second"), image_job("third")])
        with Worker(url, "q", prefetch=3, client_options=options) as worker:
            worker.wait_for("started wait")
            assert handle.status() is ExecutionStatus.RUNNING
            worker.process.kill()
            worker.process.wait()
        ran: list[str] = []
        consumer: Consumer[ImageSchema] = Consumer(
            orchestrator, "q", lambda job: ran.append(job.payload.input.url), schema=ImageSchema
        )
        assert consumer.consume(3, timeout=PATIENCE) == 3
        assert sorted(ran) == ["second", "third", "wait"]
        record = handle.record()
        assert (record.status, record.starts) == (ExecutionStatus.COMPLETED, 2)
        assert orchestrator.queue_status("q") == 0
        assert orchestrator.dead_letters.count("q") == 0


def test_a_job_that_kills_three_workers_is_dead_lettered_and_others_run(
    distributed: tuple[str, dict[str, Any]],
) -> None:
    url, options = distributed
    with Orchestrator.from_url(url, client_options=options) as orchestrator:
        handle = orchestrator.submit(image_job("wait"), queue="q")
        for _ in range(3):
            with Worker(url, "q", client_options=options) as worker:
                worker.wait_for("started wait")
                worker.process.kill()
                worker.process.wait()
        orchestrator.publish_message("q", image_job("behind"))
        ran: list[str] = []
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", lambda job: ran.append(job.payload.input.url))
        assert consumer.consume(2, timeout=PATIENCE) == 2
        assert ran == ["behind"]
        [letter] = orchestrator.dead_letters.list("q")
        assert (letter.id, letter.reason) == (handle.id, "worker-lost")
        assert handle.status() is ExecutionStatus.FAILED


def test_sigterm_finishes_the_running_job_and_gives_the_rest_back(distributed: tuple[str, dict[str, Any]]) -> None:
    url, options = distributed
    with Orchestrator.from_url(url, client_options=options) as orchestrator:
        handle = orchestrator.submit(image_job("wait"), queue="q")
        orchestrator.publish_many("q", [image_job(name) for name in "bcd"])
        with Worker(url, "q", prefetch=4, client_options=options) as worker:
            worker.wait_for("started wait")
            worker.process.terminate()
            worker.go_on()
            worker.wait_for("settled 1")
            assert worker.process.wait(PATIENCE) == 0
            assert "finished wait" in worker.said
        assert handle.status() is ExecutionStatus.COMPLETED
        left = [orchestrator.receive_message("q", timeout=PATIENCE) for _ in range(3)]
        assert urls([job for job in left if job]) == ["b", "c", "d"]
        assert orchestrator.queue_status("q") == 0


# --- restarted brokers


def _outlives_a_restart(url: str, restart: Callable[[], None]) -> None:
    """Jobs queued before a restart are run after it by a Consumer that was waiting all the time."""
    with Orchestrator.from_url(url) as orchestrator:
        kept = [image_job(str(number)) for number in range(20)]
        orchestrator.publish_many("kept", kept)
        orchestrator.declare_queue("q")
        ran: list[str] = []
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", lambda job: ran.append(job.payload.input.url))
        thread = threading.Thread(target=consumer.run_forever, daemon=True)
        thread.start()
        orchestrator.publish_message("q", image_job("before"))
        wait_until(lambda: ran == ["before"], "the job before the restart")
        restart()
        orchestrator.publish_message("q", image_job("after"))
        wait_until(lambda: "after" in ran, "the job after the restart")
        consumer.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert _receive_ids(orchestrator, "kept") == [job.id for job in kept]


def test_jobs_and_consumers_outlive_a_killed_and_restarted_redis(own_redis_server: RedisServer) -> None:
    def restart() -> None:
        own_redis_server.kill()
        own_redis_server.start()

    _outlives_a_restart(own_redis_server.url(), restart)


def test_jobs_and_consumers_outlive_a_restarted_rabbitmq(own_rabbitmq_server: RabbitMQServer) -> None:
    _outlives_a_restart(own_rabbitmq_server.url(), own_rabbitmq_server.restart)


@pytest.mark.parametrize("backend", ["redis", "rabbitmq"])
def test_delayed_jobs_outlive_a_broker_that_is_killed_as_they_come_due(
    backend: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(f"own_{backend}_server")
    queue = "delayed"
    with Orchestrator.from_url(server.url()) as orchestrator:
        due = datetime.now(UTC) + timedelta(seconds=2)
        jobs = [image_job(str(number)) for number in range(100)]
        for job in jobs:
            orchestrator.publish_message(queue, job, eta=due)
        wait_until(lambda: orchestrator.queue_status(queue) > 0, "the first jobs that are due")
        server.kill()
        server.start()
        expected = {job.id for job in jobs}
        found: set[str] = set()  # some may come twice
        while found != expected:
            received = orchestrator.receive_message(queue, timeout=PATIENCE)
            assert received is not None
            found.add(received.id)


# --- cut connections


@pytest.fixture(params=["redis", "rabbitmq"])
def remote_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


def test_a_consumer_goes_on_after_an_acknowledgement_finds_its_connection_cut(
    remote_url: str, proxy_to: Callable[[str], TcpProxy]
) -> None:
    """Writing to it fails then, and not reading from it."""
    proxy = proxy_to(remote_url)
    options = {"lease": 1.0} if remote_url.startswith("redis") else {}
    ran: list[str] = []

    def handle(job: Job[ImageSchema]) -> None:
        ran.append(job.payload.input.url)
        if len(ran) in (1, 3):
            proxy.cut(reset=True)
            time.sleep(0.1)  # the reset is there before the acknowledgement is written

    with (
        Orchestrator.from_url(remote_url) as publisher,
        Orchestrator.from_url(proxy.url(remote_url), client_options=options) as orchestrator,
    ):
        publisher.declare_queue("q")
        publisher.publish_many("q", [image_job(name) for name in "abc"])
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", handle)
        thread = threading.Thread(target=consumer.run_forever, daemon=True)
        thread.start()
        wait_until(lambda: set(ran) == set("abc"), "all jobs run")
        publisher.publish_message("q", image_job("later"))
        wait_until(lambda: "later" in ran, "what comes later runs")
        consumer.stop()
        thread.join()


def test_a_consumer_goes_on_after_its_connection_is_cut(remote_url: str, proxy_to: Callable[[str], TcpProxy]) -> None:
    proxy = proxy_to(remote_url)
    options = {"lease": 1.0} if remote_url.startswith("redis") else {}
    jobs = [image_job(str(number)) for number in range(60)]
    ran: list[str] = []
    with (
        Orchestrator.from_url(remote_url) as publisher,
        Orchestrator.from_url(proxy.url(remote_url), client_options=options) as orchestrator,
    ):
        publisher.declare_queue("q")
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", lambda job: ran.append(job.id), prefetch=5)
        thread = threading.Thread(target=consumer.run_forever, daemon=True)
        thread.start()
        for number, job in enumerate(jobs):
            publisher.publish_message("q", job)
            if number % 20 == 10:
                wait_until(lambda job=job: job.id in ran, "the job before the cut")  # type: ignore[misc]
                proxy.cut(reset=number > 30)
        wait_until(lambda: {job.id for job in jobs} <= set(ran), "all jobs run")
        consumer.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_publishing_over_a_connection_that_is_cut_loses_no_job_it_confirmed(
    remote_url: str, proxy_to: Callable[[str], TcpProxy]
) -> None:
    proxy = proxy_to(remote_url)
    confirmed: list[str] = []
    done = threading.Event()
    with (
        Orchestrator.from_url(remote_url) as reader,
        Orchestrator.from_url(proxy.url(remote_url)) as orchestrator,
    ):
        reader.declare_queue("q")

        def publish() -> None:
            while not done.is_set():
                job: Job[ImageSchema] = image_job()
                try:
                    confirmed.append(orchestrator.publish_message("q", job))
                except BrokerUnavailableError:
                    continue  # it may be there or not; the caller knows that nobody said so

        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        for cuts in range(1, 6):
            goal = len(confirmed) + 20
            wait_until(lambda goal=goal: len(confirmed) >= goal, "jobs published")  # type: ignore[misc]
            proxy.cut(reset=cuts % 2 == 0)
        goal = len(confirmed) + 20
        wait_until(lambda: len(confirmed) >= goal, "jobs published after the last cut")
        done.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert set(confirmed) <= set(_receive_ids(reader, "q"))


def test_submitting_to_a_broker_that_is_gone_leaves_no_record(redis_url: str) -> None:
    options = {"result_backend": redis_url, "connect_timeout": 1.0}
    with Orchestrator.from_url(f"amqp://127.0.0.1:{free_port()}//", client_options=options) as orchestrator:
        job = image_job()
        with pytest.raises(BrokerUnavailableError):
            orchestrator.submit(job)
        assert orchestrator.results.find(job.id) is None


def test_worker_losses_are_counted_without_a_result_backend_too(rabbitmq_url: str) -> None:
    policy = RetryPolicy(max_worker_losses=2)
    with Orchestrator.from_url(rabbitmq_url) as orchestrator:
        job = image_job("wait")
        orchestrator.publish_message("q", job)
        for _ in range(2):
            with Worker(rabbitmq_url, "q") as worker:
                worker.wait_for("started wait")
                worker.process.kill()
                worker.process.wait()
        consumer: Consumer[ImageSchema] = Consumer(orchestrator, "q", lambda job: None, retry=policy)
        assert consumer.consume(1, timeout=PATIENCE) == 1
        [letter] = orchestrator.dead_letters.list("q")
        assert (letter.id, letter.reason) == (job.id, "worker-lost")
