"""A worker's event loop does not wait for events while the broker, or whoever stops it, waits for the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import WorkerShutdown
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.asynchronous.hub import Hub

from mindtrace_jobs import Job
from mindtrace_jobs.celery import install
from mindtrace_jobs.celery.worker.consumer import JobsConsumer, with_jobs
from mindtrace_jobs.celery.worker.steps import PromptStop
from tests.jobs.celery.models import DeedInput, DeedSchema
from tests.jobs.celery.workers import Broker, Worker
from tests.jobs.redis_channels import connection, consume, drain, publish, server, tracks
from tests.jobs.servers import wait_until


def consumer_on_this_thread() -> Any:
    consumer = JobsConsumer.__new__(JobsConsumer)
    consumer.hub = Hub()
    consumer._loop_thread = threading.get_ident()
    return consumer


def test_an_acknowledgement_on_the_loops_own_thread_is_not_left_to_its_next_round() -> None:
    consumer = consumer_on_this_thread()
    done: list[str] = []
    consumer.call_soon_ack(done.append, "acknowledged")
    assert done == ["acknowledged"]
    assert not consumer.hub._ready
    consumer.hub.close()


def test_an_acknowledgement_from_another_thread_goes_through_the_loop() -> None:
    consumer = consumer_on_this_thread()
    done: list[str] = []
    thread = threading.Thread(target=consumer.call_soon_ack, args=(done.append, "acknowledged"))
    thread.start()
    thread.join(30)
    assert not done
    (call,) = consumer.hub._pop_ready()
    call()
    assert done == ["acknowledged"]
    consumer.hub.close()


def test_an_idle_loop_comes_round_within_a_second_to_see_that_it_is_to_stop() -> None:
    app = Celery("idle", set_as_current=False)
    install(app)
    assert any(str(step).endswith(":PromptStop") for step in app.steps["consumer"])
    hub = Hub()
    worker = SimpleNamespace(timer=hub.timer)
    step = PromptStop(worker)
    step.stop(worker)  # a connection that was lost before this step was reached
    for _ in range(2):  # and after it was
        step.start(worker)
        assert 0 < hub.fire_timers(max_delay=10) <= 1
        step.stop(worker)
        hub.timer.clear()
    assert not hub.timer.queue
    hub.close()
    app.close()


def test_a_job_is_acknowledged_before_a_plain_task_runs_on_the_same_thread(
    new_broker: Callable[[str], Broker], tmp_path: Path
) -> None:
    broker, first, second = new_broker("redis"), tmp_path / "first", tmp_path / "second"
    deed = DeedInput(deed="work", path=str(first), seconds=30)
    broker.orchestrator.submit(Job(payload=DeedSchema(input=deed)), queue="celery")
    for name in ("second", "third"):
        broker.plain.send_task("stack.hold", args=[str(tmp_path / name)])
    worker = Worker(broker, tmp_path, prefetch=4)
    wait_until(second.exists, "the task's begin")
    with server(broker.url) as client:
        started = client.hlen("mindtrace.started")
        held = client.hlen("unacked")
    for name in ("second.go", "third.go"):
        (tmp_path / name).touch()
    worker.close()
    assert (held, started) == (2, 0)


class EndingConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer, whose loop ends as it does when the worker stops."""

    def start(self) -> None:
        raise WorkerShutdown(0)


@pytest.mark.parametrize("stopping", ["in the next turn", "already"])
def test_an_acknowledgement_is_not_put_off_for_a_turn_that_does_not_come(
    new_broker: Callable[[str], Broker], monkeypatch: pytest.MonkeyPatch, stopping: str
) -> None:
    url = new_broker("redis").url
    with connection(url) as source, server(url) as client:
        channel = source.default_channel
        publish(channel, 1)
        (message,) = drain(source, consume(channel, prefetch=1), 1)
        ending: Any = with_jobs(EndingConsumer)
        consumer = ending.__new__(ending)
        consumer.hub, consumer._loop_thread, consumer._channel = Hub(), threading.get_ident(), channel
        consumer.connection_errors = source.connection_errors
        source.transport.register_with_event_loop(source.connection, consumer.hub)
        if stopping == "already":
            monkeypatch.setattr(state, "should_stop", 0)
        consumer.call_soon_ack(message.ack)
        if stopping == "in the next turn":
            assert client.hlen("unacked") == 1
            with pytest.raises(WorkerShutdown):
                consumer.start()
        wait_until(lambda: not tracks(client), "it is acknowledged")
        consumer.hub.close()
