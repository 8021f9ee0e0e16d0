"""A project that exists keeps working when typed jobs are installed on it: its own tests pass, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.celery.projects import Project
from tests.jobs.celery.workers import Broker
from tests.jobs.servers import wait_until


@pytest.fixture
def new_project(
    broker: Broker, new_broker: Callable[[str], Broker], tmp_path: Path
) -> Iterator[Callable[..., Project]]:
    """Makes copies of the project, each on a broker of its own; what they start is ended with the test."""
    made: list[Project] = []

    def make(name: str, **options: Any) -> Project:
        project = Project(tmp_path / name, new_broker(broker.kind) if made else broker, **options)
        made.append(project)
        return project

    yield make
    for project in made:
        project.close()


def test_its_tests_pass_before_and_after_and_with_jobs_added(new_project: Callable[..., Project]) -> None:
    stock, installed, with_jobs = (
        new_project("stock"),
        new_project("installed", installed=True),
        new_project("with_jobs", jobs=True),
    )
    runs = [project.start_tests() for project in (stock, installed, with_jobs)]
    wait_until(lambda: not any(run.running for run in runs), "the end of the project's tests", timeout=110)

    before, after = stock.outcomes(), with_jobs.outcomes()
    assert set(before.values()) == {"PASSED"}, stock.log("tests")
    assert len(before) > 20
    assert installed.outcomes() == before, installed.log("tests")
    assert set(after.values()) == {"PASSED"}, with_jobs.log("tests")
    assert before.items() < after.items()
    assert len(after) == len(before) + 4
