"""The Celery project in ``project/``: a copy of it, as it is, with typed jobs installed, or with kinds of jobs added."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from tests.jobs.celery.workers import Broker
from tests.jobs.servers.process import ServerProcess

_HERE = Path(__file__).parent
#: All that is added to the project's app.
INSTALL = """
from mindtrace_jobs.celery import install

install(app)
"""
#: What kinds of jobs add to the project's settings, beside a package of their own.
JOBS = """
INSTALLED_APPS += ["shop.vision"]
CELERY_TASK_QUEUES += [Queue("detection_jobs", Exchange("detection_jobs"), routing_key="detection_jobs")]
"""


class Project:
    """A copy of the project on a broker.

    Args:
        folder: Where the copy is made.
        broker: What it uses.
        installed: Whether typed jobs are installed: one line on its app.
        jobs: Whether it has kinds of jobs.
        ledger: Where its tasks write what they did; default in its folder.
    """

    def __init__(
        self, folder: Path, broker: Broker, *, installed: bool = False, jobs: bool = False, ledger: Path | None = None
    ) -> None:
        self.folder = folder
        self.ledger = ledger or folder / "ledger"
        self._broker = broker
        self._started: list[ServerProcess] = []
        shutil.copytree(_HERE / "project", folder, ignore=shutil.ignore_patterns("__pycache__"))
        if installed or jobs:
            self.add("shop/celery.py", INSTALL)
        if jobs:
            shutil.copytree(_HERE / "project_jobs", folder, dirs_exist_ok=True)
            self.add("shop/settings.py", JOBS)

    def add(self, file: str, text: str) -> None:
        """Add lines to one of its files."""
        with (self.folder / file).open("a") as stream:
            stream.write(text)

    @property
    def environment(self) -> dict[str, str]:
        """Its processes' environment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CELERY_"))}
        return kept | {
            "SHOP_BROKER": self._broker.url,
            "SHOP_RESULTS": self._broker.results,
            "SHOP_LEDGER": str(self.ledger),
            "PYTHONPATH": str(self.folder),
            "PYTHONUNBUFFERED": "1",
        }

    def log(self, name: str) -> str:
        """What a process has written."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self, name: str, *command: str) -> ServerProcess:
        """Start ``python`` with arguments in the project's folder."""
        process = ServerProcess(
            name,
            [sys.executable, *command],
            folder=self.folder,
            log=self.folder / f"{name}.log",
            env=self.environment,
        )
        self._started.append(process)
        return process

    def celery(self, name: str, *arguments: str) -> ServerProcess:
        """Start ``celery -A shop`` with arguments."""
        return self.start(name, "-m", "celery", "-A", "shop", *arguments)

    def worker(self, name: str, *arguments: str) -> ServerProcess:
        """Start a worker of this name; it may not be ready yet."""
        return self.celery(name, "worker", "-n", f"{name}@shop", "--loglevel=INFO", *arguments)

    def start_tests(self) -> ServerProcess:
        """Start the project's own tests."""
        return self.start("tests", "-m", "pytest", "-v")

    def outcomes(self) -> dict[str, str]:
        """The outcome of each of its tests by its name."""
        return dict(re.findall(r"^(tests/\S+::\S+) (\w+)", self.log("tests"), re.MULTILINE))

    def noted(self, kind: str) -> list[list[str]]:
        """The ledger's lines of a kind, without it, split at blanks."""
        text = self.ledger.read_text().rpartition("\n")[0] if self.ledger.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        return [line[1:] for line in lines if line[0] == kind]

    def close(self) -> None:
        """Kill what was started."""
        for process in self._started:
            process.kill()
