"""Celery workers as processes, and a producer's view of the broker they work on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Self

from celery import Celery
from kombu import pools

from mindtrace_jobs import DeadLetter, Orchestrator
from mindtrace_jobs.celery import install
from tests.jobs.servers import wait_until
from tests.jobs.servers.process import ServerProcess

ROOT = Path(__file__).parents[3]
QUEUES = ("celery", "reports", "detection_jobs")
#: Of quorum_jobs.py. A job that has lost three workers is dead-lettered.
QUORUM_QUEUES: dict[str, dict[str, Any]] = {
    "quorum_jobs": {"x-queue-type": "quorum", "x-delivery-limit": 3},
    "hasty_quorum_jobs": {"x-queue-type": "quorum", "x-delivery-limit": 2},
    "kept_quorum_jobs": {"x-queue-type": "quorum", "x-delivery-limit": 2, "x-dead-letter-exchange": "elsewhere"},
}
_numbers = count()


@dataclass
class Broker:
    """A broker and a result backend, and clients of both that know nothing of the worker's process."""

    kind: str
    url: str
    results: str
    _made: dict[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """For a process that imports the stack."""
        return {
            **os.environ,
            "STACK_BROKER": self.url,
            "STACK_BACKEND": self.results,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def app(self) -> Any:
        """An installed app without any task: a producer."""
        if "app" not in self._made:
            app = Celery("producer", broker=self.url, backend=self.results, set_as_current=False)
            app.conf.broker_connection_retry_on_startup = True
            install(app)
            self._made["app"] = app
        return self._made["app"]

    @property
    def plain(self) -> Any:
        """An app that nothing is installed on."""
        if "plain" not in self._made:
            self._made["plain"] = Celery("plain", broker=self.url, backend=self.results, set_as_current=False)
        return self._made["plain"]

    @property
    def orchestrator(self) -> Orchestrator:
        if "orchestrator" not in self._made:
            self._made["orchestrator"] = Orchestrator.from_celery(self.app)
        orchestrator: Orchestrator = self._made["orchestrator"]
        return orchestrator

    def publish(self, queue: str, body: bytes | str, headers: dict[str, Any], content_type: str) -> None:
        """Put raw bytes on a queue, as some foreign producer may."""
        with self.plain.connection_for_write() as connection, connection.channel() as channel:
            producer = self.plain.amqp.Producer(channel, auto_declare=False)
            if not self.orchestrator.client.exists(queue):
                self.orchestrator.declare_queue(queue)
            producer.publish(
                body,
                exchange="",
                routing_key=queue,
                headers=headers,
                content_type=content_type,
                content_encoding="utf-8",
            )

    def dead_letter(self, queue: str, job_id: str) -> DeadLetter:
        """The dead letter of a job, waited for: its record is there before it."""
        found: list[DeadLetter] = []

        def arrived() -> bool:
            found[:] = [one for one in self.orchestrator.dead_letters.list(queue, 1000) if one.id == job_id]
            return bool(found)

        wait_until(arrived, f"the dead letter of {job_id}")
        (letter,) = found
        return letter

    def close(self) -> None:
        if "orchestrator" in self._made:
            self._made["orchestrator"].close()
        for name in ("app", "plain"):
            if name in self._made:
                close_app(self._made[name])


def close_app(app: Any) -> None:
    """Close an app's connections to its broker and its results, which Celery leaves to the end of the process."""
    pools.reset()
    backend = app.backend
    consumer = getattr(backend, "result_consumer", None)
    if consumer is not None:
        consumer.stop()
    if "client" in vars(backend):
        backend.client.close()
        backend.client.connection_pool.disconnect()
    app.close()


class Worker:
    """A ``celery worker`` process of the stack in ``stack.py``.

    Args:
        broker: What it works on.
        folder: For its log.
        installed: Whether typed jobs are installed on the stack.
        pool, concurrency, queues, prefetch: As the command line's.
        lease: Seconds, for ``install``.
        app: The module of the stack, or of one that builds on it.
        settings: Celery settings for this worker alone.
        arguments: Further ones of the command line.
        environment: Further variables of the process.
    """

    def __init__(
        self,
        broker: Broker,
        folder: Path,
        *,
        installed: bool = True,
        pool: str = "solo",
        concurrency: int = 1,
        queues: tuple[str, ...] = QUEUES,
        lease: float = 60.0,
        app: str = "tests.jobs.celery.stack",
        prefetch: int = 1,
        settings: Mapping[str, object] | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.pool = pool
        self.name = f"w{next(_numbers)}@{broker.kind}"
        self.log = folder / "worker.log"
        own = {"STACK_INSTALLED": "yes" if installed else "no", "STACK_LEASE": str(lease)}
        environment = {**broker.environment, **own, **(environment or {})}
        command = [
            *(sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel=INFO", "-n", self.name),
            *("--pool", pool, "--concurrency", str(concurrency), "-Q", ",".join(queues)),
            *("--prefetch-multiplier", str(prefetch)),
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
            *arguments,
            *(f"{name}={value}" for name, value in (settings or {}).items()),
        ]
        self.process = ServerProcess(self.name, command, folder=folder, log=self.log, env=environment)

    def wait_ready(self) -> Self:
        self.process.wait_for_log(" ready.", timeout=60.0)
        return self

    @property
    def running(self) -> bool:
        return self.process.running

    def logged(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def wait_logged(self, text: str) -> None:
        wait_until(lambda: self.logged(text), f"{text!r} in the log of {self.name}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone, as a service manager does."""
        os.kill(self.process.pid, number)

    def wait_ended(self) -> None:
        wait_until(lambda: not self.running, f"the end of {self.name}")

    def kill_main(self) -> None:
        """SIGKILL to the main process alone; its pool notices by itself."""
        os.kill(self.process.pid, signal.SIGKILL)
        wait_until(lambda: not self.running, "the worker's end")

    def kill_pool(self) -> None:
        """SIGKILL to the pool's processes, which are the main process's children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)

    def stop(self) -> None:
        """Warm shutdown."""
        self.process.terminate(timeout=60.0)

    def close(self) -> None:
        self.process.kill()
