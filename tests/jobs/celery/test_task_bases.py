"""Job tasks on task classes of others: their methods are there, and called where a plain task would call them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import Celery, Task
from celery.contrib.testing.worker import start_worker

from mindtrace_jobs import ConfigurationError, Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.celery import JobContext, JobTask, install, job_task, shared_job_task
from tests.jobs.celery.based_jobs import QUEUE
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema
from tests.jobs.celery.workers import ROOT, Broker, Worker
from tests.jobs.servers import wait_until


class Own(Task):  # type: ignore[misc]
    """What a stack may have."""

    abstract = True
    queue_of_own = "mine"

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> Any:
        return self.delay(*args, **kwargs)


class Patient(Own):
    max_retries = 9
    autoretry_for = (OSError,)
    track_started = True
    serializer = "json"
    acks_late = False


class WithRequest(Task):  # type: ignore[misc]
    Request = "celery.worker.request:Request"


class WithStrategy(WithRequest):
    def Strategy(self, *_: Any) -> Any: ...


def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
    return DetectionOutput(labels=[input.image])


async def detect_async(input: DetectionInput) -> DetectionOutput:  # noqa: A002
    return DetectionOutput(labels=[input.image])


class Detector:
    """A callable object, with attributes that no function has."""

    name = "theirs"

    def __call__(self, input: DetectionInput, found: JobContext) -> DetectionOutput:  # noqa: A002
        return DetectionOutput(labels=[input.image, found.job.id])


class AsyncDetector:
    async def __call__(self, input: DetectionInput) -> DetectionOutput:  # noqa: A002
        return DetectionOutput(labels=[input.image])


def weighted(weight: int, input: DetectionInput, job: Job[Any]) -> DetectionOutput:  # noqa: A002
    return DetectionOutput(labels=[input.image, str(weight), job.id])


def new_app(**options: Any) -> Any:
    app = Celery("bases", broker="memory://bases", backend="cache+memory://", set_as_current=False, **options)
    app.conf.update(task_always_eager=True, task_store_eager_result=True)
    return app


@pytest.mark.parametrize("function", [detect, detect_async])
@pytest.mark.parametrize("how", ["base", "task_cls", "assigned"])
def test_a_job_task_has_the_methods_of_another_task_class(how: str, function: Any) -> None:
    app = new_app(**({"task_cls": Own} if how == "task_cls" else {}))
    if how == "assigned":
        app.Task = Own
    task: Any = job_task(app, DetectionSchema, base=Own if how == "base" else None)(function)
    assert isinstance(task._get_current_object(), Own)
    assert isinstance(task._get_current_object(), JobTask)
    assert task.submit(DetectionInput(image="a")).result().labels == ["a"]
    assert task.delay_on_commit(DetectionInput(image="b")).get().labels == ["b"]


@pytest.mark.parametrize("base", [None, Task, celery.Task, JobTask])
def test_without_a_class_of_its_own_it_is_a_job_task(base: Any) -> None:
    task: Any = job_task(new_app(), DetectionSchema, base=base)(detect)
    assert task.submit(DetectionInput(image="a")).result().labels == ["a"]


def test_options_of_the_class_count_but_those_that_make_it_a_job_task() -> None:
    app = new_app()
    task: Any = job_task(app, DetectionSchema, base=Patient)(detect)
    assert (task.policy.max_retries, task.policy.retry_on) == (9, (OSError,))
    assert (task.job_track_started, task.track_started) == (True, False)
    assert (task.serializer, task.acks_late) == ("pydantic", False)
    assert not hasattr(task, "_orig_run")  # Celery's own retrying, in which the lifecycle has no say
    assert job_task(app, DetectionSchema, base=Patient, max_retries=1, lazy=False, name="stack_detection") is not None


def test_a_task_that_is_a_class_is_retried_by_the_same_policy() -> None:
    class Detect(Patient, JobTask[DetectionInput, DetectionOutput]):
        schema = DetectionSchema

        def run(self, input: DetectionInput) -> DetectionOutput | None: ...  # noqa: A002

    app = new_app()
    install(app)
    task: Any = app.register_task(Detect())
    assert (task.policy.max_retries, task.policy.retry_on) == (9, (OSError,))
    assert not hasattr(task, "_orig_run")


@pytest.mark.parametrize("base", [WithRequest, WithStrategy])
def test_a_class_that_handles_messages_in_its_own_way_is_refused(base: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"With(Request|Strategy) has a (Request|Strategy) of its own"):
        job_task(new_app(), DetectionSchema, base=base)(detect)


@pytest.mark.parametrize("base", [dict, DetectionSchema, "stack:Base"])
def test_what_is_no_task_class_is_refused(base: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a subclass of celery\.Task"):
        job_task(new_app(), DetectionSchema, base=base)(detect)


# --- callables without a name


def test_a_partial_and_a_callable_object_are_tasks() -> None:
    app = new_app()

    class Weighed(JobSchema[DetectionInput, DetectionOutput]):
        name: str = "bases_weighed"

    class Called(JobSchema[DetectionInput, DetectionOutput]):
        name: str = "bases_called"

    class Awaited(JobSchema[DetectionInput, DetectionOutput]):
        name: str = "bases_awaited"

    weigh: Any = job_task(app, Weighed)(partial(weighted, 7))
    handle = weigh.submit(DetectionInput(image="a"))
    assert handle.result().labels == ["a", "7", handle.id]
    call: Any = job_task(app, Called)(Detector())
    handle = call.submit(DetectionInput(image="a"))
    assert handle.result().labels == ["a", handle.id]
    for function in (AsyncDetector(), partial(detect_async), partial(AsyncDetector())):
        wait: Any = job_task(new_app(), Awaited)(function)
        assert wait.submit(DetectionInput(image="a")).result().labels == ["a"]


def test_a_partial_that_leaves_a_parameter_open_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"nothing fills parameter 'input'"):
        job_task(new_app(), DetectionSchema)(partial(weighted))


@pytest.mark.parametrize("what", [None, 3, "detect"])
def test_what_cannot_be_called_is_refused(what: Any) -> None:
    with pytest.raises(ConfigurationError, match="makes a task of a function"):
        job_task(new_app(), DetectionSchema)(what)


def test_a_name_is_the_schemas_or_refused() -> None:
    app = new_app()
    task: Any = job_task(app, DetectionSchema, name="stack_detection")(detect)
    assert task.name == "stack_detection"
    with pytest.raises(ConfigurationError, match=r"name='other'.*'stack_detection'.*change the `name`"):
        job_task(app, DetectionSchema, name="other")
    with pytest.raises(ConfigurationError, match="pydantic=True is for plain tasks"):
        job_task(app, DetectionSchema, pydantic=True)


# --- shared


def test_a_shared_task_is_a_task_of_every_app() -> None:
    class Everywhere(JobSchema[DetectionInput, DetectionOutput]):
        name: str = "bases_everywhere"

    before = new_app(task_cls=Own)
    before.finalize()
    task: Any = shared_job_task(Everywhere, time_limit=9)(detect)
    after = new_app()
    for app in (before, after):
        assert app.tasks["bases_everywhere"].time_limit == 9
        assert app.tasks["bases_everywhere"].submit(DetectionInput(image="a")).result().labels == ["a"]
    assert before.tasks["bases_everywhere"].delay_on_commit
    after.set_current()
    assert task.app is after
    assert task.submit(DetectionInput(image="b")).result().labels == ["b"]
    assert task(DetectionInput(image="c")).labels == ["c"]


def test_a_shared_task_of_a_function_that_does_not_fit_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="takes no input"):
        shared_job_task(DetectionSchema)(lambda: None)
    with pytest.raises(ConfigurationError, match="name="):
        shared_job_task(DetectionSchema, name="other")


# --- where the methods are called


class Calls(Task):  # type: ignore[misc]
    abstract = True
    seen: list[str] = []  # noqa: RUF012

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(f"call {[type(arg).__name__ for arg in args]}")
        return super().__call__(*args, **kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        self.seen.append(f"publish {args} {kwargs}")
        return super().apply_async(args, kwargs, **options)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.seen.append(f"success {list(args)} {kwargs}")


class Of(JobInput):
    n: int = 0
    kind: str = "x"


class Done(JobOutput):
    n: int = 0


class Called(JobSchema[Of, Done]):
    name: str = "bases_seen"


def run(input: Of) -> Done:  # noqa: A002
    return Done(n=input.n)


async def run_async(input: Of) -> Done:  # noqa: A002
    return Done(n=input.n)


WAYS: list[Callable[[Any], Any]] = [
    lambda task: task.submit(Of(n=1)),
    lambda task: task.submit(Job(payload=Called(input=Of(n=1)), metadata={"a": 1})),
    lambda task: task.delay(Of(n=1)),
    lambda task: task.delay(n=1),
    lambda task: task.apply_async(([1],)[0], countdown=0),
    lambda task: task.s(n=1).apply_async(),
]
DATA = [{"n": 1, "kind": "x"}]


@pytest.mark.parametrize("function", [run, run_async])
def test_methods_of_a_base_are_called_around_publishing_and_running(function: Any) -> None:
    """With the same arguments where it is published and where it runs."""
    app = new_app()
    task: Any = job_task(app, Called, base=Calls)(function)
    for publish in WAYS:
        Calls.seen.clear()
        assert app.AsyncResult(publish(task).id).get() == Done(n=1)
        assert Calls.seen[:2] == [f"publish {DATA} {{}}", "call ['Of']"]


@pytest.mark.parametrize("function", [run, run_async])
def test_methods_of_a_base_are_called_in_a_worker(function: Any) -> None:
    app = new_app()
    app.conf.update(task_always_eager=False, task_default_queue="default_jobs")
    task: Any = job_task(app, Called, base=Calls)(function)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=60):
        for publish in WAYS:
            Calls.seen.clear()
            assert app.AsyncResult(publish(task).id).get(timeout=60) == Done(n=1)
            wait_until(lambda: len(Calls.seen) == 3, "its hook has run")
            assert Calls.seen == [f"publish {DATA} {{}}", "call ['Of']", f"success {DATA} {{}}"]


def test_called_directly_its_own_call_runs_around_the_function() -> None:
    task: Any = job_task(new_app(), Called, base=Calls)(run)
    Calls.seen.clear()
    assert task(Of(n=3)) == Done(n=3)
    assert Calls.seen == ["call ['Of']"]


def produce(broker: Broker, call: str) -> Any:
    """What a producer in a process of its own finds."""
    code = f"import json; from tests.jobs.celery import based_jobs; print(json.dumps(based_jobs.{call}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=broker.environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_classes_that_keep_a_task_from_being_queued_twice_keep_a_job_from_it(
    new_broker: Callable[[str], Broker], tmp_path: Path, pool: str
) -> None:
    broker = new_broker("redis")
    first = produce(broker, "twice()")
    assert first.pop("once again") == "already queued"
    assert "was not published" in first.pop("graceful again")
    assert first.pop("single again") == first.pop("single by delay") == first["single"]
    assert first.pop("another")
    worker = Worker(broker, tmp_path, pool=pool, queues=(QUEUE,), app="tests.jobs.celery.based_jobs")
    try:
        found = produce(broker, f"again({first!r})")
        assert found["contextual"] == "the application's context, retries 0"
        assert found["shared"] == "the application's context"
        assert found["once"] == found["graceful"] == found["single"] == "1"
        for name in ("once", "graceful", "single"):
            assert found[f"based_{name} again"] == ["1", True]
        worker.wait_logged("on_success saw Seen, [True], {}")
    finally:
        worker.process.kill()
