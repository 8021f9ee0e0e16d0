"""An app that accepts signed messages only (``setup_security()``) keeps refusing others, and its jobs are signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.security.certificate import Certificate, FSCertStore
from celery.security.key import PrivateKey
from celery.security.serialization import SecureSerializer
from hypothesis import HealthCheck, given, settings
from kombu import serialization

from mindtrace_jobs import (
    ConfigurationError,
    Consumer,
    DecodeError,
    EncodeError,
    ExecutionStatus,
    InvalidInputError,
    Job,
    JobHandle,
    Orchestrator,
    RejectJob,
    RetryPolicy,
)
from mindtrace_jobs.celery import install, job_task
from mindtrace_jobs.wire.message import Message, decode, encode
from mindtrace_jobs.wire.signing import Signing
from tests.jobs.celery.models import (
    DeedInput,
    DeedOutput,
    DeedSchema,
    DetectionInput,
    DetectionOutput,
    DetectionSchema,
)
from tests.jobs.celery.signed_jobs import ORDERS, make_keys, signed_app
from tests.jobs.celery.workers import Broker, Worker, close_app
from tests.jobs.everything import EverythingSchema, account, everything_inputs

QUEUE = "detection_jobs"
SIGNED = "application/data"
TAKEN = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder, "ours")
    make_keys(folder, "theirs")
    return folder


@pytest.fixture
def kombu_as_it_was() -> Iterator[None]:
    """Kombu's serializers, which ``setup_security`` changes for the whole process."""
    registry = serialization.registry
    names = ("_disabled_content_types", "_encoders", "_decoders", "name_to_type", "type_to_name")
    before = {name: getattr(registry, name).copy() for name in names}
    yield
    for name, value in before.items():
        found = getattr(registry, name)
        found.clear()
        found.update(value)
    registry._set_default_serializer("json")


@pytest.fixture(scope="module")
def broker(new_broker: Callable[[str], Broker]) -> Broker:
    return new_broker("redis")


@pytest.fixture(scope="module", params=ORDERS)
def worker(
    request: pytest.FixtureRequest, broker: Broker, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """A worker of an app that was installed and secured in some order."""
    worker = Worker(
        broker,
        tmp_path_factory.mktemp("worker"),
        app="tests.jobs.celery.signed_jobs",
        pool="prefork",
        queues=(QUEUE,),
        environment={"SIGNED_KEYS": str(keys), "SIGNED_ORDER": request.param},
    )
    yield worker.wait_ready()
    worker.close()


@pytest.fixture
def app(broker: Broker, keys: Path, kombu_as_it_was: None) -> Iterator[Any]:
    """The same app in this process."""
    app = signed_app(broker.url, broker.results, keys)
    yield app
    close_app(app)


@pytest.fixture
def orchestrator(app: Any) -> Iterator[Orchestrator]:
    with Orchestrator.from_celery(app) as orchestrator:
        yield orchestrator


def detection(image: str = "a.png") -> Job[DetectionSchema]:
    return Job(payload=DetectionSchema(input=DetectionInput(image=image, taken=TAKEN)))


def waiting(orchestrator: Orchestrator, queue: str) -> Message:
    """The only message on a queue, which is emptied."""
    (message,) = orchestrator.client.browse(queue, 10)
    orchestrator.clean_queue(queue)
    return message


# --- the settings


@pytest.mark.parametrize("order", ORDERS)
def test_what_an_app_accepts_stays_signed_only_in_whatever_order_it_is_made(
    order: str, keys: Path, memory_url: str, kombu_as_it_was: None
) -> None:
    app = signed_app(memory_url, "cache+memory://", keys, order)
    assert app.conf.accept_content == ["auth"]
    install(app)
    assert app.conf.accept_content == ["auth"]
    assert app.conf.result_accept_content is None


def test_results_that_have_to_be_signed_stay_so(memory_url: str) -> None:
    app = Celery("results", broker=memory_url, set_as_current=False)
    app.conf.update(accept_content=["json"], result_accept_content=["application/data"])
    install(app)
    assert app.conf.result_accept_content == ["application/data"]


def test_an_app_that_accepts_unsigned_content_too_is_as_before(memory_url: str) -> None:
    app = Celery("plain", broker=memory_url, set_as_current=False)
    app.conf.accept_content = ["json", "yaml"]
    install(app)
    assert app.conf.accept_content == ["json", "yaml", "pydantic"]

    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput | None: ...  # noqa: A002

    with Orchestrator.from_celery(app) as orchestrator:
        orchestrator.declare_queue("plain_jobs")
        detect.apply_async((DetectionInput(image="x"),), queue="plain_jobs")
        assert waiting(orchestrator, "plain_jobs").content_type == "application/x-mindtrace-pydantic"
        orchestrator.publish("plain_jobs", detection())
        assert waiting(orchestrator, "plain_jobs").content_type == "application/x-mindtrace-pydantic"


@pytest.mark.parametrize("send", ["submit", "delay", "apply_async", "signature", "orchestrator"])
def test_every_way_to_publish_signs(send: str, app: Any, orchestrator: Orchestrator) -> None:
    task, data = app.tasks["stack_detection"], DetectionInput(image="a.png")
    task.queue = "sent_jobs"
    orchestrator.declare_queue("sent_jobs")
    match send:
        case "submit":
            task.submit(data, compression="gzip")
        case "delay":
            task.delay(data)
        case "apply_async":
            task.apply_async((data,))
        case "signature":
            task.s(data).apply_async()
        case "orchestrator":
            orchestrator.submit(detection(), queue="sent_jobs")
    (message,) = orchestrator.client.browse("sent_jobs", 2)
    assert message.content_type == SIGNED
    received = orchestrator.receive_message("sent_jobs", schema=DetectionSchema)
    assert received is not None
    assert received.payload.input.image == "a.png"


# --- a worker


def test_a_signed_job_runs_and_its_typed_output_comes_back(app: Any, worker: Worker) -> None:
    handle = app.tasks["stack_detection"].submit(DetectionInput(image="x", taken=TAKEN))
    assert handle.result(30) == DetectionOutput(labels=["x", "DetectionInput"], taken=TAKEN)
    assert app.AsyncResult(handle.id).get(timeout=30) == handle.result(30)


def test_what_an_orchestrator_of_the_app_submits_runs(orchestrator: Orchestrator, worker: Worker) -> None:
    handle: JobHandle[Any] = orchestrator.submit(detection("y"), queue=QUEUE)
    assert handle.result(30) == DetectionOutput(labels=["y", "DetectionInput"], taken=TAKEN)


def test_what_a_plain_producer_with_the_key_sends_runs(app: Any, worker: Worker) -> None:
    sent = app.send_task("stack_detection", kwargs={"image": "z", "taken": TAKEN})
    assert sent.get(timeout=30) == DetectionOutput(labels=["z", "DetectionInput"], taken=TAKEN)


def test_a_plain_task_is_signed_as_ever(app: Any, orchestrator: Orchestrator, worker: Worker) -> None:
    assert app.tasks["signed.add"].delay(1, 2).get(timeout=30) == 3
    orchestrator.declare_queue("kept_jobs")
    app.tasks["signed.add"].apply_async((1, 2), queue="kept_jobs")
    assert waiting(orchestrator, "kept_jobs").content_type == SIGNED


def test_an_unsigned_job_of_a_stranger_never_runs_and_is_kept_with_the_reason(
    broker: Broker, worker: Worker, tmp_path: Path, orchestrator: Orchestrator
) -> None:
    job = Job(payload=DeedSchema(input=DeedInput(deed="work", path=str(tmp_path / "ran"))))
    with Orchestrator.from_url(broker.url) as stranger:
        stranger.publish(QUEUE, job)
    letter = broker.dead_letter(QUEUE, job.id)
    assert letter.reason == "undecodable"
    assert letter.error == (
        "content type 'application/x-mindtrace-pydantic' is not in the app's accept_content: nothing was read"
    )
    assert orchestrator.job_status(job.id) is ExecutionStatus.FAILED
    assert not (tmp_path / "ran").exists()
    orchestrator.dead_letters.purge(QUEUE)


def test_no_task_that_a_strangers_message_names_is_called_when_it_is_refused(
    app: Any, broker: Broker, worker: Worker, tmp_path: Path
) -> None:
    message = encode(detection())
    args, kwargs, embed = json.loads(message.body)
    call = {"task": "signed.note", "args": [str(tmp_path / "called")], "kwargs": {}, "options": {}, "immutable": True}
    body = json.dumps([args, kwargs, {**embed, "errbacks": [call], "callbacks": [call]}])
    broker.publish(QUEUE, body, message.headers, message.content_type)
    broker.dead_letter(QUEUE, message.headers["id"])
    assert app.tasks["signed.add"].delay(1, 2).get(timeout=30) == 3  # behind it, in the only process
    assert not (tmp_path / "called").exists()


def test_what_somebody_else_signed_is_refused(broker: Broker, worker: Worker, keys: Path) -> None:
    key, certificate = (keys / f"theirs.{kind}" for kind in ("key", "pem"))
    theirs = SecureSerializer(
        PrivateKey(key.read_text()), Certificate(certificate.read_text()), FSCertStore(str(certificate))
    )
    job = detection("secret.png")
    broker.publish(QUEUE, theirs.serialize([["secret.png"], {}, {}]), encode(job).headers, SIGNED)
    letter = broker.dead_letter(QUEUE, job.id)
    assert letter.reason == "undecodable"
    assert letter.error == "the signature is not that of anybody in the app's security_cert_store: nothing was read"


def test_a_job_that_is_retried_and_fails_stays_signed(
    app: Any, broker: Broker, orchestrator: Orchestrator, worker: Worker
) -> None:
    handle = app.tasks["stack_deed_detection"].submit(DeedInput(deed="fail"))
    letter = broker.dead_letter(QUEUE, handle.id)
    assert (letter.reason, letter.retries, letter.content_type) == ("retries-exhausted", 1, SIGNED)
    found = orchestrator.dead_letters.show(QUEUE, handle.id)
    assert found.job().payload.input == DeedInput(deed="fail")
    assert orchestrator.dead_letters.replay(QUEUE, handle.id) == [handle.id]
    again = broker.dead_letter(QUEUE, handle.id)
    assert (again.retries, again.body) == (1, letter.body)
    orchestrator.dead_letters.purge(QUEUE)


def test_a_job_that_asks_celery_for_a_retry_is_signed_again(app: Any, worker: Worker, tmp_path: Path) -> None:
    handle = app.tasks["stack_deed_detection"].submit(DeedInput(deed="retry", path=str(tmp_path / "ran")))
    assert handle.result(30) == DeedOutput(attempt=2)


def test_the_tasks_behind_a_signed_job_are_called(app: Any, worker: Worker, tmp_path: Path) -> None:
    call = app.tasks["signed.note"].si(str(tmp_path / "called"))
    app.tasks["stack_detection"].submit(DetectionInput(image="x"), link=call).result(30)
    chain = app.tasks["stack_detection"].s(DetectionInput(image="x")) | app.tasks["signed.add"].si(1, 2)
    assert chain.apply_async().get(timeout=30) == 3
    assert (tmp_path / "called").exists()


# --- other receivers


def test_an_orchestrator_of_the_app_reads_what_it_published(orchestrator: Orchestrator) -> None:
    job = detection()
    orchestrator.publish("own_jobs", job)
    (message,) = orchestrator.client.browse("own_jobs", 1)
    assert message.content_type == SIGNED
    assert b"a.png" not in message.body
    received = orchestrator.receive_message("own_jobs", schema=DetectionSchema)
    assert received is not None
    assert (received.id, received.payload) == (job.id, job.payload)
    assert orchestrator.publish_many("own_jobs", [detection("1"), detection("2")])
    assert [one.content_type for one in orchestrator.client.browse("own_jobs", 9)] == [SIGNED, SIGNED]


def test_an_orchestrator_of_the_app_refuses_what_is_not_signed(broker: Broker, orchestrator: Orchestrator) -> None:
    with Orchestrator.from_url(broker.url) as stranger:
        stranger.publish("refused_jobs", detection())
        with pytest.raises(DecodeError, match="not in the app's accept_content"):
            orchestrator.receive_message("refused_jobs")
        (letter,) = orchestrator.dead_letters.list("refused_jobs")
        assert letter.reason == "undecodable"
        with pytest.raises(DecodeError, match="not in the app's accept_content"):
            letter.job()
        # Others know nothing of signatures.
        orchestrator.publish("refused_jobs", detection())
        with pytest.raises(DecodeError, match=r"Orchestrator\.from_celery\(app\)"):
            stranger.receive_message("refused_jobs")


def test_a_consumer_of_the_app_runs_signed_jobs_only(broker: Broker, orchestrator: Orchestrator) -> None:
    seen: list[str] = []

    def handle(job: Job[Any]) -> None:
        seen.append(job.payload.input.image)
        raise RejectJob("seen")

    with Orchestrator.from_url(broker.url) as stranger:
        stranger.publish("consumed_jobs", detection("theirs"))
    orchestrator.publish("consumed_jobs", detection("ours"))
    Consumer(orchestrator, "consumed_jobs", handle, retry=RetryPolicy(max_retries=0)).consume_until_empty()
    assert seen == ["ours"]
    letters = orchestrator.dead_letters.list("consumed_jobs")
    assert sorted((one.reason, one.content_type) for one in letters) == [
        ("rejected", SIGNED),
        ("undecodable", "application/x-mindtrace-pydantic"),
    ]


# --- what cannot be signed


def test_another_serializer_is_refused(app: Any) -> None:
    for task in (app.tasks["stack_detection"], app.tasks["stack_deed_detection"]):
        with pytest.raises(ConfigurationError, match="leave the option `serializer` out"):
            task.apply_async((task.schema.input_type().model_construct(image="x"),), serializer="pydantic")


def test_a_process_without_the_key_says_what_to_call(memory_url: str) -> None:
    app = Celery("keyless", broker=memory_url, set_as_current=False)
    app.conf.update(accept_content=["auth"], task_serializer="auth")
    install(app)

    @job_task(app, DetectionSchema)
    def detect(input: DetectionInput) -> DetectionOutput | None: ...  # noqa: A002

    for send in (detect.submit, detect.delay):
        with pytest.raises(ConfigurationError, match=r"app\.setup_security\(\)"):
            send(DetectionInput(image="x"))
    with Orchestrator.from_celery(app) as orchestrator:
        for publish in (orchestrator.publish, lambda queue, job: orchestrator.submit(job, queue=queue)):
            with pytest.raises(ConfigurationError, match=r"app\.setup_security\(\)"):
                publish("keyless_jobs", detection())
        orchestrator.declare_queue("keyless_jobs")
        orchestrator.client.publish(Message(b"[]", {"id": "1", "task": "x"}, SIGNED), queue="keyless_jobs")
        with pytest.raises(ConfigurationError, match=r"app\.setup_security\(\)"):
            orchestrator.receive_message("keyless_jobs")
        assert orchestrator.queue_status("keyless_jobs") == 1


# --- what is signed


@pytest.mark.parametrize("inner", ["json", "pydantic"])
@pytest.mark.usefixtures("kombu_as_it_was")
def test_every_type_survives_being_signed(inner: str, keys: Path, memory_url: str) -> None:
    signing = Signing(signed_app(memory_url, "cache+memory://", keys, inner=inner))

    @settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
    @given(everything_inputs)
    def survives(value: Any) -> None:
        job = Job(payload=EverythingSchema(input=value), metadata={"a": [1]}, priority=3)
        message = encode(job)
        opened = signing.verified(signing.signed(message, job))
        assert json.loads(opened.body) == json.loads(message.body) or opened.body == message.body
        read = decode(opened.body, opened.headers, opened.content_type)
        straight = decode(message.body, message.headers, message.content_type)
        assert account(read) == account(straight)
        assert read.payload.input.model_fields_set == value.model_fields_set

    survives()


@pytest.mark.usefixtures("kombu_as_it_was")
def test_input_that_does_not_fit_says_so_as_without_a_signature(app: Any) -> None:
    signing = Signing(app)
    headers = {"id": "1", "task": "stack_detection"}
    kind, encoding, body = serialization.dumps([[], {"image": 1}, {}], serializer="auth")
    opened = signing.verified(Message(body.encode(), headers, kind, encoding))
    with pytest.raises(InvalidInputError, match="image"):
        decode(opened.body, opened.headers, opened.content_type)


def test_the_limit_of_size_is_that_of_what_is_published(app: Any) -> None:
    size = len(Signing(app).signed(encode(detection()), detection()).body)
    with Orchestrator.from_celery(app, max_job_bytes=size - 100) as orchestrator:
        assert len(encode(detection()).body) < size - 100
        with pytest.raises(EncodeError, match="over the limit"):
            orchestrator.publish("small_jobs", detection())
