"""The contract of exchanges: which queues get a job."""

from __future__ import annotations

import time

import pytest

from mindtrace_jobs.errors import (
    ConfigurationError,
    ExchangeNotFoundError,
    PublishError,
    QueueNotFoundError,
    UnroutableError,
)
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.base import PATIENCE, Conformance, NewQueue, receive_all
from mindtrace_jobs.testing.models import image_job, urls


class ExchangeConformance(Conformance):
    """Exchanges: direct, topic, fanout."""

    def test_a_direct_exchange_delivers_by_exact_key(self, orchestrator: Orchestrator, new_queue: NewQueue) -> None:
        exchange, cats, dogs = new_queue(), new_queue(), new_queue()
        orchestrator.declare_exchange(exchange)
        for queue, key in ((cats, "cat"), (dogs, "dog")):
            orchestrator.declare_queue(queue)
            orchestrator.bind_queue(queue, exchange, key)
        orchestrator.publish_message("", image_job("tom"), exchange=exchange, routing_key="cat")
        orchestrator.publish_message("", image_job("rex"), exchange=exchange, routing_key="dog")
        assert urls(receive_all(orchestrator, cats)) == ["tom"]
        assert urls(receive_all(orchestrator, dogs)) == ["rex"]

    def test_a_topic_exchange_delivers_by_pattern(self, orchestrator: Orchestrator, new_queue: NewQueue) -> None:
        exchange, one_word, many_words = new_queue(), new_queue(), new_queue()
        orchestrator.declare_exchange(exchange, "topic")
        for queue, pattern in ((one_word, "image.*.new"), (many_words, "image.#")):
            orchestrator.declare_queue(queue)
            orchestrator.bind_queue(queue, exchange, pattern)
        for key in ("image.cat.new", "image.cat.old", "image", "image.a.b.new"):
            orchestrator.publish_message("", image_job(key), exchange=exchange, routing_key=key)
        assert urls(receive_all(orchestrator, one_word)) == ["image.cat.new"]
        assert urls(receive_all(orchestrator, many_words)) == [
            "image.cat.new",
            "image.cat.old",
            "image",
            "image.a.b.new",
        ]

    def test_a_fanout_exchange_delivers_to_every_bound_queue(
        self, orchestrator: Orchestrator, new_queue: NewQueue
    ) -> None:
        exchange, queues = new_queue(), [new_queue(), new_queue(), new_queue()]
        orchestrator.declare_exchange(exchange, "fanout")
        for queue in queues:
            orchestrator.declare_queue(queue)
            orchestrator.bind_queue(queue, exchange)
        orchestrator.publish_message("", image_job("all"), exchange=exchange)
        assert [urls(receive_all(orchestrator, queue)) for queue in queues] == [["all"]] * 3

    def test_a_queue_bound_under_two_matching_keys_gets_one_copy(
        self, orchestrator: Orchestrator, new_queue: NewQueue
    ) -> None:
        exchange, queue = new_queue(), new_queue()
        orchestrator.declare_exchange(exchange, "topic")
        orchestrator.declare_queue(queue)
        orchestrator.bind_queue(queue, exchange, "a.*")
        orchestrator.bind_queue(queue, exchange, "#")
        orchestrator.publish_message("", image_job("once"), exchange=exchange, routing_key="a.b")
        assert urls(receive_all(orchestrator, queue)) == ["once"]

    @pytest.mark.parametrize("exchange_type", ["direct", "topic", "fanout"])
    def test_who_did_not_declare_the_exchange_publishes_to_it_all_the_same(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, new_queue: NewQueue, exchange_type: str
    ) -> None:
        exchange, queue = new_queue(), new_queue()
        orchestrator.declare_exchange(exchange, exchange_type)
        orchestrator.declare_queue(queue)
        orchestrator.bind_queue(queue, exchange, "key")
        other_orchestrator.publish_message("", image_job("a"), exchange=exchange, routing_key="key")
        assert urls(receive_all(other_orchestrator, queue)) == ["a"]

    @pytest.mark.parametrize("exchange_type", ["direct", "topic", "fanout"])
    def test_a_job_that_no_queue_takes_is_an_error(
        self, orchestrator: Orchestrator, new_queue: NewQueue, exchange_type: str
    ) -> None:
        exchange = new_queue()
        orchestrator.declare_exchange(exchange, exchange_type)
        with pytest.raises(UnroutableError) as caught:
            orchestrator.publish_message("", image_job(), exchange=exchange, routing_key="nobody")
        assert isinstance(caught.value, PublishError)
        assert "nobody" in str(caught.value)

    def test_a_queue_and_an_exchange_at_once_are_refused(self, orchestrator: Orchestrator, new_queue: NewQueue) -> None:
        queue = new_queue()
        orchestrator.declare_queue(queue)
        for exchange, key in ((new_queue(), "a"), (new_queue(), ""), ("", "a")):
            with pytest.raises(ConfigurationError, match="not both"):
                orchestrator.publish_message(queue, image_job(), exchange=exchange, routing_key=key)
        assert orchestrator.queue_status(queue) == 0

    def test_an_unknown_exchange_is_named(self, orchestrator: Orchestrator, new_queue: NewQueue) -> None:
        exchange, queue = new_queue(), new_queue()
        orchestrator.declare_queue(queue)
        with pytest.raises(ExchangeNotFoundError, match=exchange):
            orchestrator.publish_message("", image_job(), exchange=exchange, routing_key="a")
        with pytest.raises(ExchangeNotFoundError, match=exchange):
            orchestrator.bind_queue(queue, exchange, "a")
        orchestrator.publish_message(queue, image_job("fine"))
        assert urls(receive_all(orchestrator, queue)) == ["fine"]

    def test_an_unknown_queue_cannot_be_bound(self, orchestrator: Orchestrator, new_queue: NewQueue) -> None:
        exchange, queue = new_queue(), new_queue()
        orchestrator.declare_exchange(exchange)
        with pytest.raises(QueueNotFoundError, match=queue):
            orchestrator.bind_queue(queue, exchange, "a")

    def test_a_deleted_exchange_leaves_its_queues_and_their_jobs(
        self, orchestrator: Orchestrator, new_queue: NewQueue
    ) -> None:
        exchange, queue, empty = new_queue(), new_queue(), new_queue()
        orchestrator.declare_exchange(exchange)
        for bound in (queue, empty):
            orchestrator.declare_queue(bound)
        orchestrator.bind_queue(queue, exchange, "a")
        orchestrator.bind_queue(empty, exchange, "b")
        orchestrator.publish_message("", image_job("kept"), exchange=exchange, routing_key="a")
        orchestrator.delete_exchange(exchange)
        assert urls(receive_all(orchestrator, queue)) == ["kept"]
        assert orchestrator.queue_status(empty) == 0
        with pytest.raises(ExchangeNotFoundError):
            orchestrator.publish_message("", image_job(), exchange=exchange, routing_key="a")
        orchestrator.delete_exchange(exchange)  # once more is no error

    def test_an_exchange_declared_anew_has_forgotten_its_bindings(
        self, orchestrator: Orchestrator, new_queue: NewQueue
    ) -> None:
        exchange, queue = new_queue(), new_queue()
        orchestrator.declare_exchange(exchange)
        orchestrator.declare_queue(queue)
        orchestrator.bind_queue(queue, exchange, "a")
        orchestrator.delete_exchange(exchange)
        orchestrator.declare_exchange(exchange)
        with pytest.raises(UnroutableError):
            orchestrator.publish_message("", image_job(), exchange=exchange, routing_key="a")

    def test_a_delayed_job_through_an_exchange_is_not_early(
        self, orchestrator: Orchestrator, new_queue: NewQueue
    ) -> None:
        exchange, queue = new_queue(), new_queue()
        orchestrator.declare_exchange(exchange)
        orchestrator.declare_queue(queue)
        orchestrator.bind_queue(queue, exchange, "a")
        start = time.monotonic()
        orchestrator.publish_message("", image_job("late"), exchange=exchange, routing_key="a", delay=0.3)
        job = orchestrator.receive_message(queue, timeout=PATIENCE)
        assert time.monotonic() - start >= 0.3
        assert job is not None
        assert urls([job]) == ["late"]

    def test_an_unknown_exchange_type_is_refused_by_name(self, orchestrator: Orchestrator) -> None:
        with pytest.raises(ConfigurationError, match="headers"):
            orchestrator.declare_exchange("x", "headers")
