"""A worker for all tests, with the beat in it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shop.celery import app
from shop.ledger import noted

HOST = "shop@test"


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def wait_noted(line: str, times: int = 1) -> None:
    wait_for(lambda: noted().count(line) >= times, line)


def tell(command: str, **arguments: Any) -> Any:
    """Have the worker do something; what it answers."""
    (answer,) = app.control.broadcast(command, arguments=arguments, destination=[HOST], reply=True, timeout=30)
    return answer[HOST]


@pytest.fixture(scope="session", autouse=True)
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("worker")
    command = ["-A", "shop", "worker", "-n", HOST, "--concurrency=2", "--loglevel=INFO"]
    beat = ["--beat", "--schedule", str(folder / "schedule")]
    process = subprocess.Popen([sys.executable, "-m", "celery", *command, *beat], env={**os.environ})
    try:
        wait_for(lambda: f"open {HOST}" in noted() or process.poll() is not None, "the worker")
        assert process.poll() is None, "the worker ended"
        yield
        # At a warm shutdown Celery may wait for ever for a task that came in that instant.
        wait_for(lambda: not tell("active") and not tell("reserved"), "the worker has nothing to do")
    finally:
        process.terminate()
        status = process.wait(30)
    assert status == 0
