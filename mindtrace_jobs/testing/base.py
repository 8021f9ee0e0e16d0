"""What the conformance tests share: fresh queues, and a few ways to look at a broker."""

from __future__ import annotations

import faulthandler
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from mindtrace_jobs.clients import Capability, dead_letter_queue
from mindtrace_jobs.errors import JobsError, ResultsNotConfiguredError
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import Job
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.wire.message import Message

#: Seconds to wait for what must happen. Only guards against hanging.
PATIENCE = 60.0
#: A policy that does not make tests wait.
QUICK = RetryPolicy(max_retries=2, initial=0.02, jitter=0.0)

NewQueue = Callable[[], str]


class Conformance:
    """Base of the parts of the contract. The fixtures ``orchestrator`` and ``other_orchestrator`` are the user's."""

    @pytest.fixture
    def new_queue(self, orchestrator: Orchestrator) -> Iterator[NewQueue]:
        """Makes names of queues, or exchanges, that nobody uses; they are deleted after the test."""
        names: list[str] = []

        def new() -> str:
            names.append(f"conformance-{uuid4().hex[:12]}")
            return names[-1]

        yield new
        for name in names:
            for delete, what in (
                (orchestrator.delete_queue, name),
                (orchestrator.delete_queue, dead_letter_queue(name)),
                (orchestrator.delete_exchange, name),
            ):
                with suppress(JobsError):
                    delete(what)

    @pytest.fixture
    def queue(self, new_queue: NewQueue) -> str:
        """The name of a queue that does not exist."""
        return new_queue()


def can(orchestrator: Orchestrator, capability: Capability) -> bool:
    """Whether the orchestrator's client declares an ability."""
    return capability in orchestrator.client.capabilities


def with_policy(orchestrator: Orchestrator, retry: RetryPolicy = QUICK, **options: Any) -> Orchestrator:
    """A second orchestrator on the same client."""
    return Orchestrator(orchestrator.client, retry=retry, close_client=False, **options)


def keeps_results(orchestrator: Orchestrator) -> bool:
    """Whether results are kept; where they are not, asking for one must say so."""
    if orchestrator.results.configured:
        return True
    with pytest.raises(ResultsNotConfiguredError):
        orchestrator.job_status("any")
    return False


def receive_all(orchestrator: Orchestrator, queue: str) -> list[Job[Any]]:
    """Everything that is ready in a queue."""
    jobs = []
    while (job := orchestrator.receive_message(queue)) is not None:
        jobs.append(job)
    return jobs


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until a condition holds.

    Raises:
        AssertionError: it did not within ``PATIENCE`` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.01)


def wait_for_ready(orchestrator: Orchestrator, queue: str, count: int) -> None:
    """Wait until so many jobs are ready; brokers may count with a delay."""
    wait_until(lambda: orchestrator.queue_status(queue) == count, f"{count} job(s) ready in {queue}")


def put_raw(orchestrator: Orchestrator, queue: str, message: Message) -> None:
    """Publish a message with plain Kombu, as somebody who does not know this package would."""
    with orchestrator.client.connection.clone() as connection:
        connection.Producer(auto_declare=False).publish(
            message.body,
            exchange="",
            routing_key=queue,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=message.headers,
            delivery_mode=2,
            **message.properties,
        )


def put_json(
    orchestrator: Orchestrator,
    queue: str,
    body: Any,
    headers: dict[str, Any] | None = None,
    compression: str | None = None,
) -> None:
    """Publish a JSON message with plain Kombu."""
    with orchestrator.client.connection.clone() as connection:
        connection.Producer(auto_declare=False, serializer="json").publish(
            body, exchange="", routing_key=queue, headers=headers or {}, compression=compression
        )


def in_forked_child(work: Callable[[], bool]) -> bool:
    """What ``work`` returns in a forked child process; False if it raises or hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
        pid = os.fork()
    if pid == 0:
        # A child that hangs says where, and ends.
        faulthandler.dump_traceback_later(PATIENCE / 2, exit=True, file=2)
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
