"""While the result backend is away jobs run, once; how they ended is recorded when it is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord
from redis import Redis

from mindtrace_jobs import JobSchema
from mindtrace_jobs.celery import JobContext, job_task
from mindtrace_jobs.testing.runners import RunnerKind, Runners
from mindtrace_jobs.testing.runners.checks import check_completed, completed, failed, outcome
from mindtrace_jobs.testing.runners.jobs import ActionInput, ActionOutput, begun, note, release, wait_for_release
from tests.jobs.servers import RedisServer

#: Celery's own timeout for results is two minutes.
SETTINGS = {"redis_socket_timeout": 1.0, "redis_socket_connect_timeout": 1.0}
#: Outages in which the server answers: a setting, its value, and the value it has else.
REFUSING = {"full": ("maxmemory", "1", "0"), "read-only": ("min-replicas-to-write", "1", "0")}


class ReportingSchema(JobSchema[ActionInput, ActionOutput]):
    """Jobs that report how far they are."""

    name: str = "reporting"


@pytest.fixture
def results() -> Iterator[RedisServer]:
    """A result backend of the test's own, which keeps what it has over a restart."""
    with RedisServer(appendonly=True) as server:
        yield server


@pytest.fixture
def runners(
    request: pytest.FixtureRequest, results: RedisServer, new_redis_url: Callable[[], str], tmp_path: Path
) -> Iterator[Runners]:
    """Runners of the parameter's kind, whose results are on another server than the jobs."""
    kind: RunnerKind = request.param
    broker = f"memory://{tmp_path.name}" if kind == "consumer" else new_redis_url()
    with Runners(broker, kind, tmp_path, results=results.url(), settings=SETTINGS) as made:
        yield made


def _outage(server: RedisServer, kind: str) -> Callable[[], object]:
    """Begin an outage; returns what ends it."""
    if kind == "frozen":
        server.freeze()
        return server.thaw
    if kind in REFUSING:
        setting, value, back = REFUSING[kind]
        with Redis.from_url(server.url()) as client:
            client.config_set(setting, value)

        def end() -> None:
            with Redis.from_url(server.url()) as client:
                client.config_set(setting, back)

        return end
    server.stop()
    return server.start


@pytest.mark.parametrize(
    ("runners", "outage"),
    [
        ("consumer", "stopped"),
        ("consumer", "frozen"),
        ("consumer", "full"),
        ("solo", "stopped"),
        ("solo", "read-only"),
        ("threads", "frozen"),
        ("prefork", "stopped"),
        ("gevent", "stopped"),
    ],
    indirect=["runners"],
)
def test_jobs_run_once_and_are_recorded_when_the_results_are_back(
    runners: Runners, results: RedisServer, outage: str
) -> None:
    queue = runners.new_name()
    runner = runners.new(queue).start().wait_ready()
    paths = [runners.new_path() for _ in range(7)]
    actions = ["wait", *["work"] * 3, "fail", "reject", "fail once"]
    handles = [
        runners.submit(action, queue=queue, path=str(path), text=action)
        for action, path in zip(actions, paths, strict=True)
    ]
    runners.wait_begun(paths[0])
    end = _outage(results, outage)
    release(paths[0])
    # How often each is begun, its retries included.
    starts = [1, 1, 1, 1, 3, 1, 2]
    for path, times in zip(paths, starts, strict=True):
        runners.wait_begun(path, times)
    runners.wait_empty(queue)
    runners.dead_letter(handles[4].id, queue)
    end()
    for handle, action in [*zip(handles[:4], actions, strict=False), (handles[6], actions[6])]:
        check_completed(runners, handle, action, starts=2 if action == "fail once" else 1, queue=queue)
    assert outcome(runners.ended(handles[4])) == failed("never works", "ValueError", starts=3)
    assert outcome(runners.ended(handles[5])) == failed("not mine", "RejectJob", starts=1)
    assert [len(begun(path)) for path in paths] == starts
    assert {letter.id for letter in runners.orchestrator.dead_letters.list(queue)} == {handles[4].id, handles[5].id}
    runner.stop()


@pytest.mark.parametrize("runners", ["consumer", "threads", "prefork"], indirect=True)
def test_a_runner_ends_while_the_results_are_away_and_says_what_it_could_not_record(
    runners: Runners, results: RedisServer, caplog: Any
) -> None:
    queue = runners.new_name()
    runner = runners.new(queue).start().wait_ready()
    path = runners.new_path()
    first, second = (runners.submit("wait", queue=queue, path=str(path)), runners.submit(queue=queue))
    runners.wait_begun(path)
    results.freeze()
    release(path)
    runners.wait_empty(queue)
    runner.stop()
    for handle in (first, second):
        assert f"job {handle.id} could not be recorded" in runner.log + caplog.text
    results.thaw()
    assert outcome(second.record())["status"] == "queued"


@pytest.mark.parametrize("runners", ["prefork"], indirect=True)
def test_what_waits_to_be_recorded_is_written_when_the_worker_is_stopped(
    runners: Runners, results: RedisServer
) -> None:
    queue = runners.new_name()
    runner = runners.new(queue).start().wait_ready()
    path = runners.new_path()
    first, last = (runners.submit("wait", queue=queue, path=str(path)), runners.submit("work", queue=queue))
    runners.wait_begun(path)
    results.stop()
    release(path)
    runners.wait_empty(queue)
    results.start()
    runner.stop()
    assert [outcome(handle.record()) for handle in (first, last)] == [completed(), completed()]


def test_a_chord_goes_on_when_the_results_are_back(tmp_path: Path, results: RedisServer) -> None:
    with Runners(f"memory://{tmp_path.name}", "threads", tmp_path, results=results.url(), settings=SETTINGS) as runners:
        queue, path = runners.new_name(), runners.new_path()

        @runners.app.task(name="texts_of")  # type: ignore[untyped-decorator]
        def texts_of(outputs: list[Any]) -> list[str]:
            return [output.text for output in outputs]

        runner = runners.new(queue).start().wait_ready()
        action = runners.app.tasks["runner_action"]
        header = [
            action.s(ActionInput(action="wait", path=str(path), text="one")).set(queue=queue),
            action.s(ActionInput(text="two")).set(queue=queue),
        ]
        result = chord(header, texts_of.s().set(queue=queue)).apply_async()
        runners.wait_begun(path)
        results.stop()
        release(path)
        runners.wait_empty(queue)
        results.start()
        runners.wait(result.ready, "the end of the chord")
        assert sorted(result.get()) == ["one", "two"]
        runner.stop()


def test_a_handler_may_report_and_ask_while_the_results_are_away(tmp_path: Path, results: RedisServer) -> None:
    with Runners(f"memory://{tmp_path.name}", "threads", tmp_path, results=results.url(), settings=SETTINGS) as runners:
        queue, path = runners.new_name(), runners.new_path()

        @job_task(runners.app, ReportingSchema)
        def report(work: ActionInput, context: JobContext) -> ActionOutput:
            context.interval = 0.0
            note(work.path)
            wait_for_release(work.path)
            context.progress(1, 2)
            return ActionOutput(text=str(context.cancelled))

        runner = runners.new(queue).start().wait_ready()
        handle = report.submit(ActionInput(path=str(path)), queue=queue)
        runners.wait_begun(path)
        results.stop()
        release(path)
        runners.wait_empty(queue)
        results.start()
        check_completed(runners, handle, "False", queue=queue)
        runner.stop()
