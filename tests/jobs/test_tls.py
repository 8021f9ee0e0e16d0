"""Everything works over TLS, results included, with servers that prove who they are and with no others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mindtrace_jobs import (
    BrokerUnavailableError,
    ConfigurationError,
    Consumer,
    ExecutionStatus,
    Job,
    Orchestrator,
    RabbitMQClient,
    RedisClient,
)
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, image_job
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.redis_channels import PATIENCE, connection, consume, drain, publish
from tests.jobs.servers.base import HOST
from tests.jobs.tls import Certificates, TLSRabbitMQServer, TLSRedisServer

UNTRUSTED = r"does not prove who it is.*CERTIFICATE_VERIFY_FAILED"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def redis(certificates: Certificates) -> Iterator[TLSRedisServer]:
    with TLSRedisServer(certificates) as server:
        yield server


def run_one(client: RedisClient) -> None:
    """Declare, submit, consume, record, read."""

    def handle(job: Job[ImageSchema]) -> ImageOutput:
        return ImageOutput(objects=[job.payload.input.url])

    with Orchestrator(client) as orchestrator:
        orchestrator.publish_many("many", [image_job() for _ in range(200)])
        handle_of_one = orchestrator.submit(image_job("a"), queue="one")
        consumer = Consumer(orchestrator, ["one", "many"], handle, schema=ImageSchema, prefetch=10)
        assert consumer.consume(201, timeout=PATIENCE) == 201
        assert handle_of_one.status() is ExecutionStatus.COMPLETED
        assert handle_of_one.result(PATIENCE) == ImageOutput(objects=["a"])


@pytest.mark.parametrize("by", ["constructor", "url and options", "url"])
def test_jobs_and_results_travel_over_tls(redis: TLSRedisServer, certificates: Certificates, by: str) -> None:
    options = {"ssl_ca_certs": str(certificates.authority)}
    made = {
        "constructor": lambda: RedisClient(HOST, redis.port, ssl=options),
        "url and options": lambda: RedisClient.from_url(redis.url(1), ssl=options),
        "url": lambda: RedisClient.from_url(redis.checked_url(2)),
    }
    run_one(made[by]())


def test_server_may_ask_clients_for_a_certificate(certificates: Certificates) -> None:
    options = {
        "ssl_ca_certs": str(certificates.authority),
        "ssl_certfile": str(certificates.certificate),
        "ssl_keyfile": str(certificates.key),
    }
    with TLSRedisServer(certificates, mutual=True) as server:
        run_one(RedisClient(HOST, server.port, ssl=options))
        del options["ssl_certfile"], options["ssl_keyfile"]
        with (
            Orchestrator(RedisClient(HOST, server.port, ssl=options)) as orchestrator,
            pytest.raises(BrokerUnavailableError),
        ):
            orchestrator.declare_queue("q")


def test_waiting_consumer_wakes_over_tls(redis: TLSRedisServer) -> None:
    with connection(redis.checked_url(3), safety_poll=600.0) as source, connection(redis.checked_url(3)) as publisher:
        received = consume(source.default_channel)
        for number in range(3):
            with pytest.raises(socket.timeout):
                source.drain_events(timeout=0.1)
            publish(publisher.default_channel, "x" * 100_000 * number)
            drain(source, received, number + 1)[-1].ack()


def test_celery_worker_runs_jobs_over_tls(redis: TLSRedisServer, tmp_path: Path) -> None:
    broker = Broker("redis", redis.checked_url(4), redis.checked_url(5))
    worker = Worker(broker, tmp_path)
    try:
        worker.wait_ready()
        handle = broker.orchestrator.submit(Job(payload=DetectionSchema(input=DetectionInput(image="a.png"))))
        output = handle.result(PATIENCE)
        assert isinstance(output, DetectionOutput)
        assert output.labels == ["a.png", "DetectionInput"]
        assert "certificate is not checked" not in worker.log.read_text()
    finally:
        worker.close()
        broker.close()


# --- servers that do not prove who they are


def verbs(orchestrator: Orchestrator) -> list[Callable[[], Any]]:
    return [
        lambda: orchestrator.declare_queue("q"),
        lambda: orchestrator.submit(image_job(), queue="q"),
        lambda: Consumer(orchestrator, "q", lambda job: None).consume_until_empty(),
    ]


@pytest.mark.parametrize("trust", ["a stranger's authority", "the system's authorities", "the URL alone"])
def test_server_of_an_unknown_authority_is_refused_by_every_verb(
    redis: TLSRedisServer, certificates: Certificates, trust: str
) -> None:
    clients = {
        "a stranger's authority": lambda: RedisClient(
            HOST, redis.port, ssl={"ssl_ca_certs": str(certificates.stranger)}
        ),
        "the system's authorities": lambda: RedisClient(HOST, redis.port, ssl=True),
        "the URL alone": lambda: RedisClient.from_url(redis.url()),
    }
    with Orchestrator(clients[trust]()) as orchestrator:
        for verb in verbs(orchestrator):
            with pytest.raises(BrokerUnavailableError, match=UNTRUSTED):
                verb()


def test_certificate_of_another_host_is_refused(redis: TLSRedisServer, certificates: Certificates) -> None:
    options = {"ssl_ca_certs": str(certificates.authority)}
    with (
        Orchestrator(RedisClient("localhost", redis.port, ssl=options)) as orchestrator,
        pytest.raises(BrokerUnavailableError, match="Hostname mismatch"),
    ):
        orchestrator.declare_queue("q")


def test_no_check_is_made_where_none_is_wanted(redis: TLSRedisServer) -> None:
    run_one(RedisClient("localhost", redis.port, 6, ssl={"ssl_cert_reqs": "none"}))


def test_options_that_redis_py_does_not_have_are_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="'ca_certs'"):
        RedisClient(ssl={"ca_certs": "authority.pem"})


# --- RabbitMQ


def test_jobs_travel_over_tls_to_rabbitmq_and_to_no_stranger(certificates: Certificates) -> None:
    with TLSRabbitMQServer(certificates) as server:

        def client(authority: Path) -> RabbitMQClient:
            options = {"ca_certs": str(authority), "server_hostname": HOST}
            return RabbitMQClient(HOST, server.tls_port, server.user, server.password, ssl=options)

        with Orchestrator(client(certificates.authority)) as orchestrator:
            sent = image_job()
            orchestrator.publish_message("q", sent)
            received = orchestrator.receive_message("q", timeout=PATIENCE)
            assert received is not None
            assert received.id == sent.id
        with (
            Orchestrator(client(certificates.stranger)) as orchestrator,
            pytest.raises(BrokerUnavailableError, match=UNTRUSTED),
        ):
            orchestrator.declare_queue("q")
