"""Jobs in chains, groups and chords, among themselves and with plain tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, chord, group

from mindtrace_jobs.celery import InvalidInputError, typed_chain
from tests.jobs.celery.models import DetectionInput, SummaryInput, SummaryOutput
from tests.jobs.celery.workers import Broker, Worker, close_app
from tests.jobs.servers import wait_until

PATIENCE = 30.0


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(broker, tmp_path_factory.mktemp("canvas"), pool="threads", concurrency=2).wait_ready()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def tasks(broker: Broker) -> Iterator[Any]:
    """The stack's tasks as its own producers have them."""
    from tests.jobs.celery import stack, stack_jobs

    stack.app.conf.update(broker_url=broker.url, result_backend=broker.results)
    stack.app._pool = None
    yield stack_jobs
    close_app(stack.app)
    stack.app._local.__dict__.clear()
    stack.app.amqp._producer_pool = None


def test_the_typed_output_of_one_is_the_input_of_the_next(worker: Worker, tasks: Any) -> None:
    result = typed_chain(tasks.detect.s(DetectionInput(image="x")), tasks.summarize).apply_async()
    output = result.get(timeout=PATIENCE)
    assert isinstance(output, SummaryOutput)
    assert output.text == f"{result.id} 1 x DetectionInput"


def test_a_chain_that_does_not_fit_keeps_the_job_that_could_not_run(worker: Worker, broker: Broker, tasks: Any) -> None:
    result = chain(tasks.summarize.s(SummaryInput(labels=["a"])), tasks.detect.s()).apply_async()
    with pytest.raises(InvalidInputError, match="image"):
        result.get(timeout=PATIENCE)
    assert result.parent.get(timeout=PATIENCE).text.endswith("1 a")
    letters = broker.orchestrator.dead_letters
    wait_until(lambda: any(letter.id == result.id for letter in letters.list("detection_jobs")), "its dead letter")


def test_a_group_gives_typed_outputs_in_order(worker: Worker, tasks: Any) -> None:
    result = group(tasks.detect.s(DetectionInput(image=str(number))) for number in range(5)).apply_async()
    assert [output.labels[0] for output in result.get(timeout=PATIENCE)] == list("01234")


def test_a_chord_hands_typed_outputs_to_a_plain_task(worker: Worker, tasks: Any) -> None:
    from tests.jobs.celery.stack import kinds

    result = chord([tasks.detect.s(DetectionInput(image=str(number))) for number in range(3)], kinds.s()).apply_async()
    assert result.get(timeout=PATIENCE) == ["DetectionOutput"] * 3


def test_a_plain_task_comes_before_a_job(worker: Worker, tasks: Any) -> None:
    from tests.jobs.celery.stack import add

    result = chain(add.s(1, 2), tasks.detect.si(DetectionInput(image="later"))).apply_async()
    assert result.get(timeout=PATIENCE).labels == ["later", "DetectionInput"]


def test_links_and_error_links_run(worker: Worker, tasks: Any) -> None:
    result = tasks.detect.apply_async((DetectionInput(image="x"),), link=tasks.summarize.s())
    assert result.get(timeout=PATIENCE).labels[0] == "x"
    wait_until(lambda: bool(result.children), "the linked job")
    assert result.children[0].get(timeout=PATIENCE).text.endswith("1 x DetectionInput")
