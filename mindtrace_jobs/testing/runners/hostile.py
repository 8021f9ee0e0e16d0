"""What strangers may write into a message, and what no runner may end, stop or fall behind for."""

from __future__ import annotations

import bz2
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mindtrace_jobs.jobs import ExecutionStatus
from mindtrace_jobs.results import JobHandle
from mindtrace_jobs.testing.runners.checks import (
    RunnerRows,
    check_completed,
    check_failed,
    check_runner_goes_on,
    failed,
)
from mindtrace_jobs.testing.runners.harness import Runners
from mindtrace_jobs.testing.runners.jobs import action_job
from mindtrace_jobs.testing.runners.running import Runner
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import Message, encode
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED

#: Values that most headers should not have. None of them is a time or a number of seconds that somebody would wait for.
JUNK: tuple[Any, ...] = (
    "",
    "x\n\x1b[31m",
    0,
    -(10**9),
    2**31 - 1,
    1.5,
    True,
    [],
    [1, {"a": None}],
    ["x"],
    {},
    {"a": {"b": [1]}},
)
#: Fields of Celery's protocols, attributes of its requests, and headers of brokers and of this package.
HEADERS = (
    *("id", "task", "lang", "meth", "shadow", "group", "group_index", "root_id", "parent_id", "origin", "retries"),
    *("timelimit", "argsrepr", "kwargsrepr", "ignore_result", "replaced_task_nesting", "stamps", "stamped_headers"),
    *(
        "args",
        "kwargs",
        "callbacks",
        "errbacks",
        "chain",
        "chord",
        "taskset",
        "utc",
        "headers",
        "get",
        "update",
        "clear",
    ),
    *("is_eager", "called_directly", "children", "_children", "_protected", "loglevel", "logfile", "hostname"),
    *("delivery_info", "properties", "reply_to", "correlation_id", "time_limit", "soft_time_limit", "__dict__"),
    *("job_running", "job_recorded", "job_retries_exhausted", "job_entered", "job_state", "eta", "expires"),
    *(wire.TRACKED, wire.QUEUED_AT, wire.LOSSES, wire.DEAD_LETTER, wire.DELIVERY_COUNT, wire.REDELIVERED, wire.DEATHS),
    *(wire.COMPRESSION, "", "x" * 100),
)


def hostile_headers() -> Iterator[dict[str, Any]]:
    """Headers to replace, one a message."""
    for name in HEADERS:
        for junk in JUNK:
            yield {name: junk}


class HostileConformance(RunnerRows):
    """Messages that were made to do harm."""

    def test_no_header_stops_the_runner_or_what_waits_behind(self, runners: Runners, runner: Runner) -> None:
        starts = runner.starts
        good: list[JobHandle[Any]] = []
        for number, replaced in enumerate(hostile_headers()):
            message = encode(action_job(text=json.dumps(replaced)), tracked=True)
            hostile = replace(message, headers={**message.headers, **replaced})
            runners.orchestrator.client.publish(hostile, queue=runners.queue)
            if number % 50 == 0:
                good.append(runners.submit(text="good"))
        for handle in good:
            check_completed(runners, handle, "good")
        runners.wait_empty()
        check_runner_goes_on(runners, runner, starts)

    def test_counts_of_a_producer_do_not_give_a_job_more_tries_than_the_policy(
        self, runners: Runners, runner: Runner
    ) -> None:
        ids: list[str] = []
        for counts in ({"retries": -(10**9)}, {wire.LOSSES: -(10**9)}, {"retries": "x"}, {"retries": True}):
            message = encode(action_job("fail"), tracked=True)
            ids.append(str(message.headers["id"]))
            hostile = replace(message, headers={**message.headers, **counts})
            runners.orchestrator.client.publish(hostile, queue=runners.queue)
        for job_id in ids:
            runners.dead_letter(job_id)
            record = runners.orchestrator.job_record(job_id)
            assert (record.status, record.starts, record.retries) == (ExecutionStatus.FAILED, 3, 2)

    def test_a_compressed_job_is_run(self, runners: Runners, runner: Runner) -> None:
        message = encode(action_job(text="packed"), tracked=True)
        packed = replace(
            message, body=bz2.compress(message.body), headers={**message.headers, wire.COMPRESSION: "bzip2"}
        )
        runners.orchestrator.client.publish(packed, queue=runners.queue)
        handle = runners.orchestrator.handle(str(message.headers["id"]))
        runners.wait(lambda: runners.orchestrator.results.find(handle.id) is not None, "the begin of the job")
        check_completed(runners, handle, "packed")

    def test_a_body_that_is_too_large_decompressed_is_dead_lettered_as_it_came(
        self, runners: Runners, runner: Runner
    ) -> None:
        starts = runner.starts
        body = bz2.compress(b" " * (MAX_DECOMPRESSED + 1))
        message = encode(action_job(), tracked=True)
        bomb = Message(body, {**message.headers, wire.COMPRESSION: "bzip2"}, "application/json")
        runners.orchestrator.client.publish(bomb, queue=runners.queue)
        job_id = str(message.headers["id"])
        letter = runners.dead_letter(job_id)
        expected = failed(letter.error, "DecodeError", starts=0)
        check_failed(runners, job_id, "undecodable", expected, begun=False)
        assert "max_decompressed_bytes" in letter.error
        assert (letter.body, letter.headers[wire.COMPRESSION]) == (body, "bzip2")
        check_runner_goes_on(runners, runner, starts)
