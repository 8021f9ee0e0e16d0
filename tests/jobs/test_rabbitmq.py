"""What only RabbitMQ does: durable queues, persistent and confirmed publishing, virtual hosts, queues of others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import kombu
import pytest

from mindtrace_jobs import (
    Consumer,
    ExecutionStatus,
    Orchestrator,
    PublishError,
    QueueNotFoundError,
    RejectJob,
    ResultsNotConfiguredError,
    RetryPolicy,
)
from mindtrace_jobs.testing.base import PATIENCE, receive_all, wait_for_ready
from mindtrace_jobs.testing.models import ImageSchema, image_job, urls
from tests.jobs.servers import RabbitMQServer


@pytest.fixture
def orchestrator(rabbitmq_url: str) -> Iterator[Orchestrator]:
    with Orchestrator.from_url(rabbitmq_url) as orchestrator:
        yield orchestrator


def test_queues_are_durable_and_messages_persistent(rabbitmq_url: str, orchestrator: Orchestrator) -> None:
    orchestrator.publish_message("q", image_job())
    with kombu.Connection(rabbitmq_url) as connection, connection.channel() as channel:
        channel.queue_declare(
            "q", durable=True, auto_delete=False
        )  # RabbitMQ refuses a declaration with other arguments
        message = channel.basic_get("q")
        assert message.properties["delivery_mode"] == 2


def test_a_queue_is_declared_as_celery_declares_it(rabbitmq_url: str, orchestrator: Orchestrator) -> None:
    orchestrator.declare_queue("q")
    with kombu.Connection(rabbitmq_url) as connection, connection.channel() as channel:
        kombu.Queue("q", kombu.Exchange("q", type="direct"), routing_key="q")(channel).declare()


@pytest.mark.parametrize("count", [5, 1201])  # a long batch is sent in parts
def test_every_refused_job_of_a_batch_is_named_and_the_others_are_there(
    rabbitmq_url: str, orchestrator: Orchestrator, count: int
) -> None:
    with kombu.Connection(rabbitmq_url) as connection, connection.channel() as channel:
        channel.queue_declare(
            "small", durable=True, auto_delete=False, arguments={"x-max-length": 2, "x-overflow": "reject-publish"}
        )
    jobs = [image_job(str(number)) for number in range(count)]
    with pytest.raises(PublishError) as caught:
        orchestrator.publish_many("small", jobs)
    kept = [job.id for job in receive_all(orchestrator, "small")]
    assert kept
    assert set(caught.value.failures) == {job.id for job in jobs} - set(kept)
    orchestrator.publish_message("small", image_job("fits"))  # the channel still counts its confirms rightly
    assert urls(receive_all(orchestrator, "small")) == ["fits"]


def test_an_existing_queue_with_other_arguments_is_used_as_it_is_with_one_warning(
    rabbitmq_url: str, orchestrator: Orchestrator
) -> None:
    with kombu.Connection(rabbitmq_url) as connection, connection.channel() as channel:
        channel.queue_declare("theirs", durable=False, auto_delete=False, arguments={"x-max-length": 100})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            orchestrator.declare_queue("theirs", "priority")
    assert len([warning for warning in caught if "theirs" in str(warning.message)]) == 1
    orchestrator.publish_many("theirs", [image_job("a"), image_job("b")])
    wait_for_ready(orchestrator, "theirs", 2)
    ran: list[str] = []
    consumer: Consumer[ImageSchema] = Consumer(orchestrator, "theirs", lambda job: ran.append(job.payload.input.url))
    assert consumer.consume(2, timeout=PATIENCE) == 2
    assert ran == ["a", "b"]
    orchestrator.publish_message("theirs", image_job("late"), delay=0.05)
    assert orchestrator.receive_message("theirs", timeout=PATIENCE) is not None


@pytest.fixture
def quorum_queue(rabbitmq_url: str) -> str:
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 3}
    with kombu.Connection(rabbitmq_url) as connection, connection.channel() as channel:
        channel.queue_declare("quorum", durable=True, auto_delete=False, arguments=arguments)
    return "quorum"


def test_a_quorum_queue_is_used_as_any_other(orchestrator: Orchestrator, quorum_queue: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        orchestrator.declare_queue(quorum_queue)
    assert len(caught) == 1
    jobs = [image_job(str(number)) for number in range(4)]
    orchestrator.publish_message(quorum_queue, jobs[0])
    orchestrator.publish_many(quorum_queue, jobs[1:])
    wait_for_ready(orchestrator, quorum_queue, 4)
    assert orchestrator.receive_message(quorum_queue, schema=ImageSchema) == jobs[0]
    with pytest.raises(RejectJob), orchestrator.receiving(quorum_queue):
        raise RejectJob("not this one")
    assert orchestrator.dead_letters.show(quorum_queue, jobs[1].id).reason == "rejected"
    ran: list[str] = []
    consumer: Consumer[ImageSchema] = Consumer(orchestrator, quorum_queue, lambda job: ran.append(job.id), prefetch=2)
    assert consumer.consume(2, timeout=PATIENCE) == 2
    assert ran == [job.id for job in jobs[2:]]
    orchestrator.publish_message(quorum_queue, image_job("late"), delay=0.05)
    assert orchestrator.receive_message(quorum_queue, timeout=PATIENCE) is not None


def test_a_quorum_queue_drops_what_comes_back_more_often_than_its_limit(
    orchestrator: Orchestrator, quorum_queue: str
) -> None:
    """So the number of workers a job may lose must not be greater."""
    job = image_job()
    orchestrator.publish_message(quorum_queue, job)
    for returned in range(4):
        delivery = orchestrator.client.get(quorum_queue, timeout=PATIENCE)
        assert delivery is not None
        assert (delivery.delivery_count, delivery.losses) == (returned, 0)
        delivery.requeue()
    assert orchestrator.client.get(quorum_queue) is None


def test_virtual_hosts_are_strangers(rabbitmq_server: RabbitMQServer, orchestrator: Orchestrator) -> None:
    orchestrator.publish_message("q", image_job("here"))
    other = rabbitmq_server.add_vhost()
    with Orchestrator.from_url(rabbitmq_server.url(other)) as elsewhere, pytest.raises(QueueNotFoundError):
        elsewhere.queue_status("q")
    rabbitmq_server.delete_vhost(other)


def test_without_a_result_backend_jobs_run_and_asking_for_status_says_what_to_do(orchestrator: Orchestrator) -> None:
    handle = orchestrator.submit(image_job("a"))
    for ask in (
        handle.status,
        handle.result,
        handle.cancel,
        lambda: orchestrator.job_status(handle.id),
        lambda: orchestrator.job_result(handle.id),
        lambda: orchestrator.cancel(handle.id),
        lambda: orchestrator.save(image_job(status=ExecutionStatus.COMPLETED)),
    ):
        with pytest.raises(ResultsNotConfiguredError, match="result_backend"):
            ask()
    done: Consumer[ImageSchema] = Consumer(orchestrator, "default_jobs", lambda job: None)
    assert done.consume_until_empty() == 1


def test_closing_closes_every_connection(rabbitmq_server: RabbitMQServer, rabbitmq_url: str) -> None:
    vhost = unquote(urlsplit(rabbitmq_url).path[1:])
    with Orchestrator.from_url(rabbitmq_url) as orchestrator:
        orchestrator.publish_message("q", image_job())
        with orchestrator.receiving("q"):
            orchestrator.queue_status("q")
        with pytest.raises(QueueNotFoundError):
            Consumer(orchestrator, "nowhere", lambda job: None).consume_until_empty()
    assert vhost not in rabbitmq_server.rabbitmqctl("list_connections", "vhost").split()


def test_a_job_that_may_lose_no_worker_is_given_up_once_it_was_started_and_not_before(
    orchestrator: Orchestrator,
) -> None:
    policy = RetryPolicy(max_worker_losses=1)
    job = image_job("a")
    orchestrator.publish_message("q", job)
    lifecycle = orchestrator.lifecycle
    for begun in (False, False, True):  # prefetched twice by a holder that vanished, then begun
        with orchestrator.client.consume(["q"]) as source:
            delivery = source.next(PATIENCE)
            assert delivery is not None
            received = lifecycle.receive(delivery, policy.max_worker_losses)
            assert received is not None
            assert not begun or lifecycle.start(received)
    assert Consumer(orchestrator, "q", lambda job: None, retry=policy).consume(1, timeout=PATIENCE) == 1
    [letter] = orchestrator.dead_letters.list("q")
    assert (letter.id, letter.reason, letter.losses) == (job.id, "worker-lost", 1)


def test_the_marks_of_a_jobs_starts_go_when_it_ends(orchestrator: Orchestrator) -> None:
    orchestrator.publish_message("q", image_job("a"))
    with orchestrator.client.consume(["q"]) as source:
        assert source.next(PATIENCE) is not None
    delivery = orchestrator.client.get("q", timeout=PATIENCE)
    assert delivery is not None
    assert delivery.redelivered
    assert (delivery.started_before(), delivery.start(), delivery.started_before()) == (0, True, 1)
    delivery.requeue()
    delivery = orchestrator.client.get("q", timeout=PATIENCE)
    assert delivery is not None
    assert delivery.started_before() == 1
    delivery.start()
    delivery.acknowledge()
    orchestrator.publish_message("q", image_job("b"))
    assert orchestrator.receive_message("q") is not None
