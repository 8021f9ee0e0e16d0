"""What only Redis does: persistence by its append-only file, leases, key prefixes."""

from __future__ import annotations

import threading

import pytest
import redis

from mindtrace_jobs import (
    BrokerUnavailableError,
    ConfigurationError,
    Consumer,
    ExecutionStatus,
    Job,
    Orchestrator,
    PublishError,
)
from mindtrace_jobs.testing.base import PATIENCE, put_json, receive_all, with_policy
from mindtrace_jobs.testing.models import ImageSchema, image_job, urls
from tests.jobs.fault_worker import Worker
from tests.jobs.servers import RedisServer, wait_until
from tests.jobs.servers.base import free_port


def test_every_kind_of_job_is_still_there_after_the_server_was_killed(own_redis_server: RedisServer) -> None:
    options = {"lease": 1.0}
    with Orchestrator.from_url(own_redis_server.url(), client_options=options) as orchestrator:
        orchestrator.declare_queue("priority", "priority")
        orchestrator.declare_queue("stack", "stack")
        for name, priority in (("low", 0), ("high", 9)):
            orchestrator.publish_message("priority", image_job(name, priority=priority))
            orchestrator.publish_message("stack", image_job(name))
        handle = orchestrator.submit(image_job("submitted"), queue="submitted")
        orchestrator.publish_message("delayed", image_job("delayed"), delay=0.5)
        orchestrator.publish_message("held", image_job("wait"))
        orchestrator.declare_exchange("exchange", "topic")
        orchestrator.declare_queue("bound")
        orchestrator.bind_queue("bound", "exchange", "a.*")
        with Worker(own_redis_server.url(), "held", client_options=options) as worker:
            worker.wait_for("started wait")  # and is killed with the job in hand
    own_redis_server.kill()
    own_redis_server.start()
    with Orchestrator.from_url(own_redis_server.url(), client_options=options) as orchestrator:
        assert urls(receive_all(orchestrator, "priority")) == ["high", "low"]
        assert urls(receive_all(orchestrator, "stack")) == ["high", "low"]
        assert urls(receive_all(orchestrator, "submitted")) == ["submitted"]
        assert orchestrator.job_status(handle.id) is ExecutionStatus.RUNNING  # handed over, and never said to be done
        for queue, name in (("delayed", "delayed"), ("held", "wait")):
            job = orchestrator.receive_message(queue, timeout=PATIENCE)
            assert job is not None
            assert urls([job]) == [name]
        orchestrator.publish_message("", image_job("routed"), exchange="exchange", routing_key="a.b")
        assert urls(receive_all(orchestrator, "bound")) == ["routed"]


def test_a_key_prefix_keeps_two_users_of_a_database_apart(redis_url: str) -> None:
    with (
        Orchestrator.from_url(redis_url, client_options={"key_prefix": "one:"}) as one,
        Orchestrator.from_url(redis_url, client_options={"key_prefix": "two:"}) as two,
    ):
        one.publish_message("q", image_job("one"))
        two.publish_message("q", image_job("two"))
        assert urls(receive_all(one, "q")) == ["one"]
        assert urls(receive_all(two, "q")) == ["two"]
        # Their jobs may have one name.
        job = image_job("one")
        one.submit(job, queue="q")
        assert two.results.find(job.id) is None
        with redis.Redis.from_url(redis_url) as server:
            assert not [key for key in server.scan_iter() if not key.startswith((b"one:", b"two:"))]
        assert one.job_status(job.id) is ExecutionStatus.QUEUED


@pytest.mark.parametrize("name", ["unacked", "unacked_index", "mindtrace.queues", "_kombu.binding.images"])
def test_a_queue_cannot_take_the_key_of_the_transports_records(redis_url: str, name: str) -> None:
    with Orchestrator.from_url(redis_url) as orchestrator, redis.Redis.from_url(redis_url) as server:
        for verb in (orchestrator.declare_queue, lambda queue: orchestrator.publish_message(queue, image_job())):
            with pytest.raises(ConfigurationError, match=name):
                verb(name)
        assert server.keys() == []


def test_nothing_is_left_behind_when_all_jobs_are_done(redis_url: str) -> None:
    with Orchestrator.from_url(redis_url) as orchestrator, redis.Redis.from_url(redis_url) as server:
        orchestrator.publish_many("q", [image_job() for _ in range(50)])
        done: Consumer[ImageSchema] = Consumer(orchestrator, "q", lambda job: None, prefetch=10)
        assert done.consume_until_empty() == 50
        assert [server.hlen("unacked"), server.zcard("unacked_index")] == [0, 0]


def test_a_full_server_refuses_jobs_by_name_and_still_hands_out_what_it_has() -> None:
    with RedisServer() as server, Orchestrator.from_url(server.url()) as orchestrator:
        orchestrator.publish_message("q", image_job("kept"))
        with redis.Redis.from_url(server.url()) as admin:
            admin.config_set("maxmemory", 1)
            with pytest.raises(PublishError, match="out of memory"):
                orchestrator.publish_message("q", image_job("refused"))
            assert urls(receive_all(orchestrator, "q")) == ["kept"]


def test_a_consumer_waits_out_a_server_that_takes_no_writes(
    own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_redis_server.url()
    with Orchestrator.from_url(url) as orchestrator, redis.Redis.from_url(url) as server:
        orchestrator.publish_many("q", [image_job("a"), image_job("b")])
        started, gate = threading.Event(), threading.Event()
        ran: list[str] = []

        def work(job: Job[ImageSchema]) -> None:
            started.set()
            assert gate.wait(PATIENCE)
            ran.append(job.payload.input.url)

        consumer = Consumer(orchestrator, "q", work)
        thread = threading.Thread(target=lambda: consumer.consume(2))
        thread.start()
        assert started.wait(PATIENCE)
        # What a failover leaves behind: the old primary is somebody's replica now.
        server.replicaof("127.0.0.1", 1)
        gate.set()
        wait_until(lambda: "tried again in 1.0 s" in caplog.text, "a second, longer pause")
        assert caplog.text.count("nothing can be received") == 2
        server.replicaof("NO", "ONE")
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert ran == ["a", "b"]


def test_a_consumer_starts_works_and_waits_on_a_full_server(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def handle(job: Job[ImageSchema]) -> None:
        ran.append(job.payload.input.url)

    with RedisServer() as server, Orchestrator.from_url(server.url()) as orchestrator:
        orchestrator.publish_many("q", [image_job(name) for name in "abc"])
        with redis.Redis.from_url(server.url()) as admin:
            admin.config_set("maxmemory", 1)
            consumer = Consumer(orchestrator, "q", handle, schema=ImageSchema)
            assert consumer.consume(timeout=1.0) == 3
            assert ran == ["a", "b", "c"]
            # It waited without a word.
            assert "interrupted" not in caplog.text


def is_idle(admin: redis.Redis) -> bool:
    """Whether the consumer's connection, the one that is woken (flag "t"), has sent nothing for a second."""
    return any("t" in client["flags"] and int(client["idle"]) >= 1 for client in admin.client_list())


def test_a_consumer_that_has_to_register_anew_waits_until_writes_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def handle(job: Job[ImageSchema]) -> None:
        ran.append(job.payload.input.url)

    with RedisServer() as server, Orchestrator.from_url(server.url()) as orchestrator:
        orchestrator.publish_message("q", image_job("before"))
        consumer = Consumer(orchestrator, "q", handle, schema=ImageSchema)
        thread = threading.Thread(target=consumer.run_forever)
        thread.start()
        wait_until(lambda: ran == ["before"], "it works")
        with redis.Redis.from_url(server.url()) as admin:
            wait_until(lambda: is_idle(admin), "it waits for the next one")
            with admin.pipeline() as both:
                # As after a failover that its clients have not heard of.
                both.execute_command("REPLICAOF", "127.0.0.1", free_port())
                # Its connection is lost in the same instant, so that it has to register anew.
                both.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                both.execute()
            # On a busy machine it may have been about to claim, and then is refused that instead.
            refusals = ("cannot serve now", "nothing can be received")
            wait_until(lambda: any(refusal in caplog.text for refusal in refusals), "it is refused")
            with pytest.raises(BrokerUnavailableError, match="read only replica"):
                orchestrator.publish_message("q", image_job("refused"))
            admin.replicaof("NO", "ONE")
        orchestrator.publish_message("q", image_job("after"))
        wait_until(lambda: ran == ["before", "after"], "it goes on")
        consumer.stop()
        thread.join()


def test_jobs_of_a_batch_that_a_full_server_refuses_are_named() -> None:
    with RedisServer() as server, Orchestrator.from_url(server.url()) as orchestrator:
        orchestrator.declare_queue("q")
        with redis.Redis.from_url(server.url()) as admin:
            admin.config_set("maxmemory", 1)
            jobs = [image_job() for _ in range(1100)]
            with pytest.raises(PublishError, match="1100 of 1100") as caught:
                orchestrator.publish_many("q", jobs)
            assert set(caught.value.failures) == {job.id for job in jobs}
            assert "maxmemory" in caught.value.failures[jobs[0].id]
            admin.config_set("maxmemory", 0)
        assert orchestrator.queue_status("q") == 0
        orchestrator.publish_many("q", jobs)
        assert orchestrator.queue_status("q") == 1100


def test_a_plain_kombu_publishers_job_is_received(redis_url: str) -> None:
    with Orchestrator.from_url(redis_url) as orchestrator:
        orchestrator.declare_queue("q")
        headers = {"lang": "py", "task": "conformance_image", "id": "foreign"}
        put_json(with_policy(orchestrator), "q", [[], {"url": "a.png"}, {}], headers)
        assert urls(receive_all(orchestrator, "q")) == ["a.png"]
