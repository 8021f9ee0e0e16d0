"""The contract of queues: declare, publish, receive, count, clean, delete, in the declared order."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from mindtrace_jobs.clients import Capability, QueueType
from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.errors import (
    ConfigurationError,
    EncodeError,
    InvalidPayloadError,
    QueueNotFoundError,
    UnsupportedError,
)
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobInput, JobSchema
from mindtrace_jobs.orchestrator import Orchestrator
from mindtrace_jobs.testing.base import (
    PATIENCE,
    Conformance,
    NewQueue,
    can,
    in_forked_child,
    receive_all,
    wait_for_ready,
    wait_until,
    with_policy,
)
from mindtrace_jobs.testing.models import (
    ImageInput,
    ImageSchema,
    TrainingInput,
    TrainingSchema,
    everything_job,
    image_job,
    urls,
)

Verb = Callable[[Orchestrator, str], Any]


def _receiving(orchestrator: Orchestrator, queue: str) -> None:
    with orchestrator.receiving(queue):
        pass


class QueueConformance(Conformance):
    """Queues of jobs."""

    # --- types survive

    def test_a_job_comes_out_equal_and_typed_with_a_field_of_every_kind(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        job = everything_job()
        assert orchestrator.publish_message(queue, job) == job.id
        received = orchestrator.receive_message(queue)
        assert received == job
        assert received is not None
        assert type(received.payload) is type(job.payload)
        assert received.payload.input.model_dump() == job.payload.input.model_dump()
        assert type(received.payload.input.shape) is type(job.payload.input.shape)
        assert [type(value) for value in received.payload.input.anything] == [
            type(value) for value in job.payload.input.anything
        ]

    def test_a_bare_schema_brings_its_inputs_own_type(self, orchestrator: Orchestrator, queue: str) -> None:
        job = Job(
            id=f"job-{queue}",
            name="vbrain_training",
            payload=JobSchema(name="vbrain_training", input=ImageInput(url="b.png", threshold=0.25)),
            entrypoint="train.py",
            priority=5,
            metadata={"who": "me"},
        )
        orchestrator.declare_queue(queue, "priority")
        orchestrator.publish_message(queue, job)
        received = orchestrator.receive_message(queue)
        assert received == job
        assert received is not None
        assert type(received.payload.input) is ImageInput

    def test_schema_argument_makes_the_job_typed(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a.png"))
        job = orchestrator.receive_message(queue, schema=ImageSchema)
        assert job is not None
        assert type(job) is Job[ImageSchema]
        assert job.payload.input.url == "a.png"

    def test_a_job_of_another_schema_than_asked_for_is_dead_lettered(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("a.png"))
        with pytest.raises(InvalidPayloadError):
            orchestrator.receive_message(queue, schema=TrainingSchema)
        assert [letter.reason for letter in orchestrator.dead_letters.list(queue)] == ["invalid-input"]

    def test_a_received_job_is_queued_until_somebody_runs_it(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job())
        job = orchestrator.receive_message(queue)
        assert job is not None
        assert (job.status, job.started_at) == (ExecutionStatus.QUEUED, None)

    # --- publish and receive

    def test_a_declared_queue_is_empty_and_counts_what_is_published(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.declare_queue(queue)
        assert orchestrator.queue_status(queue) == 0
        assert orchestrator.receive_message(queue) is None
        orchestrator.publish_message(queue, image_job())
        orchestrator.publish_message(queue, image_job())
        wait_for_ready(orchestrator, queue, 2)

    def test_declaring_a_queue_again_keeps_its_jobs(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        orchestrator.publish_message(queue, image_job("a"))
        orchestrator.declare_queue(queue)
        assert urls(receive_all(orchestrator, queue)) == ["a"]

    def test_publishing_declares_the_queue(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job("a.png"))
        wait_for_ready(orchestrator, queue, 1)
        assert urls(receive_all(orchestrator, queue)) == ["a.png"]

    def test_jobs_come_first_in_first_out(self, orchestrator: Orchestrator, queue: str) -> None:
        for number in range(20):
            orchestrator.publish_message(queue, image_job(str(number)))
        assert urls(receive_all(orchestrator, queue)) == [str(number) for number in range(20)]

    def test_a_received_job_is_gone(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job())
        assert orchestrator.receive_message(queue) is not None
        assert orchestrator.receive_message(queue) is None
        assert orchestrator.queue_status(queue) == 0

    def test_another_orchestrator_sees_the_same_queues(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("a.png"))
        wait_for_ready(other_orchestrator, queue, 1)
        assert urls(receive_all(other_orchestrator, queue)) == ["a.png"]
        assert orchestrator.queue_status(queue) == 0

    def test_queues_do_not_mix(self, orchestrator: Orchestrator, new_queue: NewQueue) -> None:
        one, two = new_queue(), new_queue()
        orchestrator.publish_message(one, image_job("one"))
        orchestrator.publish_message(two, image_job("two"))
        assert urls(receive_all(orchestrator, two)) == ["two"]
        assert urls(receive_all(orchestrator, one)) == ["one"]

    def test_the_later_names_do_the_same(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish(queue, image_job("a.png"))
        wait_until(lambda: orchestrator.count_queue_messages(queue) == 1, "one job counted")

    def test_publish_many_keeps_the_order_and_returns_the_ids(self, orchestrator: Orchestrator, queue: str) -> None:
        jobs = [image_job(str(number)) for number in range(250)]
        assert orchestrator.publish_many(queue, jobs) == [job.id for job in jobs]
        assert receive_all(orchestrator, queue) == jobs

    def test_publish_many_of_nothing_does_nothing(self, orchestrator: Orchestrator, queue: str) -> None:
        assert orchestrator.publish_many(queue, []) == []

    def test_publish_many_publishes_none_if_one_cannot_be_encoded(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        bad = image_job()
        bad.payload.input.__dict__["threshold"] = object()
        with pytest.raises(EncodeError):
            orchestrator.publish_many(queue, [image_job(), bad])
        assert orchestrator.queue_status(queue) == 0

    def test_a_value_that_cannot_be_serialized_is_named_and_nothing_published(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        class Holder(JobInput):
            anything: Any

        orchestrator.declare_queue(queue)
        with pytest.raises(EncodeError, match="holder"):
            orchestrator.publish_message(queue, Job(payload=JobSchema(name="holder", input=Holder(anything=object()))))
        assert orchestrator.queue_status(queue) == 0

    def test_a_job_over_the_size_limit_is_refused(self, orchestrator: Orchestrator, queue: str) -> None:
        limited = with_policy(orchestrator, max_job_bytes=2000)
        limited.publish_message(queue, image_job())
        with pytest.raises(EncodeError, match="2000"):
            limited.publish_message(queue, image_job("x" * 2000))
        wait_for_ready(orchestrator, queue, 1)

    # --- waiting

    def test_waiting_ends_with_nothing_when_nothing_comes(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        assert orchestrator.receive_message(queue, timeout=0.05) is None
        orchestrator.publish_message(queue, image_job("later"))
        assert urls(receive_all(orchestrator, queue)) == ["later"]

    def test_waiting_ends_as_a_job_is_published(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.declare_queue(queue)
        received: list[Any] = []
        waiter = threading.Thread(
            target=lambda: received.append(orchestrator.receive_message(queue, timeout=PATIENCE * 10))
        )
        waiter.start()
        other_orchestrator.publish_message(queue, image_job("now"))
        waiter.join(PATIENCE)
        assert not waiter.is_alive()
        assert urls(received) == ["now"]
        assert orchestrator.queue_status(queue) == 0

    # --- unknown queues

    _VERBS: ClassVar[dict[str, Verb]] = {
        "queue_status": lambda orchestrator, queue: orchestrator.queue_status(queue),
        "count_queue_messages": lambda orchestrator, queue: orchestrator.count_queue_messages(queue),
        "queue_info": lambda orchestrator, queue: orchestrator.queue_info(queue),
        "clean_queue": lambda orchestrator, queue: orchestrator.clean_queue(queue),
        "delete_queue": lambda orchestrator, queue: orchestrator.delete_queue(queue),
        "receive_message": lambda orchestrator, queue: orchestrator.receive_message(queue),
        "receive_message with a timeout": lambda orchestrator, queue: orchestrator.receive_message(queue, timeout=0.1),
        "receiving": _receiving,
        "consume": lambda orchestrator, queue: Consumer(orchestrator, queue, lambda job: None).consume_until_empty(),
    }

    @pytest.mark.parametrize("verb", _VERBS)
    def test_every_verb_but_publish_names_an_unknown_queue(
        self, orchestrator: Orchestrator, queue: str, verb: str
    ) -> None:
        with pytest.raises(QueueNotFoundError, match=queue) as caught:
            self._VERBS[verb](orchestrator, queue)
        assert isinstance(caught.value, KeyError)
        orchestrator.publish_message(queue, image_job("fine"))  # the connection survived
        assert urls(receive_all(orchestrator, queue)) == ["fine"]

    # --- clean, delete, look

    def test_cleaning_removes_what_waits_and_says_how_much(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_many(queue, [image_job() for _ in range(5)])
        wait_for_ready(orchestrator, queue, 5)
        assert orchestrator.clean_queue(queue) == 5
        assert orchestrator.clean_queue(queue) == 0
        assert orchestrator.receive_message(queue) is None

    def test_cleaning_a_priority_queue_removes_every_priority(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue, "priority")
        orchestrator.publish_many(queue, [image_job(priority=priority) for priority in (0, 4, 9)])
        wait_for_ready(orchestrator, queue, 3)
        assert orchestrator.clean_queue(queue) == 3
        assert orchestrator.receive_message(queue) is None

    @pytest.mark.parametrize("verb", ["clean", "delete"])
    def test_jobs_that_are_not_due_go_with_the_others(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str, verb: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("now"))
        for delay in (0.01, 0.9, 75.0, 86_400.0):
            orchestrator.publish_message(queue, image_job("old"), delay=delay)
        wait_for_ready(orchestrator, queue, 2)
        if verb == "clean":
            assert other_orchestrator.clean_queue(queue) == 5
        else:
            other_orchestrator.delete_queue(queue)
        orchestrator.publish_message(queue, image_job("new"), delay=1.0)
        # By then the one of 0.9 s would be there.
        received = orchestrator.receive_message(queue, timeout=PATIENCE)
        assert received is not None
        assert urls([received, *receive_all(orchestrator, queue)]) == ["new"]

    def test_a_deleted_queue_is_unknown_and_empty_when_declared_again(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.declare_queue(queue, "priority")
        orchestrator.publish_many(queue, [image_job("old", priority=priority) for priority in (0, 9)])
        other_orchestrator.delete_queue(queue)
        with pytest.raises(QueueNotFoundError):
            orchestrator.queue_status(queue)
        orchestrator.declare_queue(queue)
        assert orchestrator.queue_status(queue) == 0
        orchestrator.publish_message(queue, image_job("new"))
        assert urls(receive_all(orchestrator, queue)) == ["new"]

    def test_what_was_received_does_not_come_back_to_a_deleted_queue(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_message(queue, image_job("old"))
        with pytest.raises(KeyboardInterrupt), orchestrator.receiving(queue) as job:  # noqa: PT012 - the block is what is tested
            assert job is not None
            other_orchestrator.delete_queue(queue)
            other_orchestrator.declare_queue(queue)
            raise KeyboardInterrupt
        assert orchestrator.receive_message(queue) is None

    def test_queue_info_counts_by_state(self, orchestrator: Orchestrator, queue: str) -> None:
        counts = can(orchestrator, Capability.COUNTS_UNACKNOWLEDGED)
        orchestrator.publish_many(queue, [image_job() for _ in range(3)])
        orchestrator.publish_message(queue, image_job(), delay=3600)
        wait_for_ready(orchestrator, queue, 3)
        with orchestrator.receiving(queue) as job:
            assert job is not None
            info = orchestrator.queue_info(queue)
            assert (info.name, info.ready, info.dead_lettered) == (queue, 2, 0)
            assert info.unacknowledged == (1 if counts else None)
            assert info.delayed in (None, 1)
        info = orchestrator.queue_info(queue)
        assert info.unacknowledged == (0 if counts else None)

    def test_queue_info_counts_dead_letters(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job())
        with pytest.raises(InvalidPayloadError):
            orchestrator.receive_message(queue, schema=TrainingSchema)
        assert orchestrator.queue_info(queue).dead_lettered == 1

    # --- order

    def test_higher_priorities_come_first_and_equals_in_order(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue, QueueType.PRIORITY)
        for name, priority in [("a0", 0), ("b9", 9), ("c3", 3), ("d9", 9), ("e-", None), ("f6", 6), ("g3", 3)]:
            orchestrator.publish_message(queue, image_job(name, priority=priority))
        assert urls(receive_all(orchestrator, queue)) == ["b9", "d9", "f6", "c3", "g3", "a0", "e-"]

    def test_publish_many_obeys_priorities_too(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue, QueueType.PRIORITY)
        orchestrator.publish_many(queue, [image_job(str(priority), priority=priority) for priority in (0, 9, 3, 6)])
        assert urls(receive_all(orchestrator, queue)) == ["9", "6", "3", "0"]

    def test_priorities_are_ignored_elsewhere_with_one_warning(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.declare_queue(queue)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for priority in (0, 9, 3):
                orchestrator.publish_message(queue, image_job(str(priority), priority=priority))
            orchestrator.publish_many(queue, [image_job("6", priority=6)])
        about = [warning for warning in caught if queue in str(warning.message)]
        assert len(about) == 1
        assert "priorit" in str(about[0].message)
        assert urls(receive_all(orchestrator, queue)) == ["0", "9", "3", "6"]

    @pytest.mark.parametrize("priority", [-1, 10])
    def test_a_priority_out_of_range_never_reaches_a_broker(self, orchestrator: Orchestrator, priority: int) -> None:
        with pytest.raises(ValidationError):
            image_job(priority=priority)

    def test_a_stack_is_last_in_first_out_or_unsupported(self, orchestrator: Orchestrator, queue: str) -> None:
        if not can(orchestrator, Capability.STACK):
            with pytest.raises(UnsupportedError, match="fifo"):
                orchestrator.declare_queue(queue, "stack")
            with pytest.raises(QueueNotFoundError):
                orchestrator.queue_status(queue)
            return
        orchestrator.declare_queue(queue, "stack")
        for name in "abc":
            orchestrator.publish_message(queue, image_job(name))
        orchestrator.publish_many(queue, [image_job("d"), image_job("e")])
        assert urls(receive_all(orchestrator, queue)) == ["e", "d", "c", "b", "a"]

    def test_an_existing_queue_of_another_type_is_used_as_it_is_with_a_warning(
        self, orchestrator: Orchestrator, other_orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.declare_queue(queue, "fifo")
        orchestrator.publish_message(queue, image_job("a"))
        with pytest.warns(RuntimeWarning, match=queue):
            other_orchestrator.declare_queue(queue, "priority")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            other_orchestrator.publish_message(queue, image_job("b", priority=9))
        assert urls(receive_all(other_orchestrator, queue)) == ["a", "b"]

    def test_an_unknown_queue_type_is_refused_by_name(self, orchestrator: Orchestrator, queue: str) -> None:
        with pytest.raises(ConfigurationError, match="heap"):
            orchestrator.declare_queue(queue, "heap")

    # --- processes

    def test_jobs_reach_other_processes_or_stay_in_this_one_as_declared(
        self, orchestrator: Orchestrator, queue: str
    ) -> None:
        orchestrator.publish_many(queue, [image_job("a"), image_job("b")])
        wait_for_ready(orchestrator, queue, 2)

        def takes_a_job() -> bool:
            job = orchestrator.receive_message(queue)
            return job is not None and urls([job]) == ["a"]

        def finds_nothing() -> bool:
            try:
                return orchestrator.receive_message(queue) is None
            except QueueNotFoundError:
                return True

        distributed = can(orchestrator, Capability.DISTRIBUTED)
        assert in_forked_child(takes_a_job if distributed else finds_nothing)
        assert urls(receive_all(orchestrator, queue)) == (["b"] if distributed else ["a", "b"])

    def test_two_kinds_of_job_share_a_queue(self, orchestrator: Orchestrator, queue: str) -> None:
        orchestrator.publish_message(queue, image_job())
        orchestrator.publish_message(queue, Job(payload=TrainingSchema(input=TrainingInput(epochs=3))))
        assert [type(job.payload) for job in receive_all(orchestrator, queue)] == [ImageSchema, TrainingSchema]
