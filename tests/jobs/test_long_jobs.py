"""A job that outlives its lease, or waits for its time longer than that, runs once while its worker lives.

On Redis. All kinds of consumers do it at the same time, each with a database of its own, a second consumer of its kind
that waits on the same queue, and a lease (the control: a visibility timeout) of a quarter of the job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kombu import Connection, Producer

from mindtrace_jobs import Orchestrator
from mindtrace_jobs.testing.models import image_job
from tests.jobs.loss.plan import QUEUE, Kind, token
from tests.jobs.loss.processes import Options, begun, lines, start
from tests.jobs.loss.publishing import StockPublisher, publisher
from tests.jobs.redis_channels import server, tracks
from tests.jobs.servers import RedisServer, wait_until
from tests.jobs.servers.process import ServerProcess

KINDS = (Kind.OURS, Kind.CELERY_SOLO, Kind.CELERY_THREADS, Kind.CELERY_PREFORK)
LEASE = 1.0
WORK = 4.0
#: Seconds until the second job may start.
LATER = 3.0
LONG, WAITING = 0, 1


@dataclass
class Stage:
    """Two consumers of a kind on a database of their own."""

    kind: Kind
    url: str
    record: Path
    workers: list[ServerProcess]

    def ready(self) -> bool:
        if self.kind.pool:
            return all(" ready." in worker.log_since_start() for worker in self.workers)
        with server(self.url) as client:
            return bool(client.zcard("mindtrace.consumers") == len(self.workers))

    def publish(self) -> None:
        """One job for now and one for later."""
        jobs = publisher(self.kind, self.url)
        jobs.publish(range(LONG, LONG + 1))
        due = datetime.now(UTC) + timedelta(seconds=LATER)
        if isinstance(jobs, StockPublisher):
            with Connection(self.url) as connection:
                jobs.send(Producer(connection.default_channel, auto_declare=False), WAITING, eta=due.isoformat())
        else:
            with Orchestrator.from_url(self.url) as orchestrator:
                orchestrator.publish_message(QUEUE, image_job(token(WAITING)), eta=due)
        jobs.close()

    def done(self) -> bool:
        return {number for _, number in lines(self.record)} == {LONG, WAITING}

    def starts(self) -> Counter[int]:
        return Counter(number for _, number in lines(begun(self.record)))


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Kind, Stage]]:
    """Every kind, with its jobs done."""
    kinds = (*KINDS, Kind.STOCK_CELERY)
    with RedisServer() as redis, ExitStack() as stack:
        stages = {}
        for database, kind in enumerate(kinds):
            folder = tmp_path_factory.mktemp(kind)
            stage = stages[kind] = Stage(kind, redis.url(database), folder / "record", [])
            for name in ("one", "two"):
                options = Options(
                    url=stage.url,
                    record=str(stage.record),
                    worker=f"{kind}-{name}",
                    work=WORK,
                    lease=LEASE,
                    prefetch=1,
                    stock=kind.stock,
                )
                stage.workers.append(start(kind, options, folder))
                stack.callback(stage.workers[-1].kill)
            if kind is Kind.OURS:
                with Orchestrator.from_url(stage.url) as orchestrator:
                    orchestrator.declare_queue(QUEUE)
        for stage in stages.values():
            wait_until(stage.ready, f"{stage.kind} is ready", timeout=60)
        for stage in stages.values():
            stage.publish()
        for stage in stages.values():
            wait_until(stage.done, f"{stage.kind} has done its jobs", timeout=60)
        yield stages


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_longer_than_its_lease_and_one_that_waits_longer_run_once(stages: dict[Kind, Stage], kind: Kind) -> None:
    stage = stages[kind]
    assert stage.starts() == {LONG: 1, WAITING: 1}
    with server(stage.url) as client:
        # Acknowledged a moment after it is done.
        wait_until(lambda: not tracks(client), "nothing is held")
    assert stage.starts() == {LONG: 1, WAITING: 1}


def test_a_stock_worker_runs_a_job_again_that_outlives_its_visibility_timeout(stages: dict[Kind, Stage]) -> None:
    starts = stages[Kind.STOCK_CELERY].starts()
    assert starts[LONG] > 1
    assert starts[WAITING] > 1
