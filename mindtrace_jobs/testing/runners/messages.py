"""What a message may hold: fields that do not fit, unknown types, bytes that are no job, values that cannot be pickled."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from mindtrace_jobs.jobs import ExecutionStatus, Job, JobSchema
from mindtrace_jobs.results import JobHandle
from mindtrace_jobs.testing.base import put_json, put_raw
from mindtrace_jobs.testing.runners.checks import (
    RunnerRows,
    check_completed,
    check_failure_is_kept,
    check_runner_goes_on,
    facts,
    failed,
    outcome,
)
from mindtrace_jobs.testing.runners.failures import FAILURES
from mindtrace_jobs.testing.runners.harness import Runners
from mindtrace_jobs.testing.runners.jobs import (
    LOCAL,
    PrivateInput,
    PrivateSchema,
    action_job,
    begun,
)
from mindtrace_jobs.testing.runners.running import Runner
from mindtrace_jobs.wire.headers import TRACKED
from mindtrace_jobs.wire.message import Message, encode

_PRIVATE = "nobody else may read this"
_UNDECODABLE = {
    "garbage": b"\xff\xfe\x00 no job at all \x9c",
    "truncated": b'[[{"__type__": "job", "__value__": {"id": "x", "payl',
}


class MessageConformance(RunnerRows):
    """Messages that hold no valid job, and jobs that are hard to carry."""

    def test_a_task_message_that_has_its_headers_in_the_body_is_run(self, runners: Runners, runner: Runner) -> None:
        path = runners.new_path()
        body = {"task": "runner_action", "id": str(uuid4()), "args": [], "kwargs": {"path": str(path)}}
        message = Message(json.dumps(body).encode(), {}, "application/json", "utf-8")
        put_raw(runners.orchestrator, runners.queue, message)
        runners.wait(lambda: len(begun(path)) == 1, "the run of a message of Celery's protocol 1")

    def test_input_that_does_not_fit_is_dead_lettered_without_its_values_and_the_next_job_runs(
        self, runners: Runners, runner: Runner
    ) -> None:
        starts = runner.starts
        job_id = put_invalid_input(runners)
        letter = runners.dead_letter(job_id)
        record = runners.orchestrator.job_record(job_id)
        [error] = record.errors
        assert facts(record, "status", "error_type", "starts", "losses", "retries", "started_at") == {
            "status": ExecutionStatus.FAILED,
            "error_type": "InvalidInputError",
            "starts": 0,
            "losses": 0,
            "retries": 0,
            "started_at": None,
        }
        assert {**error, "message": ""} == {"field": "payload.input.number", "message": "", "type": "int_parsing"}
        assert error["message"]
        assert _PRIVATE not in record.model_dump_json()
        assert _PRIVATE not in letter.error
        check_failure_is_kept(runners, record, letter, "invalid-input", begun=False)
        check_runner_goes_on(runners, runner, starts)

    def test_a_job_of_an_unknown_type_is_dead_lettered(self, runners: Runners, runner: Runner) -> None:
        job_id, message = put_unknown_type(runners)
        letter = runners.dead_letter(job_id)
        record = runners.orchestrator.job_record(job_id)
        assert outcome(record) == failed(str(record.error), "UnknownTypeError", starts=0)
        assert record.error
        check_failure_is_kept(runners, record, letter, "unknown-type", name="runner_unknown", begun=False)
        assert letter.body == message.body

    @pytest.mark.parametrize("kind", _UNDECODABLE)
    def test_bytes_that_are_no_job_are_dead_lettered_as_they_came(
        self, runners: Runners, runner: Runner, kind: str
    ) -> None:
        starts = runner.starts
        job_id, body = put_undecodable(runners, kind)
        letter = runners.dead_letter(job_id)
        record = runners.orchestrator.job_record(job_id)
        assert outcome(record) == failed(str(record.error), "DecodeError", starts=0)
        assert record.error
        check_failure_is_kept(runners, record, letter, "undecodable", begun=False)
        assert letter.body == body
        check_runner_goes_on(runners, runner, starts)

    def test_an_input_that_cannot_be_pickled_is_no_hindrance(self, runners: Runners, runner: Runner) -> None:
        starts = runner.starts
        handle = runners.orchestrator.submit(private_job("locked"), queue=runners.queue)
        check_completed(runners, handle, "locked")
        check_runner_goes_on(runners, runner, starts)

    def test_an_input_class_that_cannot_be_looked_up_by_name_is_no_hindrance(
        self, runners: Runners, runner: Runner
    ) -> None:
        starts = runner.starts
        handle = runners.orchestrator.submit(local_job("local"), queue=runners.queue)
        check_completed(runners, handle, "local")
        check_runner_goes_on(runners, runner, starts)

    def test_good_jobs_among_all_that_can_go_wrong_are_completed(self, runners: Runners, runner: Runner) -> None:
        starts = runner.starts
        submit = runners.orchestrator.submit
        good: list[tuple[JobHandle[Any], str]] = []
        wrong: list[str] = []
        actions = ["fail", "reject", "retry", "wrong output", "exit", "depart", "cancelled", "memory", *FAILURES]
        steps: list[Callable[[], None]] = [
            *(lambda action=action: wrong.append(runners.submit(action).id) for action in actions),
            lambda: wrong.append(submit(action_job(), queue=runners.queue, expires=timedelta(seconds=-1)).id),
            lambda: wrong.append(put_invalid_input(runners)),
            lambda: wrong.append(put_unknown_type(runners)[0]),
            *(lambda kind=kind: wrong.append(put_undecodable(runners, kind)[0]) for kind in _UNDECODABLE),
            lambda: good.append((submit(local_job("local"), queue=runners.queue), "local")),
            lambda: good.append((submit(private_job("locked"), queue=runners.queue), "locked")),
            *[lambda: good.append((runners.submit(text="good"), "good"))] * 10,
        ]
        random.Random(23).shuffle(steps)  # noqa: S311 - any order, and the same each time
        for step in steps:
            step()
        for handle, text in good:
            check_completed(runners, handle, text)
        letters = runners.orchestrator.dead_letters
        runners.wait(lambda: letters.count(runners.queue) >= len(wrong), "every wrong job dead-lettered")
        assert sorted(str(letter.id) for letter in letters.list(runners.queue, 2 * len(wrong))) == sorted(wrong)
        assert {runners.orchestrator.job_status(job_id) for job_id in wrong} == {ExecutionStatus.FAILED}
        runners.wait_empty()
        check_runner_goes_on(runners, runner, starts)


# --- messages as somebody else may publish them


def put_invalid_input(runners: Runners) -> str:
    """Publish a plain task message whose fields do not fit; returns its id."""
    job_id = str(uuid4())
    put_json(runners.orchestrator, runners.queue, [[], {"number": _PRIVATE}, {}], headers_of(job_id))
    return job_id


def put_unknown_type(runners: Runners) -> tuple[str, Message]:
    """Publish a job whose types are not defined here; returns its id and the message."""
    job = action_job()
    message = encode(job, tracked=True)
    body = message.body.replace(b"runner_action", b"runner_unknown").replace(b"runner-conformance.", b"runner-unknown.")
    changed = Message(body, {**message.headers, "task": "runner_unknown"}, properties=message.properties)
    put_raw(runners.orchestrator, runners.queue, changed)
    return job.id, changed


def put_undecodable(runners: Runners, kind: str) -> tuple[str, bytes]:
    """Publish bytes that are no job under a job's headers; returns its id and the bytes."""
    job_id = str(uuid4())
    put_raw(runners.orchestrator, runners.queue, Message(_UNDECODABLE[kind], headers_of(job_id)))
    return job_id, _UNDECODABLE[kind]


def headers_of(job_id: str) -> dict[str, Any]:
    """The least headers of a job whose record is kept."""
    return {"lang": "py", "task": "runner_action", "id": job_id, TRACKED: True}


def private_job(text: str) -> Job[Any]:
    """A job that cannot be pickled."""
    return Job(payload=PrivateSchema(input=PrivateInput(text=text)))


def local_job(text: str) -> Job[Any]:
    """A job of classes that cannot be looked up by name."""
    schema: type[JobSchema[Any, Any]] = LOCAL
    name = schema.model_fields["name"].default
    return Job(payload=schema(name=name, input=schema.input_type().model_validate({"text": text})))
