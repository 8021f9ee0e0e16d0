"""Log records say which job they are about: those made while it runs, and this package's own."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest

from mindtrace_jobs import (
    Consumer,
    Job,
    JobInput,
    JobLogFilter,
    JobOutput,
    JobSchema,
    Orchestrator,
    RejectJob,
    RetryPolicy,
)
from mindtrace_jobs.logs import FIELDS, job_fields, running, shown

QUEUE = "log_jobs"
log = logging.getLogger("somebodys.module")


class LogInput(JobInput):
    fail: bool = False


class LogSchema(JobSchema[LogInput, JobOutput]):
    name: str = "logged"


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self, default: str | None = None) -> None:
        super().__init__()
        self.records: list[Any] = []
        self.addFilter(JobLogFilter(default))

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def about(self, message: str) -> list[list[Any]]:
        return [
            [getattr(record, name, None) for name in FIELDS] for record in self.records if message in record.message
        ]

    def handle(self, record: logging.LogRecord) -> bool:
        record.message = record.getMessage()
        return bool(super().handle(record))


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    root = logging.getLogger()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.INFO)
    yield kept
    root.removeHandler(kept)
    root.setLevel(level)


def test_records_outside_of_jobs_stay_as_they_are(kept: Kept) -> None:
    log.info("outside")
    assert not set(FIELDS) & set(vars(kept.records[-1]))


def test_records_outside_of_jobs_get_the_default_so_that_a_format_may_name_the_fields() -> None:
    record = log.makeRecord("name", logging.INFO, "file", 1, "outside", (), None)
    JobLogFilter("-").filter(record)
    assert logging.Formatter("%(job_id)s %(job_name)s %(queue)s %(attempt)s").format(record) == "- - - -"


def test_a_field_that_a_record_has_already_stays(kept: Kept) -> None:
    with running(job_fields("the-id", "logged", QUEUE, 1)):
        log.info("inside", extra={"queue": "of customers"})
    assert kept.about("inside") == [["the-id", "logged", "of customers", 1]]


def test_jobs_within_jobs_are_told_apart(kept: Kept) -> None:
    with running(job_fields("outer", "logged", QUEUE, 1)):
        with running(job_fields("inner", "logged", QUEUE, 2)):
            log.info("a")
        log.info("b")
    assert [record.job_id for record in kept.records] == ["inner", "outer"]


def test_the_filter_is_configured_by_name() -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"job": {"()": "mindtrace_jobs.JobLogFilter", "default": "-"}},
            "handlers": {"kept": {"()": Kept, "filters": ["job"]}},
            "loggers": {"configured.module": {"handlers": ["kept"], "propagate": False}},
        }
    )
    logger = logging.getLogger("configured.module")
    (handler,) = logger.handlers
    assert isinstance(handler, Kept)
    logger.warning("outside")
    assert handler.about("outside") == [["-", "-", "-", "-"]]
    logger.removeHandler(handler)


def test_what_a_consumers_handler_logs_names_its_job(backend_url: str, kept: Kept) -> None:
    def work(job: Job[LogSchema]) -> None:
        log.info("working")
        if job.payload.input.fail:
            raise LookupError("not now")

    retry = RetryPolicy(max_retries=1, initial=0.0, jitter=0.0)
    good, bad = (Job(payload=LogSchema(input=LogInput(fail=fail))) for fail in (False, True))
    with Orchestrator.from_url(backend_url, retry=retry) as orchestrator:
        orchestrator.publish_many(QUEUE, [good, bad])
        Consumer(orchestrator, QUEUE, work).consume(num_messages=3)
    log.info("afterwards")
    assert kept.about("working") == [
        [good.id, "logged", QUEUE, 1],
        [bad.id, "logged", QUEUE, 1],
        [bad.id, "logged", QUEUE, 2],
    ]
    assert kept.about("afterwards") == [[None] * 4]


def test_this_packages_own_records_about_a_job_name_it_wherever_they_go(
    memory_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def work(job: Job[Any]) -> None:
        if job.payload.input.fail:
            raise RejectJob("not this one") if retried else LookupError("not now")

    caplog.set_level(logging.INFO, "mindtrace_jobs")
    good, bad, cancelled = (Job(payload=LogSchema(input=LogInput(fail=fail))) for fail in (False, True, False))
    retry = RetryPolicy(max_retries=1, initial=0.0, jitter=0.0)
    with Orchestrator.from_url(memory_url, retry=retry) as orchestrator:
        orchestrator.submit(cancelled, queue=QUEUE).cancel()
        orchestrator.submit(good, queue=QUEUE)
        orchestrator.submit(bad, queue=QUEUE)
        retried = False
        Consumer(orchestrator, QUEUE, work).consume(num_messages=3)
        retried = True
        Consumer(orchestrator, QUEUE, work).consume(num_messages=1)
    records: list[Any] = [record for record in caplog.records if record.name.startswith("mindtrace_jobs.")]
    assert [(record.action, *(getattr(record, field) for field in FIELDS)) for record in records] == [
        ("skip_job", cancelled.id, "logged", QUEUE, 1),
        ("complete_job", good.id, "logged", QUEUE, 1),
        ("retry_job", bad.id, "logged", QUEUE, 1),
        ("dead_letter_job", bad.id, "logged", QUEUE, 2),
    ]


@pytest.mark.parametrize("text", ["a\nINFO forged", "a\x1b[31mred", "\ud800", "a\u2028b", "x" * 5000])
def test_a_strangers_text_is_one_printable_line_of_bounded_length(text: str) -> None:
    line = shown(text)
    assert line is not None
    assert line.isprintable()
    assert len(line) < 1100
    assert job_fields(text, text, "q", 1)["job_id"] == line
    assert shown("plain id 7") == "plain id 7"
