"""Records in Redis are written in one step each, wherever the broker is, and are what Celery's own backend would write."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import redis
from celery import Celery
from celery.backends.redis import RedisBackend

from mindtrace_jobs import Consumer, ExecutionStatus, Job, JobsError, LocalClient, Orchestrator
from mindtrace_jobs.errors import BrokerError, EncodeError, Failure
from mindtrace_jobs.results import AppResultStore, JobState, ResultStore
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema, image_job
from tests.jobs.redis_channels import server
from tests.jobs.servers import RedisServer, wait_until

WHEN = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
STATES = [
    JobState("a", "conformance_image", ExecutionStatus.QUEUED, queued_at=WHEN),
    JobState("a", "conformance_image", ExecutionStatus.RUNNING, starts=2, losses=1, started_at=WHEN, worker="w"),
    JobState("a", "conformance_image", ExecutionStatus.COMPLETED, output=ImageOutput(objects=["x"]), completed_at=WHEN),
    JobState("a", "conformance_image", ExecutionStatus.FAILED, failure=Failure("OSError", "no"), completed_at=WHEN),
    JobState("a", "conformance_image", ExecutionStatus.CANCELLED, completed_at=WHEN),
]
NO_SCRIPTS = "-@scripting"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with server(redis_url) as client:
        yield client


@pytest.fixture
def new_user(redis_url: str, client: Any) -> Iterator[Callable[..., str]]:
    """Makes a user that may do all but what is named, and returns the URL with it; one for each test process."""
    names: list[str] = []

    def make(*rules: str) -> str:
        names.append(f"user{redis_url.rpartition('/')[2]}{len(names)}")
        client.execute_command("ACL", "SETUSER", names[-1], "on", ">secret", "~*", "&*", "+@all", *rules)
        return redis_url.replace("://", f"://{names[-1]}:secret@")

    yield make
    for name in names:
        client.execute_command("ACL", "DELUSER", name)


@contextmanager
def stored(url: str) -> Iterator[ResultStore]:
    store = ResultStore(url)
    yield store
    store.close()


@contextmanager
def asked(client: Any) -> Iterator[Counter[str]]:
    """How often each command is sent in the block, or called in a script."""
    client.config_resetstat()
    found: Counter[str] = Counter()
    yield found
    calls: dict[str, Any] = client.info("commandstats")
    found.update({name.removeprefix("cmdstat_"): value["calls"] for name, value in calls.items()})


def scripts(calls: Counter[str]) -> int:
    """How many scripts ran, those of a thread that renews leases included. An unknown one is sent again with its text."""
    return max(calls["evalsha"], calls["eval"])


def kept(client: Any, job_id: str = "a") -> dict[str, Any]:
    value: Any = client.get(f"celery-task-meta-{job_id}")
    return {name: found for name, found in json.loads(value).items() if name != "date_done"}


def written(url: str, client: Any, state: JobState) -> tuple[dict[str, Any], int, list[dict[str, Any]]]:
    """What is in Redis once a state is saved, for how many seconds, and what waiters were told."""
    client.flushdb()
    with client.pubsub() as told, stored(url) as store:
        told.subscribe("celery-task-meta-a")
        told.get_message(timeout=30)
        store.save(state)
        message = told.get_message(timeout=30)
        assert message is not None
        heard = [{name: value for name, value in json.loads(message["data"]).items() if name != "date_done"}]
        return kept(client), client.ttl("celery-task-meta-a"), heard


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.status.value)
def test_a_record_is_what_celerys_backend_writes_and_tells(
    redis_url: str, client: Any, new_user: Callable[..., str], state: JobState
) -> None:
    with asked(client) as calls:
        ours = written(redis_url, client, state)
    assert scripts(calls) >= 1
    assert calls["multi"] == 0
    with asked(client) as calls:
        celerys = written(new_user(NO_SCRIPTS), client, state)
    assert calls["multi"] == 1
    assert ours == celerys


@pytest.mark.parametrize("rules", [(), (NO_SCRIPTS,)], ids=["scripts", "no scripts"])
def test_a_success_stays_and_a_cancelled_job_does_not_begin(
    client: Any, new_user: Callable[..., str], rules: tuple[str, ...]
) -> None:
    queued, running, completed, failed, _ = STATES
    with stored(new_user(*rules)) as store:
        store.save(queued)
        store.cancel("a")
        assert not store.save_start(running)
        assert kept(client)["status"] == "QUEUED"
        store.forget("a")
        assert store.save_start(running)
        assert kept(client)["status"] == "STARTED"
        store.save(completed)
        store.save(failed)
        assert store.save_start(running)
        assert kept(client)["status"] == "SUCCESS"
        # Submitted again it is another job, whatever the first one left.
        store.cancel("a")
        store.publishing(replace(queued, queued_at=datetime.now(UTC)))
        assert kept(client)["status"] == "QUEUED"
        assert kept(client, "a.publishing")["status"] == "QUEUED"
        assert not store.cancelled("a")
        store.not_publishing("a", {})
        assert not client.exists("celery-task-meta-a.publishing")


def detect(job: Job[ImageSchema]) -> ImageOutput:
    return ImageOutput(objects=[job.payload.input.url])


def test_a_tracked_job_costs_four_commands_where_the_broker_is_elsewhere(redis_url: str, client: Any) -> None:
    broker = LocalClient(result_backend=redis_url)
    with Orchestrator(broker) as orchestrator:
        with asked(client) as calls:
            handles = [orchestrator.submit(image_job(str(number)), queue="q") for number in range(50)]
        # The record with its mark, and the mark's removal. Inside the script a removal more.
        assert 50 <= scripts(calls) < 60
        assert 100 <= calls["del"] < 110
        assert (calls["get"], calls["multi"]) == (0, 0)
        with asked(client) as calls:
            assert Consumer(orchestrator, "q", detect).consume(num_messages=50) == 50
        assert 100 <= scripts(calls) < 110  # its start and its end
        assert (calls["get"], calls["multi"]) == (0, 0)
        assert [handle.result() for handle in handles] == [ImageOutput(objects=[str(n)]) for n in range(50)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"result_serializer": "pickle", "accept_content": ["pickle", "json"]}, {"result_compression": "gzip"}],
    ids=["json", "pickle", "compressed"],
)
def test_an_apps_own_settings_for_its_results_hold(redis_url: str, client: Any, settings: dict[str, Any]) -> None:
    app = Celery("settings", backend=redis_url, set_as_current=False)
    app.conf.update(
        result_expires=100, result_failure_expires=200, result_extended=True,
        result_backend_transport_options={"global_keyprefix": "mine_"}, **settings,
    )  # fmt: skip
    store = AppResultStore(app)
    running, failed = STATES[1], replace(STATES[3], id="b")
    store.save(running)
    store.save(failed)
    store.save_start(replace(failed, status=ExecutionStatus.RUNNING, failure=None))
    assert (client.ttl("mine_celery-task-meta-a"), client.ttl("mine_celery-task-meta-b")) == (100, 100)
    store.save(failed)
    assert client.ttl("mine_celery-task-meta-b") == 200
    meta = app.backend.get_task_meta("a")
    assert (meta["status"], meta["worker"], meta["name"]) == ("STARTED", "w", "conformance_image")
    record = store.get("b")
    assert (record.status, record.error, record.error_type) == (ExecutionStatus.FAILED, "no", "OSError")
    store.leave_thread()
    store.close()
    app.close()


def test_what_the_server_refuses_is_an_error_and_so_is_what_cannot_be_written(redis_url: str, client: Any) -> None:
    queued, running, completed, *_ = STATES
    with stored(redis_url) as store:
        with pytest.raises(EncodeError):
            store.save(replace(completed, output=object()))
        client.lpush("celery-task-meta-a", "no string")
        for write in (store.save, store.save_start):
            with pytest.raises(BrokerError, match="WRONGTYPE"):
                write(running)
        client.delete("celery-task-meta-a")
        store.publishing(queued)
        assert kept(client)["status"] == "QUEUED"


@pytest.mark.parametrize("method", ["save", "save_start", "publishing"])
def test_a_full_server_writes_nothing_of_it(method: str) -> None:
    with RedisServer() as full, redis.Redis.from_url(full.url()) as admin, stored(full.url()) as store:
        admin.config_set("maxmemory", 1)
        with pytest.raises(JobsError, match="maxmemory"):
            getattr(store, method)(STATES[0])
        assert admin.dbsize() == 0


def test_threads_share_few_connections_and_closing_leaves_none(redis_url: str, client: Any) -> None:
    before = len(client.client_list())
    with stored(redis_url) as store:

        def save(number: int) -> None:
            for i in range(50):
                store.save(replace(STATES[1], id=f"{number}.{i}"))

        threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(client.keys("celery-task-meta-*")) == 400
        assert len(client.client_list()) - before <= 8
    wait_until(lambda: len(client.client_list()) <= before, "all are closed")


def test_connections_end_with_the_backend_that_led_to_them(redis_url: str, client: Any) -> None:
    app = Celery("threads", backend=redis_url, set_as_current=False)
    app.conf.update(result_serializer="pydantic", accept_content=["pydantic", "json"])
    store, pools = AppResultStore(app), []
    before = len(client.client_list())

    def save() -> None:
        store.save(STATES[1])
        pools.append(weakref.ref(app.backend.client.connection_pool))

    for _ in range(3):
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()

    def gone() -> bool:
        gc.collect()  # of each backend, and then of its pool
        return not any(pool() for pool in pools)

    wait_until(gone, "the backends of these threads are gone")
    wait_until(lambda: len(client.client_list()) <= before, "all connections are closed")
    assert kept(client)["status"] == "STARTED"
    app.close()


class OtherBackend(RedisBackend):  # type: ignore[misc]
    """A backend for Redis of somebody else's, which writes as it likes."""

    written: ClassVar[list[Any]] = []

    def set(self, key: Any, value: Any, **options: Any) -> Any:
        """Write it, and remember that."""
        self.written.append(key)
        return super().set(key, value, **options)


def test_a_backend_of_somebody_elses_writes_itself(redis_url: str, client: Any) -> None:
    app = Celery("other", backend=f"{__name__}:OtherBackend+{redis_url}", set_as_current=False)
    store = AppResultStore(app)
    assert store.save_start(STATES[1])
    assert kept(client)["status"] == "STARTED"
    assert OtherBackend.written == [b"celery-task-meta-a"]
    store.leave_thread()
    app.close()
