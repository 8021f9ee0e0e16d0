"""The contract of names: the same ones are taken, and refused, everywhere."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from mindtrace_jobs.clients import dead_letter_queue
from mindtrace_jobs.errors import (
    ConfigurationError,
    InvalidPayloadError,
    QueueNotFoundError,
)
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.base import (
    PATIENCE,
    Conformance,
    NewQueue,
    receive_all,
)
from mindtrace_jobs.testing.models import (
    TrainingSchema,
    image_job,
    urls,
)
from mindtrace_jobs.testing.queues import QueueConformance, Verb


class NameConformance(Conformance):
    """Names of queues and exchanges, and routing keys."""

    @pytest.mark.parametrize("name", ["", "x" * 231, "\ud800", "two\nlines", "a\x06\x163", None, 5])
    def test_a_name_that_not_every_broker_takes_is_refused_by_every_verb(
        self, orchestrator: Orchestrator, name: Any
    ) -> None:
        publishing: list[Verb] = [
            lambda orchestrator, queue: orchestrator.declare_queue(queue),
            lambda orchestrator, queue: orchestrator.publish_message(queue, image_job()),
            lambda orchestrator, queue: orchestrator.publish_many(queue, [image_job()]),
        ]
        for verb in [*publishing, *QueueConformance._VERBS.values()]:
            with pytest.raises(ConfigurationError):
                verb(orchestrator, name)

    @pytest.mark.parametrize("tail", ["ü \U0001f40d", "a.b:c", "../%s", "*#{}", "x" * 230])
    def test_any_other_name_will_do(self, orchestrator: Orchestrator, queue: str, tail: str) -> None:
        name = f"{queue}{tail}"[:230]
        try:
            orchestrator.declare_queue(name)
            orchestrator.publish_message(name, image_job("late"), delay=0.05)
            job = orchestrator.receive_message(name, timeout=PATIENCE)
            assert job is not None
            orchestrator.publish_message(name, image_job("dead"))
            with pytest.raises(InvalidPayloadError):
                orchestrator.receive_message(name, schema=TrainingSchema)
            assert orchestrator.queue_info(name).dead_lettered == 1
            orchestrator.dead_letters.replay(name)
            assert urls(receive_all(orchestrator, name)) == ["dead"]
        finally:
            for made in (name, dead_letter_queue(name)):
                with suppress(QueueNotFoundError):
                    orchestrator.delete_queue(made)

    def test_a_name_or_key_that_not_every_broker_takes_is_refused(
        self, orchestrator: Orchestrator, queue: str, new_queue: NewQueue
    ) -> None:
        exchange = new_queue()
        orchestrator.declare_exchange(exchange)
        orchestrator.declare_queue(queue)
        for name in ("", "x" * 256, "\ud800"):
            with pytest.raises(ConfigurationError):
                orchestrator.declare_exchange(name)
            with pytest.raises(ConfigurationError):
                orchestrator.bind_queue(queue, name, "key")
        for key in ("x" * 256, "\ud800"):
            with pytest.raises(ConfigurationError):
                orchestrator.bind_queue(queue, exchange, key)
            with pytest.raises(ConfigurationError):
                orchestrator.publish_message("", image_job(), exchange=exchange, routing_key=key)
