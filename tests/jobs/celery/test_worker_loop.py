"""A worker's event loop does not wait for events while the broker waits for an acknowledgement."""

from __future__ import annotations

import threading
from typing import Any

from kombu.asynchronous.hub import Hub

from mindtrace_jobs.celery.worker.consumer import JobsConsumer


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
