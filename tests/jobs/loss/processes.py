"""Starts a consumer of any kind as a process."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.jobs.loss.plan import QUEUE, Kind
from tests.jobs.servers.process import ServerProcess

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Options:
    """What a consumer process is told.

    Args:
        url: Its broker.
        record: File to which it adds ``<worker> <number>`` when a job is done; when one begins, to its twin.
        worker: Its name.
        work: Seconds a job takes.
        lease: Seconds; for stock Redis consumers the visibility timeout.
        prefetch: Jobs it holds.
        stock: Whether nothing of this package shall run in it.
    """

    url: str
    record: str
    worker: str
    work: float
    lease: float
    prefetch: int
    stock: bool


def begun(record: Path) -> Path:
    """The file that says which jobs were begun, beside the one that says which were done."""
    return record.with_name(f"{record.name}.begun")


def lines(record: Path) -> list[tuple[str, int]]:
    """Worker and number, for each time that a job was done."""
    if not record.exists():
        return []
    # A line that is being written may be there in part.
    complete = record.read_text().rpartition("\n")[0]
    return [(worker, int(number)) for worker, _, number in (line.partition(" ") for line in complete.splitlines())]


def start(kind: Kind, options: Options, folder: Path) -> ServerProcess:
    """Start it; its output goes to ``<worker>.log`` in ``folder``."""
    told = json.dumps(asdict(options))
    command = [sys.executable, "-W", "ignore", "-m", "tests.jobs.loss.worker", told]
    if kind.pool:
        command = [
            *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "tests.jobs.loss.celery_app", "worker"),
            *("--pool", kind.pool, "--concurrency", "2", "-Q", QUEUE, "-n", f"{options.worker}@loss"),
            *("--loglevel", "INFO", "--without-mingle", "--without-gossip", "--without-heartbeat"),
        ]
    return ServerProcess(
        options.worker,
        command,
        folder=folder,
        log=folder / f"{options.worker}.log",
        env={**os.environ, "PYTHONPATH": str(_ROOT), "LOSS_OPTIONS": told},
    )
