"""Nothing is lost when consumers die: at the one instant where stock Kombu loses a message, and at random ones."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.jobs.loss.brokers import RabbitMQBroker, RedisBroker
from tests.jobs.loss.plan import Kind, Plan, token
from tests.jobs.loss.run import run
from tests.jobs.redis_channels import Child, connection, consume, drain, publish, server, tracks
from tests.jobs.servers import RedisServer, TcpProxy, wait_until

LEASE = 1.0

#: A consumer that says when it has nothing left to do but to wait, then waits for messages and reports them.
CONSUMER = """
from tests.jobs.redis_channels import connection, consume
url, lease, stock = sys.argv[1:]
options = {"visibility_timeout": float(lease)} if stock == "stock" else {"lease": float(lease)}
source = connection(url, stock=stock == "stock", **options)
received = consume(source.default_channel)
try:
    source.drain_events(timeout=0.2)
except TimeoutError:
    report("waits")  # every reply was read, and what is frozen on its way from now on is something new
while True:
    source.drain_events()
    report(received[-1].payload)
"""


def _blocked(client: Any) -> bool:
    return any(one["cmd"] == "brpop" and "b" in one["flags"] for one in client.client_list())


def test_stock_loses_a_message_whose_consumer_is_killed_before_it_has_heard_of_it(
    own_redis_server: RedisServer, proxy_to: Callable[[str], TcpProxy]
) -> None:
    # given: a stock consumer that waits in BRPOP
    url = own_redis_server.url()
    proxy = proxy_to(url)
    with server(url) as client, connection(url, stock=True) as producer:
        with Child(CONSUMER, proxy.url(url), str(LEASE), "stock") as child:
            assert child.line() == "waits"
            wait_until(lambda: _blocked(client), "it waits")

            # when: the server hands it a message, and it dies before the reply arrives
            proxy.freeze(requests=False, replies=True)
            publish(producer.default_channel, token(7))
            child.signal(signal.SIGKILL)
            child.process.wait()

        # then: the message is nowhere, no restore can bring it back, and the server's history says who had it
        assert not client.exists("q")
        assert not tracks(client)
        assert RedisBroker(own_redis_server).gone_with_stock() == {7}


def test_a_message_whose_consumer_is_killed_before_it_has_heard_of_it_is_back_within_the_lease(
    own_redis_server: RedisServer, proxy_to: Callable[[str], TcpProxy]
) -> None:
    # given: a consumer that waits to be told of a message
    url = own_redis_server.url()
    proxy = proxy_to(url)
    with server(url) as client, connection(url, lease=LEASE) as source:
        channel = source.default_channel
        with Child(CONSUMER, proxy.url(url), str(LEASE), "ours") as child:
            assert child.line() == "waits"

            # when: it is told, claims the message, and dies before the reply arrives
            child.signal(signal.SIGSTOP)
            publish(channel, token(7))
            client.ping()  # the server has told it by now, and the proxy passes that on before it freezes
            proxy.freeze(requests=False, replies=True)
            child.signal(signal.SIGCONT)
            wait_until(lambda: client.hlen("unacked"), "the server has handed it over")
            child.signal(signal.SIGKILL)
            child.process.wait()
            assert not client.exists("q")

        # then: somebody else gets it
        received = drain(source, consume(channel), 1)
        assert received[0].payload == token(7)
        received[0].ack()
        wait_until(lambda: not tracks(client), "the acknowledgement is done")
        assert RedisBroker(own_redis_server).gone_with_stock() == set()


@pytest.mark.parametrize("kind", [Kind.OURS, Kind.CELERY_THREADS])
def test_kills_a_restart_and_cuts_lose_no_job_on_redis(own_redis_server: RedisServer, kind: Kind) -> None:
    kills = 6 if kind is Kind.OURS else 2
    report = run(Plan(kind, jobs=250, kills=kills, restarts=1, cuts=2), RedisBroker(own_redis_server))
    assert report.clean, report.as_text()
    assert (report.executed, report.kills, report.restarts, report.cuts) == (report.jobs, kills, 1, 2)


@pytest.mark.parametrize("spare_stock", [False, True], ids=["kills of both", "kills of ours"])
def test_kills_of_workers_that_share_a_queue_with_stock_ones_lose_no_job_that_ours_had(
    own_redis_server: RedisServer, spare_stock: bool
) -> None:
    plan = Plan(Kind.MIXED, jobs=200, kills=4, workers=3, spare_stock=spare_stock)
    report = run(plan, RedisBroker(own_redis_server))
    assert report.clean, report.as_text()
    assert report.executed + len(report.lost_by_stock) == report.jobs
    assert (report.kills, report.stock_kills) == (4, 0 if spare_stock else 2)
    if spare_stock:
        assert report.lost_by_stock == []


#: Jobs long enough that whoever is killed has one in its hands.
IN_MID_JOB = Plan(Kind.CELERY_JOBS, jobs=60, kills=12, workers=3, prefetch=2, lease=LEASE, work=0.1)


def test_twelve_kills_of_celery_workers_and_their_processes_lose_no_job_on_redis(own_redis_server: RedisServer) -> None:
    report = run(IN_MID_JOB, RedisBroker(own_redis_server))
    assert report.clean, report.as_text()
    assert (report.executed, report.kills) == (report.jobs, 12)
    assert report.interrupted > 6, report.as_text()


def test_twelve_kills_of_celery_workers_and_their_processes_lose_no_job_on_rabbitmq(rabbitmq_url: str) -> None:
    report = run(IN_MID_JOB, RabbitMQBroker(rabbitmq_url))
    assert report.clean, report.as_text()
    assert (report.executed, report.kills) == (report.jobs, 12)
    assert report.interrupted > 6, report.as_text()


def test_kills_and_cuts_lose_no_job_on_rabbitmq(rabbitmq_url: str) -> None:
    report = run(Plan(Kind.OURS, jobs=250, kills=5, cuts=2), RabbitMQBroker(rabbitmq_url))
    assert report.clean, report.as_text()
    assert (report.executed, report.kills, report.cuts) == (report.jobs, 5, 2)
