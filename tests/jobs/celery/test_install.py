"""install(app) adds what typed jobs need, once, whenever it is called, and changes nothing for plain tasks."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery
from celery.app.amqp import AMQP
from celery.worker.consumer import Consumer

from mindtrace_jobs import ConfigurationError, Job, JobRouter, Orchestrator
from mindtrace_jobs.celery import install, job_task
from mindtrace_jobs.celery.worker.consumer import JobsConsumerMixin
from mindtrace_jobs.routing import documented_router
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema
from tests.jobs.celery.workers import ROOT, close_app

ETA = datetime(2030, 1, 1, tzinfo=UTC)


class OwnConsumer(Consumer):  # type: ignore[misc]
    """What a stack may have."""


def new_app(url: str = "memory://install", **conf: Any) -> Any:
    app = Celery("install", broker=url, backend="cache+memory://", set_as_current=False)
    app.conf.update({"task_routes": {"plain.routed": {"queue": "routed"}}, **conf})
    app._local.oid = "the queue for replies"  # else every app has another one

    @app.task(name="plain.add", shared=False)  # type: ignore[untyped-decorator]
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="plain.routed", shared=False)  # type: ignore[untyped-decorator]
    def routed(**values: Any) -> dict[str, Any]:
        return values

    return app


def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002
    return DetectionOutput(labels=[])


def consumer_class(app: Any) -> Any:
    """Of which class a worker of the app makes its consumer."""
    return type(app.WorkController(pool_cls="solo").consumer)


def publish_plain(app: Any) -> None:
    """All that a message may carry, with every id and time given."""
    add, routed = app.tasks["plain.add"], app.tasks["plain.routed"]
    add.apply_async((1, 2), task_id="a")
    routed.apply_async(kwargs={"when": ETA, "text": "ü"}, task_id="b", priority=3, eta=ETA, headers={"own": "x"})
    (add.s(1, 1).set(task_id="c") | add.s(3).set(task_id="d")).apply_async(link=routed.s().set(task_id="e"))
    app.send_task("plain.unknown", args=[[1]], task_id="f", queue="routed", serializer="json", compression="gzip")


def on_redis(url: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as server:
        raw: list[Any] = []
        for queue in ("celery", "routed", "routed\x06\x163"):
            raw.extend(server.lrange(queue, 0, -1))
    messages = [json.loads(message) for message in raw]
    for message in messages:
        assert message["properties"].pop("delivery_tag")
    return messages


def on_rabbitmq(url: str) -> list[Any]:
    found = []
    with Celery("look", broker=url, set_as_current=False).connection_for_read() as connection:
        for queue in ("celery", "routed"):
            while (message := connection.default_channel.basic_get(queue)) is not None:
                properties = {**message.properties, "headers": dict(message.headers)}
                found.append(
                    (queue, bytes(message.body, "utf-8") if isinstance(message.body, str) else message.body, properties)
                )
                message.channel.basic_ack(message.delivery_tag)
    return found


@pytest.fixture
def apps() -> Iterator[list[Any]]:
    made: list[Any] = []
    yield made
    for app in made:
        close_app(app)


def test_plain_tasks_are_the_same_bytes_on_redis(redis_url: str, apps: list[Any]) -> None:
    seen = []
    for installed in (False, True):
        app = new_app(redis_url)
        apps.append(app)
        if installed:
            install(app)
        publish_plain(app)
        seen.append(on_redis(redis_url))
        with redis.Redis.from_url(redis_url) as server:
            server.flushdb()
    assert len(seen[0]) == 4
    assert seen[0] == seen[1]


def test_plain_tasks_are_the_same_bytes_on_rabbitmq(rabbitmq_url: str, apps: list[Any]) -> None:
    seen = []
    for installed in (False, True):
        app = new_app(rabbitmq_url)
        apps.append(app)
        if installed:
            install(app)
        publish_plain(app)
        seen.append(on_rabbitmq(rabbitmq_url))
    assert len(seen[0]) == 4
    assert seen[0] == seen[1]


def test_settings_and_options_of_plain_tasks_stay_as_they_are() -> None:
    before, after = new_app(), new_app()
    install(after)
    settings = [app.conf.table(with_defaults=True) for app in (before, after)]
    changed = {name for name in settings[0] if settings[0][name] != settings[1].get(name)} - {"deprecated_settings"}
    assert changed == {"accept_content"}
    for name in ("plain.add", "plain.routed"):
        for option, setting in before.tasks[name].from_config:
            assert getattr(before.tasks[name], option) == getattr(after.tasks[name], option), setting


def test_a_jobs_queue_comes_after_the_apps_own_routes() -> None:
    app = new_app()
    app.conf.task_routes = {"stack_detection": {"queue": "gpu"}}
    install(app)
    assert app.amqp.router.route({}, "stack_detection")["queue"].name == "gpu"
    assert app.amqp.router.route({}, "stack_deed_detection")["queue"].name == "detection_jobs"
    assert app.amqp.router.route({}, "plain.add")["queue"].name == "celery"
    assert Orchestrator.from_celery(app).router.queue_for("stack_detection") == "gpu"


def test_it_is_installed_once_however_often_it_is_called() -> None:
    app = new_app()
    for _ in range(3):
        install(app)
    assert consumer_class(app).__mro__.count(JobsConsumerMixin) == 1
    assert app.conf.accept_content == ["json", "pydantic"]
    assert app.amqp.routes.count(documented_router) == 1
    assert app.amqp.Connection.__mro__.count(app.amqp.Connection.stock) == 1
    assert not hasattr(app.amqp.Connection.stock, "stock")


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_it_works_before_and_after_the_app_is_configured(when: str) -> None:
    app = Celery("order", set_as_current=False)
    if when == "before":
        install(app, lease=5.0)
    if when == "between":
        install(app, lease=5.0)
        assert app.conf.task_routes is None  # a look at the settings reads them
    app.config_from_object(
        {
            "broker_url": "redis://somewhere/3",
            "accept_content": ["yaml"],
            "result_accept_content": ["json"],
            "task_routes": [{"x": "y"}],
        },
        force=when == "after",
    )
    if when == "after":
        install(app, lease=5.0)
    assert app.conf.accept_content == ["yaml", "pydantic"]
    assert app.conf.result_accept_content == ["json", "pydantic"]
    assert app.conf.task_routes == [{"x": "y"}]
    assert app.amqp.router.route({}, "stack_detection")["queue"].name == "detection_jobs"
    connection = app.connection_for_read()
    assert connection.transport.__class__.__module__ == "mindtrace_jobs.transports.redis"
    assert connection.transport_options["lease"] == 5.0
    assert connection.as_uri().startswith("redis://")


def test_the_broker_that_the_environment_names_is_ours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    app = new_app()
    install(app)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere/1")
    assert app.connection_for_write().transport.__class__.__module__ == "mindtrace_jobs.transports.redis"


def test_failover_between_brokers_of_two_kinds_keeps_our_transport() -> None:
    app = new_app(["amqp://first//", "redis://second/1", "redis://third/2"])  # type: ignore[arg-type]
    install(app)
    connection = app.connection_for_write()
    kinds = [connection.transport.__class__.__module__]
    for _ in range(2):
        connection.maybe_switch_next()
        kinds.append(connection.transport.__class__.__module__)
    assert kinds == ["kombu.transport.pyamqp", *["mindtrace_jobs.transports.redis"] * 2]
    assert connection.clone().transport_options["lease"] == 60.0


@pytest.mark.parametrize("setting", [OwnConsumer, f"{__name__}:OwnConsumer"])
def test_the_apps_own_consumer_is_extended(setting: Any) -> None:
    app = new_app(worker_consumer=setting)
    install(app)
    assert consumer_class(app).__mro__[1:3] == (JobsConsumerMixin, OwnConsumer)
    assert app.conf.worker_consumer == setting


def test_a_consumer_that_is_configured_after_the_installation_is_extended_too() -> None:
    app = new_app()
    install(app)
    assert consumer_class(app).__mro__[1:3] == (JobsConsumerMixin, Consumer)
    app.conf.worker_consumer = OwnConsumer
    assert consumer_class(app).__mro__[1:3] == (JobsConsumerMixin, OwnConsumer)


def test_a_producer_imports_neither_the_apps_consumer_nor_celerys() -> None:
    code = (
        "import sys; from celery import Celery; from mindtrace_jobs.celery import install;"
        "app = Celery('x', broker='memory://'); app.conf.worker_consumer = 'only.on.workers:Consumer'; install(app);"
        "print(app.conf.accept_content, app.send_task('plain').id != '', 'celery.worker.consumer' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("['json', 'pydantic'] True False", "")


@pytest.mark.parametrize("configured", [True, False])
def test_the_router_that_was_named_last_is_used(configured: bool) -> None:
    app = Celery("routers", broker="memory://", set_as_current=False)
    assert not configured or app.conf.task_routes is None  # a look at the settings reads them
    install(app)
    install(app, router=JobRouter(rules=[("stack*", "first")]))
    install(app, router=JobRouter(rules=[("stack*", "second")]))
    install(app)
    assert app.amqp.router.route({}, "stack_detection")["queue"].name == "second"
    app.config_from_object({"task_routes": {"stack_deed*": {"queue": "deeds"}}})
    assert app.conf.task_routes
    assert app.amqp.Router().route({}, "stack_detection")["queue"].name == "second"


def test_settings_of_an_installed_app_can_be_written_down_and_read_by_another() -> None:
    app = new_app()
    install(app)
    written = repr({name: app.conf[name] for name in ("accept_content", "task_routes", "worker_consumer")})
    other = Celery("other", set_as_current=False)
    other.config_from_object(ast.literal_eval(written))
    install(other)
    assert other.conf.task_routes == app.conf.task_routes
    assert other.amqp.router.route({}, "stack_detection")["queue"].name == "detection_jobs"


def test_a_router_of_ones_own_takes_the_place_of_the_documented_one() -> None:
    app = new_app()
    install(app)
    own = JobRouter(default="own_jobs", rules=[])
    install(app, router=own)
    install(app)
    assert app.amqp.router.route({}, "stack_detection")["queue"].name == "own_jobs"


@pytest.mark.parametrize("written", ["mindtrace_jobs.routing:documented_router", documented_router])
def test_a_router_of_ones_own_is_asked_although_the_settings_name_the_documented_one(written: Any) -> None:
    app = new_app()
    app.conf.task_routes = [{"plain.routed": {"queue": "routed"}}, written]
    install(app, router=JobRouter(default="own_jobs", rules=[]))
    assert app.amqp.router.route({}, "stack_detection")["queue"].name == "own_jobs"
    assert app.amqp.router.route({}, "plain.routed")["queue"].name == "routed"


class OwnAMQP(AMQP):  # type: ignore[misc]
    """What a stack may have."""

    class Connection(AMQP.Connection):  # type: ignore[misc]
        """Of its own, too."""


@pytest.mark.parametrize("made", [False, True])
def test_the_apps_own_amqp_and_connection_classes_are_extended(made: bool) -> None:
    app = Celery("own", broker="memory://", amqp=OwnAMQP, set_as_current=False)
    before = app.amqp if made else None
    install(app, lease=7.0)
    install(app, lease=8.0)
    assert made is False or app.amqp is before
    assert isinstance(app.amqp, OwnAMQP)
    assert issubclass(app.amqp.Connection, OwnAMQP.Connection)
    assert app.connection_for_write().transport_options["lease"] == 8.0
    assert app.amqp.router.route({}, "stack_detection")["queue"].name == "detection_jobs"


@pytest.mark.parametrize("routes", [{"*": {"queue": "main"}}, [{"x": "y"}, lambda *_, **__: {"queue": "main"}]])
@pytest.mark.parametrize("how", ["submit", "delay", "orchestrator"])
def test_a_job_that_a_route_for_everything_takes_is_warned_of_once(routes: Any, how: str) -> None:
    app = new_app(task_routes=routes)
    task = job_task(app, DetectionSchema)(detect)
    taken = DetectionInput(image="x")
    publish: dict[str, Callable[[], Any]] = {
        "submit": lambda: task.submit(taken),
        "delay": lambda: task.delay(taken),
        "orchestrator": lambda: Orchestrator.from_celery(app).submit(Job(payload=DetectionSchema(input=taken))),
    }
    with pytest.warns(RuntimeWarning, match=r"stack_detection.*queue 'main'.*discards it") as seen:
        [publish[how]() for _ in range(2)]
    assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.parametrize(
    "routes", [{"stack_*": {"queue": "main"}, "*": {"queue": "main"}}, {"plain.*": "x"}, None, "odd"]
)
def test_a_job_that_a_route_names_is_not_warned_of(routes: Any, recwarn: pytest.WarningsRecorder) -> None:
    def odd(name: str, *_: Any, **__: Any) -> Any:
        return {"stack_detection": {"queue": "a"}, "plain.add": None, "plain.routed": None}[name]

    app = new_app(task_routes=odd if routes == "odd" else routes)
    job_task(app, DetectionSchema)(detect).submit(DetectionInput(image="x"))
    app.tasks["plain.add"].delay(1, 2)
    assert not [str(warning.message) for warning in recwarn if warning.category is RuntimeWarning]


def test_a_job_with_a_queue_of_its_own_is_not_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    app = new_app(task_routes={"*": {"queue": "main"}})
    job_task(app, DetectionSchema)(detect).submit(DetectionInput(image="x"), queue="jobs")
    assert not [str(warning.message) for warning in recwarn if warning.category is RuntimeWarning]


def test_installing_makes_nothing_of_the_apps_amqp() -> None:
    app = new_app()
    install(app)
    assert "amqp" not in app.__dict__
    assert not app.configured


def test_an_installed_app_can_be_pickled() -> None:
    app = new_app()
    install(app)
    again = pickle.loads(pickle.dumps(app))
    assert again.amqp.router.route({}, "stack_detection")["queue"].name == "detection_jobs"


def test_senseless_choices_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lease"):
        install(new_app(), lease=0)
    with pytest.raises(ConfigurationError, match="max_worker_losses"):
        install(new_app(), max_worker_losses=0)


def test_a_broker_that_jobs_cannot_use_is_named() -> None:
    app = new_app("sqs://")
    install(app)
    with pytest.raises(ConfigurationError, match="sqs"):
        Orchestrator.from_celery(app)


def test_job_task_installs_by_itself() -> None:
    app = new_app()
    job_task(app, DetectionSchema)(detect)
    assert "pydantic" in app.conf.accept_content
    assert "stack_detection" in app.tasks


def test_importing_the_package_loads_no_celery() -> None:
    code = "import sys, mindtrace_jobs.celery; print(sorted({'celery', 'kombu', 'redis'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_no_public_name_is_hidden_by_a_module() -> None:
    code = (
        "import mindtrace_jobs.celery as c, pkgutil, importlib;"
        "[importlib.import_module(m.name) for m in pkgutil.iter_modules(c.__path__, c.__name__ + '.')];"
        "print([n for n in c.__all__ if not callable(getattr(c, n))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


URLS: list[Any] = [
    "redis://user:secret@host:7/3",
    "rediss://host/1",
    "redis+socket:///tmp/redis.sock",
    "sentinel://host:26379;sentinel://other:26379",
    "memory://x",
    "amqp://guest:guest@host//;redis://other/1",
    ["redis://first/1", "redis://second/2"],
]


@pytest.mark.parametrize("url", URLS)
def test_connections_tell_of_themselves_what_those_of_stock_celery_tell(url: Any) -> None:
    def told(app: Any) -> list[Any]:
        connection = app.connection_for_write(ssl={"ssl_cert_reqs": "none"} if "rediss" in url else None)
        found = connection.info()
        found["transport_options"].pop("lease", None)
        clone = connection.clone()
        described: list[Any] = [
            found,
            connection.transport_cls,
            connection.as_uri(),
            clone.transport_cls,
            clone.as_uri(),
            repr(clone).partition(" at ")[0],
        ]
        for _ in connection.alt:
            connection.maybe_switch_next()
            described += [connection.transport_cls, connection.as_uri()]
        return described

    stock, app = new_app(url), new_app(url)
    install(app)
    assert told(app) == told(stock)


@pytest.mark.parametrize("url", ["redis://host:7/3", "redis+socket:///tmp/redis.sock", "memory://x"])
def test_an_app_without_typed_jobs_in_the_same_process_keeps_its_own_connections(url: str) -> None:
    stock, app = new_app(url), new_app(url)
    install(app)
    seen = []
    for one in (stock, app):
        with one.pool.acquire() as connection, one.producer_pool.acquire() as producer:
            assert (
                connection.transport_cls
                == producer.connection.transport_cls
                == one.connection_for_write().transport_cls
            )
            seen.append(
                {type(each.transport).__module__.partition(".")[0] for each in (connection, producer.connection)}
            )
    assert seen == [{"kombu"}, {"mindtrace_jobs"}]
    assert stock.pool is not app.pool
    close_app(stock)
    close_app(app)
