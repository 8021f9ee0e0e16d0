"""install(app) works however an app gets its settings, and with the queues that they declare."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import QueueNotFound
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue

from mindtrace_jobs import ConfigurationError, Job, Orchestrator
from mindtrace_jobs.celery import install, job_task
from tests.jobs.celery.models import DeedInput, DeedOutput, DeedSchema, DetectionInput, DetectionOutput, DetectionSchema
from tests.jobs.celery.workers import ROOT, Broker, Worker, close_app
from tests.jobs.servers import wait_until

PLAIN = {"plain.routed": {"queue": "routed"}}
SETTINGS = f"""
broker_url = "redis://somewhere/1"
accept_content = ["json", "yaml"]
task_routes = {PLAIN}
"""
#: As Django has them: an object that knows much beside Celery.
DJANGO = f"""
class Settings:
    SECRET_KEY = "x"
    TIME_ZONE = "UTC"
    CELERY_BROKER_URL = "redis://somewhere/1"
    CELERY_ACCEPT_CONTENT = ["json", "yaml"]
    CELERY_TASK_ROUTES = {PLAIN}

settings = Settings()
"""
#: As before Celery 4.
OLD = {"BROKER_URL": "redis://somewhere/1", "CELERY_ACCEPT_CONTENT": ["json", "yaml"], "CELERY_ROUTES": PLAIN}

#: As in a module that imports no app.
BY_PROXY = """
from celery import Celery, current_app
from mindtrace_jobs.celery import install, job_task
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema

app = Celery("default", broker="memory://", set_as_current=False)
app.set_default()
install(current_app)

@job_task(current_app, DetectionSchema)
def detect(input: DetectionInput) -> DetectionOutput: ...

print("stack_detection" in app.tasks, app.amqp.router.route({}, "stack_detection")["queue"].name)
"""

Way = Callable[[Any], None]


def by_environment(app: Any) -> None:
    """CELERY_CONFIG_MODULE names the module of an app that names none."""


def by_variable(app: Any) -> None:
    app.config_from_envvar("OWN_CONFIG")


def by_variable_at_once(app: Any) -> None:
    app.config_from_envvar("OWN_CONFIG", force=True)


def by_namespace(app: Any) -> None:
    app.config_from_object("way_django:settings", namespace="CELERY")


def by_namespace_and_changed(app: Any) -> None:
    app.config_from_object({"CELERY_BROKER_URL": "redis://somewhere/1"}, namespace="CELERY")
    app.conf.update(CELERY_ACCEPT_CONTENT=["json", "yaml"], CELERY_TASK_ROUTES=PLAIN)


def by_old_names(app: Any) -> None:
    app.config_from_object(OLD)


def by_defaults(app: Any) -> None:
    app.add_defaults({"broker_url": "redis://somewhere/1", "accept_content": ["json", "yaml"], "task_routes": PLAIN})


def by_assignment(app: Any) -> None:
    app.conf.broker_url = "redis://somewhere/1"
    app.conf.accept_content = ["json", "yaml"]
    app.conf.task_routes = PLAIN


WAYS: list[Way] = [
    by_environment,
    by_variable,
    by_variable_at_once,
    by_namespace,
    by_namespace_and_changed,
    by_old_names,
    by_defaults,
    by_assignment,
]


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "way_settings.py").write_text(SETTINGS)
    (tmp_path / "way_django.py").write_text(DJANGO)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OWN_CONFIG", "way_settings")


@pytest.mark.parametrize("first", ["installed", "configured"])
@pytest.mark.parametrize("configure", WAYS, ids=lambda way: way.__name__)
def test_an_app_may_be_configured_in_any_way(
    first: str, configure: Way, configuration: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if configure is by_environment:
        monkeypatch.setenv("CELERY_CONFIG_MODULE", "way_settings")
    app = Celery("way", set_as_current=False)
    for step in (install, configure) if first == "installed" else (configure, install):
        step(app)
    assert app.conf.accept_content == ["json", "yaml", "pydantic"]
    assert app.amqp.router.route({}, "stack_detection")["queue"].name == "detection_jobs"
    assert app.amqp.router.route({}, "plain.routed")["queue"].name == "routed"
    assert app.amqp.router.route({}, "plain.add")["queue"].name == "celery"
    assert app.connection_for_write().transport.__class__.__module__ == "mindtrace_jobs.transports.redis"


@pytest.mark.parametrize("installed", [False, True])
def test_routes_that_change_after_they_were_used_are_seen(installed: bool) -> None:
    app = Celery("late", broker="memory://", set_as_current=False)
    if installed:
        install(app)
    app.config_from_object({"task_routes": {"plain.routed": {"queue": "one"}}}, force=True)
    assert app.amqp.router.route({}, "plain.routed")["queue"].name == "one"
    app.conf.update(task_routes={"plain.routed": {"queue": "two"}})
    assert app.amqp.router.route({}, "plain.routed")["queue"].name == "two"


STEPS: dict[str, Callable[[Any], Any]] = {
    "read": lambda app: app.conf.timezone,
    "install": install,
    "amqp": lambda app: app.amqp,
    "queues": lambda app: setattr(app.conf, "task_queues", [Queue("celery"), Queue("rt")]),
    "routes": lambda app: setattr(app.conf, "task_routes", {"plain.routed": {"queue": "rt"}}),
    "default": lambda app: setattr(app.conf, "task_default_queue", "mine"),
    "type": lambda app: setattr(app.conf, "task_create_missing_queue_type", "quorum"),
    "update": lambda app: app.conf.update(task_routes={"plain.routed": {"queue": "rt"}}),
    "accept": lambda app: setattr(app.conf, "accept_content", ["json", "yaml"]),
}


def routed(app: Any) -> tuple[Any, ...]:
    """What an app does with plain tasks: their queues, of which type, and which queues its workers consume."""
    queues = [app.amqp.router.route({}, name)["queue"] for name in ("plain.routed", "plain.add")]
    return [(queue.name, queue.queue_arguments) for queue in queues], sorted(app.amqp.queues.consume_from)


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=7), st.integers(0, 7))
def test_settings_may_be_read_and_assigned_and_the_app_installed_in_any_order(names: list[str], place: int) -> None:
    names.insert(place, "install")
    stock, app = (Celery("any", broker="memory://", set_as_current=False) for _ in range(2))
    for name in names:
        STEPS[name](app)
        if name != "install":
            STEPS[name](stock)
    assert routed(app) == routed(stock), names
    queue = app.amqp.router.route({}, "stack_detection")["queue"].name
    assert queue == "detection_jobs"
    assert app.amqp.Connection.lease == 60.0


def test_what_a_worker_accepts_may_be_assigned_after_the_settings_were_read() -> None:
    app = Celery("late", broker="memory://", set_as_current=False)
    install(app)
    assert app.conf.timezone is None  # a look at the settings reads them
    app.conf.accept_content = ["json", "yaml"]
    app.WorkController(pool_cls="solo")
    assert app.conf.accept_content == ["json", "yaml", "pydantic"]


def test_the_default_app_is_found_through_its_proxy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BY_PROXY], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("True detection_jobs", "")


# Queues that the settings declare


@pytest.fixture
def new_app(rabbitmq_url: str) -> Iterator[Callable[..., Any]]:
    """Makes an installed app on RabbitMQ, with a kind of jobs."""
    made: list[Any] = []

    def make(**settings: Any) -> Any:
        app = Celery("queues", broker=rabbitmq_url, set_as_current=False)
        app.conf.update(settings)
        install(app)
        made.append(app)

        @job_task(app, DetectionSchema)
        def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
            return DetectionOutput(labels=[])

        return app

    yield make
    for app in made:
        close_app(app)


def job() -> Job[DetectionSchema]:
    return Job(payload=DetectionSchema(input=DetectionInput(image="x")))


@pytest.mark.parametrize(
    "settings",
    [
        {"task_queues": [Queue("detection_jobs", queue_arguments={"x-max-priority": 5})]},
        {"task_queues": [Queue("detection_jobs", Exchange("media", "topic"), routing_key="media.#")]},
        {"task_queues": [Queue("detection_jobs")]},
        {"task_queue_max_priority": 5},
        {"task_create_missing_queue_type": "quorum"},
        {},
    ],
    ids=["with priorities", "on a topic exchange", "plain", "all with priorities", "quorum", "not declared"],
)
def test_jobs_declare_a_queue_as_the_app_does(settings: dict[str, Any], new_app: Callable[..., Any]) -> None:
    # RabbitMQ refuses every later declaration that differs, and closes the channel.
    app = new_app(**settings)
    with Orchestrator.from_celery(app) as orchestrator:
        orchestrator.submit(job())
        app.tasks["stack_detection"].apply_async((DetectionInput(image="x"),))
        app.send_task("plain", queue="detection_jobs")
        stock = Celery("stock", broker=app.conf.broker_url, set_as_current=False)
        # Confirmed: what is under way to a quorum queue is lost as its connection closes.
        stock.conf.update(settings, broker_transport_options={"confirm_publish": True})
        stock.send_task("plain", queue="detection_jobs", ignore_result=True)
        close_app(stock)
        # A quorum queue counts a moment later.
        wait_until(lambda: orchestrator.queue_status("detection_jobs") == 4, "all four")


def test_jobs_are_published_to_a_queue_that_exists_with_other_arguments(
    new_app: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app()
    with Orchestrator.from_celery(app) as orchestrator:
        orchestrator.declare_queue("detection_jobs", "priority")
        for _ in range(2):
            app.tasks["stack_detection"].submit(DetectionInput(image="x"))
        orchestrator.submit(job())
        assert orchestrator.queue_status("detection_jobs") == 3
    assert caplog.text.count("used as it is") == 1


def test_a_job_is_retried_on_a_queue_that_exists_with_other_arguments(
    broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    broker.orchestrator.declare_queue("other_jobs", "priority")
    start_worker(queues=("other_jobs",), pool="prefork")
    handle = broker.orchestrator.submit(Job(payload=DeedSchema(input=DeedInput(deed="retry"))), queue="other_jobs")
    assert handle.result(30) == DeedOutput(attempt=2)


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_job_that_an_exchange_brought_is_retried_on_and_dead_lettered_under_its_queue(
    pool: str, broker: Broker, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker(pool=pool, queues=("media_jobs",), app="tests.jobs.celery.exchange_jobs")
    retried, failed = (Job(payload=DeedSchema(input=DeedInput(deed=deed))) for deed in ("retry", "fail"))
    for job in (retried, failed):
        broker.orchestrator.publish_message("", job, exchange="media", routing_key="frames")
    assert broker.dead_letter("media_jobs", failed.id).queue == "media_jobs"
    for event in ("retry", "succeeded"):
        worker.wait_logged(f"<media_jobs> Task {retried.payload.name}[{retried.id}] {event}")
    assert not broker.orchestrator.client.exists("frames")
    assert not broker.orchestrator.client.exists("frames.dlq")


def test_an_app_that_makes_no_queues_is_told_which_one_is_missing(new_app: Callable[..., Any]) -> None:
    app = new_app(task_create_missing_queues=False, task_queues=[Queue("celery")])
    with pytest.raises(QueueNotFound, match="detection_jobs"):
        app.tasks["stack_detection"].submit(DetectionInput(image="x"))
    with Orchestrator.from_celery(app) as orchestrator:
        with pytest.raises(ConfigurationError, match="'detection_jobs', which is not in the app's task_queues"):
            orchestrator.submit(job())
        assert not orchestrator.client.exists("detection_jobs")


def test_jobs_run_where_an_app_lists_their_queue_and_makes_no_others(
    new_app: Callable[..., Any], rabbitmq_url: str
) -> None:
    alias = Queue("gpu_jobs", alias="detection_jobs", routing_key="gpu_jobs")
    app = new_app(task_create_missing_queues=False, task_queues=[Queue("celery"), alias])
    with Orchestrator.from_celery(app) as orchestrator:
        orchestrator.submit(job())
        app.tasks["stack_detection"].submit(DetectionInput(image="x"))
        assert orchestrator.queue_status("gpu_jobs") == 2
