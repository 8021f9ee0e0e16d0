"""A project that exists keeps working when typed jobs are installed on it: its own tests pass, unchanged."""

from __future__ import annotations

from collections.abc import Callable

from tests.jobs.celery.projects import Project
from tests.jobs.celery.workers import Broker
from tests.jobs.servers import wait_until


def test_its_tests_pass_before_and_after_and_with_jobs_added(
    broker: Broker, new_broker: Callable[[str], Broker], new_project: Callable[..., Project]
) -> None:
    # Each on a broker of its own, so that they need not wait for one another.
    stock = new_project("stock")
    installed = new_project("installed", on=new_broker(broker.kind), installed=True)
    with_jobs = new_project("with_jobs", on=new_broker(broker.kind), jobs=True)
    runs = [project.start_tests() for project in (stock, installed, with_jobs)]
    wait_until(lambda: not any(run.running for run in runs), "the end of the project's tests", timeout=110)

    before, after = stock.outcomes(), with_jobs.outcomes()
    assert set(before.values()) == {"PASSED"}, stock.log("tests")
    assert len(before) > 20
    assert installed.outcomes() == before, installed.log("tests")
    assert set(after.values()) == {"PASSED"}, with_jobs.log("tests")
    assert before.items() < after.items()
    assert len(after) == len(before) + 4
