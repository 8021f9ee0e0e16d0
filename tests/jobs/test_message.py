"""The message of a job is a Celery task message, and what others wrote is read as a typed job."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import celery
import kombu.serialization
import pytest
from pydantic import ConfigDict, Field

from mindtrace_jobs.errors import ConfigurationError, DecodeError, EncodeError, InvalidPayloadError, UnknownTypeError
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.wire import headers, message
from tests.jobs.everything import Circle, Shape, account

app = celery.Celery("tests", broker="memory://", set_as_current=False)


class Detect(JobInput):
    image_url: str
    threshold: float = 0.5
    taken_at: datetime | None = None
    amount: Decimal | None = None


class Detected(JobOutput):
    objects: list[str]


class DetectSchema(JobSchema[Detect, Detected]):
    name: str = "message_detect"


class StrictInput(JobInput):
    model_config = ConfigDict(strict=True)
    when: datetime
    count: int
    url: str = Field(alias="imageUrl")


class StrictSchema(JobSchema[StrictInput, Detected]):
    name: str = "message_strict"


class HasInput(JobInput):
    input: dict[str, int]


class HasInputSchema(JobSchema[HasInput, Detected]):
    name: str = "message_has_input"


class Count(JobInput):
    objects: int


class EitherSchema(JobSchema[Detect | Count, Detected]):
    name: str = "message_either"


class OtherSchema(JobSchema[Detect, Detected]):
    name: str = "message_other"


def make_job(**fields: Any) -> Job[DetectSchema]:
    return Job(payload=DetectSchema(input=Detect(image_url="s3://b/secret.jpg")), **fields)


def celery_message(version: int, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
    build = app.amqp.as_task_v2 if version == 2 else app.amqp.as_task_v1
    return build("celery-id", name, args, kwargs, **options)


def decode_celery(version: int, name: str, args: Any = None, kwargs: Any = None, serializer: str = "json") -> Job[Any]:
    headers, _, body, _ = celery_message(version, name, args, kwargs)
    content_type, _, data = kombu.serialization.dumps(body, serializer)
    return message.decode(data, headers, content_type)


@pytest.mark.parametrize("value", [Detect(image_url="u"), Count(objects=1)])
def test_an_input_of_a_declared_union_comes_back_as_its_class(value: Detect | Count) -> None:
    job = Job(payload=EitherSchema(input=value))
    made = message.encode(job)
    assert account(message.decode(made.body, made.headers)) == account(job)
    assert decode_celery(2, "message_either", kwargs=value.model_dump()).payload.input == value


def test_the_headers_are_those_of_celerys_own_task_messages() -> None:
    ours = message.encode(make_job()).headers
    theirs = celery_message(2, "message_detect", (1,), {}, origin="x").headers
    assert ours.keys() == theirs.keys() | {headers.QUEUED_AT}
    optional = {"stamped_headers", "stamps"}
    for key in theirs.keys() - optional:
        assert type(ours[key]) is type(theirs[key]), key
    same = theirs.keys() - {"id", "root_id", "argsrepr", "origin"} - optional
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


def test_the_message_says_what_a_worker_needs_and_not_what_the_job_holds() -> None:
    job = make_job(priority=7)
    sent = message.encode(job)
    assert (sent.headers["task"], sent.headers["id"], sent.headers["root_id"]) == ("message_detect", job.id, job.id)
    assert sent.headers["argsrepr"] == f"(<DetectSchema job {job.id}>,)"
    assert "secret" not in repr(sent.headers)
    assert sent.properties == {"correlation_id": job.id, "reply_to": "", "priority": 7}
    assert sent.content_type == "application/x-mindtrace-pydantic"
    assert headers.TRACKED not in sent.headers
    assert message.encode(job, tracked=True).headers[headers.TRACKED] is True
    assert "priority" not in message.encode(make_job()).properties


def test_the_body_is_the_three_part_tuple_with_celerys_own_embed() -> None:
    args, kwargs, embed = json.loads(message.encode(make_job()).body)
    assert (len(args), kwargs) == (1, {})
    assert embed == celery_message(2, "t", (), {}).body[2]


@pytest.mark.parametrize("version", [1, 2])
def test_celery_itself_can_send_and_read_the_body(version: int) -> None:
    job = make_job()
    headers, _, body, _ = celery_message(version, "message_detect", (job,), {})
    content_type, _, data = kombu.serialization.dumps(body, "pydantic")
    job_id = headers["id"] if version == 2 else body["id"]
    # Under the id that Celery gave the message: whoever sent it knows no other.
    found = message.decode(data, headers, content_type)
    assert found == job.model_copy(update={"id": job_id})
    assert message.identity(message.Message(data, headers, content_type)) == (job_id, "message_detect")
    sent = message.encode(job)
    assert kombu.serialization.loads(sent.body, sent.content_type, sent.content_encoding)[0] == [job]


def test_a_job_comes_back_equal_to_the_one_sent() -> None:
    job = make_job(priority=3, metadata={"a": [1, None]}, entrypoint="detect.py")
    job.payload.output = Detected(objects=["cat"])
    sent = message.encode(job)
    for body in (sent.body, bytearray(sent.body), memoryview(sent.body), sent.body.decode()):
        assert account(message.decode(body, sent.headers, sent.content_type)) == account(job)


def test_with_a_schema_the_job_is_of_that_schema() -> None:
    sent = message.encode(make_job())
    typed = message.decode(sent.body, sent.headers, schema=DetectSchema)
    assert type(typed) is Job[DetectSchema]
    assert type(typed.payload) is DetectSchema


def test_another_schema_than_the_one_asked_for_is_refused() -> None:
    sent = message.encode(make_job())
    bodies = [
        sent.body,
        b'[[], {"image_url": "x"}, {}]',
        b'{"schema_name": "message_detect", "payload": {"image_url": "x"}}',
    ]
    for body in bodies:
        with pytest.raises(InvalidPayloadError, match=r"OtherSchema.*message_detect"):
            message.decode(body, sent.headers, schema=OtherSchema)


def test_a_nameless_schema_can_be_asked_for() -> None:
    class Nameless(JobSchema[Detect, Detected]):
        pass

    sent = message.encode(Job(payload=Nameless(name="free", input=Detect(image_url="x"))))
    assert type(message.decode(sent.body, sent.headers).payload) is JobSchema
    assert type(message.decode(sent.body, sent.headers, schema=Nameless).payload) is Nameless


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"image_url": "x", "threshold": 0.25}),
        (("x", 0.25), {}),
        (("x",), {"threshold": 0.25}),
        (({"image_url": "x", "threshold": 0.25},), {}),
        ((), {"input": {"image_url": "x", "threshold": 0.25}}),
        (("x", "0.25"), {}),
    ],
)
def test_a_plain_celery_producers_arguments_become_the_typed_input(version: int, args: Any, kwargs: Any) -> None:
    job = decode_celery(version, "message_detect", args, kwargs)
    assert (job.id, job.name, type(job.payload)) == ("celery-id", "message_detect", DetectSchema)
    assert job.payload.input == Detect(image_url="x", threshold=0.25)
    assert job.status is ExecutionStatus.QUEUED


@pytest.mark.parametrize("serializer", ["json", "pydantic"])
def test_kombus_types_in_a_plain_message_are_read(serializer: str) -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    job = decode_celery(2, "message_detect", ("x",), {"taken_at": when, "amount": Decimal("1.50")}, serializer)
    assert account(job.payload.input) == account(Detect(image_url="x", taken_at=when, amount=Decimal("1.50")))


def test_a_model_as_the_argument_of_a_plain_celery_task_is_the_input() -> None:
    job = decode_celery(2, "message_detect", (Detect(image_url="x"),), {}, "pydantic")
    assert job.payload.input == Detect(image_url="x")


def test_a_strict_model_takes_plain_json_by_its_alias() -> None:
    fields = {"when": "2026-01-02T00:00:00Z", "count": 3, "imageUrl": "x"}
    job = decode_celery(2, "message_strict", (), fields)
    assert (job.payload.input.url, job.payload.input.when.year) == ("x", 2026)
    with pytest.raises(InvalidPayloadError, match="count"):
        decode_celery(2, "message_strict", (), fields | {"count": "3"})


def test_an_input_with_a_field_called_input_is_not_unpacked() -> None:
    assert decode_celery(2, "message_has_input", (), {"input": {"a": 1}}).payload.input.input == {"a": 1}


@pytest.mark.parametrize("version", [1, 2])
def test_arguments_that_do_not_fit_are_refused_with_each_field_and_no_value(version: int) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        decode_celery(version, "message_detect", (), {"threshold": "hunter2"})
    assert [(item["field"], item["type"]) for item in caught.value.errors] == [
        ("payload.input.image_url", "missing"),
        ("payload.input.threshold", "float_parsing"),
    ]
    assert "hunter2" not in f"{caught.value}{caught.value.errors}"
    for args, kwargs in (((1, 2, 3, 4, 5), {}), (("x",), {"image_url": "y"})):
        with pytest.raises(InvalidPayloadError):
            decode_celery(version, "message_detect", args, kwargs)


@pytest.mark.parametrize("version", [1, 2])
def test_a_task_that_is_not_registered_is_an_unknown_type(version: int) -> None:
    with pytest.raises(UnknownTypeError, match=r"os\.system"):
        decode_celery(version, "os.system", ("true",), {})


def test_unknown_arguments_of_a_newer_producer_are_kept() -> None:
    assert decode_celery(2, "message_detect", ("x",), {"invented": 1}).payload.input.model_extra == {"invented": 1}


LEGACY = {
    "id": "old-1",
    "name": "message_detect",
    "job_schema": {"name": "message_detect", "input": {"image_url": "x"}, "output": None},
    "backend_type": "redis",
    "queue_name": "detection_jobs",
    "routing_key": "detect",
    "status": "queued",
    "created_at": "2026-01-02T03:04:05.000006",
    "priority": 4,
}
UPSTREAM = {
    "id": "up-1",
    "name": "nightly",
    "schema_name": "message_detect",
    "payload": {"image_url": "x"},
    "status": "queued",
    "created_at": "2026-01-02T03:04:05.000006",
    "started_at": None,
    "completed_at": None,
    "error": None,
    "entrypoint": None,
    "priority": 4,
}


@pytest.mark.parametrize(
    ("old", "name"), [(LEGACY, "message_detect"), (UPSTREAM, "nightly")], ids=["legacy", "upstream"]
)
@pytest.mark.parametrize("content_type", ["application/json", None])
def test_an_older_jobs_json_becomes_a_typed_job(old: dict[str, Any], name: str, content_type: str | None) -> None:
    job = message.decode(json.dumps(old).encode(), {}, content_type)
    assert (job.id, job.name, job.priority, job.model_extra) == (old["id"], name, 4, {})
    assert job.payload == DetectSchema(input=Detect(image_url="x"))
    assert job.created_at == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_what_upstream_adds_to_its_jobs_is_kept() -> None:
    job = message.decode(json.dumps(UPSTREAM | {"job_id": "up-1", "output": {"objects": ["cat"]}}), {})
    assert job.model_extra == {"job_id": "up-1"}
    assert job.payload.output == Detected(objects=["cat"])


def test_a_job_as_pydantic_dumps_it_is_read() -> None:
    job = make_job()
    assert message.decode(job.model_dump_json(), {}) == job


@pytest.mark.parametrize(
    "body", [b'"hello"', b"5", b"{}", b"[]", b"[1, 2]", b"[1, 2, 3]", b"[[], [], {}]", b'{"payload": 5}']
)
def test_json_that_is_no_job_says_what_was_expected(body: bytes) -> None:
    with pytest.raises(DecodeError):
        message.decode(body, {"task": "message_detect"}, "application/json")


@pytest.mark.parametrize(
    "content_type", ["application/x-python-serialize", "application/x-yaml", "application/x-msgpack", "PICKLE"]
)
def test_content_that_could_run_code_is_refused_by_its_type(content_type: str) -> None:
    with pytest.raises(DecodeError, match="not accepted"):
        message.decode(message.encode(make_job()).body, {}, content_type)


def test_eta_and_delay_are_the_same_header() -> None:
    eta = datetime(2030, 1, 2, tzinfo=UTC)
    assert headers.moment(message.encode(make_job(), eta=eta).headers, "eta") == eta
    for delay in (60, 60.0, timedelta(minutes=1)):
        before = datetime.now(UTC)
        due = headers.moment(message.encode(make_job(), delay=delay).headers, "eta")
        assert due is not None
        assert before <= due - timedelta(seconds=60) <= datetime.now(UTC)
    assert headers.moment(message.encode(make_job()).headers, "eta") is None


def test_expires_is_a_time_or_a_number_of_seconds() -> None:
    eta = datetime(2030, 1, 2, tzinfo=UTC)
    assert headers.moment(message.encode(make_job(), expires=eta).headers, "expires") == eta
    soon = headers.moment(message.encode(make_job(), expires=5).headers, "expires")
    assert soon is not None
    assert datetime.now(UTC) < soon <= datetime.now(UTC) + timedelta(seconds=5)


@pytest.mark.parametrize(
    "times",
    [
        {"eta": datetime(2030, 1, 2)},  # noqa: DTZ001
        {"expires": datetime(2030, 1, 2)},  # noqa: DTZ001
        {"eta": datetime(2030, 1, 2, tzinfo=UTC), "delay": 5},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"delay": 1e18},
        {"expires": "soon"},
    ],
    ids=repr,
)
def test_a_time_that_cannot_work_is_refused(times: Any) -> None:
    with pytest.raises(ConfigurationError):
        message.encode(make_job(), **times)


def test_celerys_naive_eta_is_utc_and_a_wrong_one_is_a_decode_error() -> None:
    assert headers.moment({"eta": "2030-01-02T00:00:00"}, "eta") == datetime(2030, 1, 2, tzinfo=UTC)
    sent = celery_message(2, "t", (), {}, countdown=60).headers
    assert headers.moment(sent, "eta") == datetime.fromisoformat(sent["eta"])
    for wrong in ("soon", 5, ["2030"], {"at": 1}):
        with pytest.raises(DecodeError, match="eta"):
            headers.moment({"eta": wrong}, "eta")


def test_what_cannot_be_published_names_the_field() -> None:
    class Held(JobInput):
        shape: Shape

    class Hidden(Shape):
        side: int = 1

    with pytest.raises(EncodeError, match=r"named\.input.*Held\.shape"):
        message.encode(Job(payload=JobSchema(name="named", input=Held(shape=Hidden()))))
    assert message.encode(Job(payload=JobSchema(name="named", input=Held(shape=Circle())))).body
