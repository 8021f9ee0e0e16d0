"""Runners of jobs that can be started, stopped and killed: a Consumer or a Celery worker, in a process or in a thread."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

import mindtrace_jobs
from mindtrace_jobs.consumer import Consumer
from mindtrace_jobs.testing.base import PATIENCE, wait_until
from mindtrace_jobs.testing.runners.consumer import READY, make_consumer
from mindtrace_jobs.testing.runners.options import RunnerOptions

#: Seconds between two looks at a process.
_POLL_INTERVAL = 0.02
_numbers = count()


class Runner(ABC):
    """Something that runs the jobs of some queues.

    Attributes:
        starts: How often it was started.
    """

    def __init__(self) -> None:
        self.starts = 0

    def start(self) -> Self:
        """Start it, or start it again; ``wait_ready`` waits."""
        self.starts += 1
        self._start()
        return self

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it has not ended."""

    @property
    def log(self) -> str:
        """What it has written."""
        return ""

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def wait_ready(self) -> Self:
        """Wait until it takes jobs."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to stop in order, and wait; does nothing when it has ended."""

    def kill(self) -> None:
        """End it at once, with all that it has started; of a thread this is no more than ``stop``."""
        self.stop()

    def wait_ended(self) -> None:
        """Wait until it has ended by itself."""
        wait_until(lambda: not self.alive, f"the end of {self!r}")


# --- in a process


class ProcessRunner(Runner):
    """A runner in a process of its own.

    Args:
        options: What it works on.
        folder: For its log.
        supervised: Start it again whenever it has ended by itself, as a service manager does.
    """

    ready: str

    def __init__(self, options: RunnerOptions, folder: Path, *, supervised: bool = False) -> None:
        super().__init__()
        self.options = options
        self.name = f"runner{next(_numbers)}"
        self._log = folder / f"{self.name}.log"
        self._folder = folder
        self._supervised = supervised
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._wanted = threading.Event()
        self._supervisor: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What is started."""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        with suppress(FileNotFoundError), self._log.open("rb") as output:
            output.seek(self._log_start)
            return output.read().decode(errors="replace")
        return ""

    def _start(self) -> None:
        self._run()
        if self._supervised and self._supervisor is None:
            self._wanted.set()
            self._supervisor = threading.Thread(target=self._supervise, daemon=True)
            self._supervisor.start()

    def _run(self) -> None:
        self._clear()
        root = str(Path(mindtrace_jobs.__file__).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        if not self._supervised and self._log.exists():
            self._log_start = self._log.stat().st_size
        with self._log.open("ab") as output:
            # A session of its own: a signal to its group reaches what it has started and nothing else.
            self._process = subprocess.Popen(  # noqa: S603 - a fixed command
                list(self.command()),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, **self.options.environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def _supervise(self) -> None:
        while self._wanted.is_set():
            if not self.alive:
                self.starts += 1
                self._run()
            time.sleep(_POLL_INTERVAL)

    def wait_ready(self) -> Self:
        def ready() -> bool:
            ended = not self.alive and not self._supervised
            if self.ready in self.log:
                return True
            assert not ended, f"{self!r} ended while it started:\n{self.log[-3000:]}"
            return False

        wait_until(ready, f"{self!r} ready")
        return self

    def stop(self) -> None:
        self._leave_alone()
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                tail = self.log[-3000:]
                self.kill()
                raise AssertionError(f"{self!r} did not stop:\n{tail}") from None
        self._clear()

    def kill(self) -> None:
        self._leave_alone()
        self._clear()

    def _leave_alone(self) -> None:
        """Have nobody start it again."""
        self._wanted.clear()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None

    def _clear(self) -> None:
        """End what is left of the process and its children."""
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._process = None


class ConsumerProcess(ProcessRunner):
    """A Consumer in a process."""

    ready = READY

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "mindtrace_jobs.testing.runners"]


class CeleryWorkerProcess(ProcessRunner):
    """A Celery worker in a process, with a pool that runs one job at a time.

    Args:
        pool: As the command line's: solo, threads, prefork or gevent.
    """

    ready = " ready."

    def __init__(self, options: RunnerOptions, folder: Path, *, pool: str, supervised: bool = False) -> None:
        super().__init__(options, folder, supervised=supervised)
        self._pool = pool

    def command(self) -> Sequence[str]:
        return [
            *(sys.executable, "-m", "celery", "-A", "mindtrace_jobs.testing.runners.worker", "worker"),
            *("--loglevel=INFO", "-n", f"{self.name}@{os.getpid()}", "-Q", ",".join(self.options.queues)),
            *("--pool", self._pool, "--concurrency", "1"),
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
        ]


# --- in a thread of this process, whose queues are in memory


class ConsumerThread(Runner):
    """A Consumer in a thread."""

    def __init__(self, options: RunnerOptions) -> None:
        super().__init__()
        self._options = options
        self._consumer: Consumer[Any] | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        orchestrator = self._options.orchestrator()
        consumer = self._consumer = make_consumer(orchestrator, self._options)

        def run() -> None:
            # Whatever ends it: that it has ended is what tests look at.
            with orchestrator, suppress(BaseException):
                consumer.run_forever()

        self._thread = threading.Thread(target=run, name="runner", daemon=True)
        self._thread.start()

    def wait_ready(self) -> Self:
        return self

    def stop(self) -> None:
        if self._consumer is not None and self._thread is not None:
            self._consumer.stop()
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the Consumer did not stop"


class CeleryWorkerThread(Runner):
    """A Celery worker in a thread, with the pool solo or threads. One at a time in a process.

    Args:
        app: The app, with its tasks.
        options: What it works on.
        pool: solo or threads.
    """

    def __init__(self, app: Any, options: RunnerOptions, *, pool: str) -> None:
        super().__init__()
        self._app = app
        self._options = options
        self._pool = pool
        self._running: AbstractContextManager[Any] | None = None
        self._worker: Any = None

    @property
    def alive(self) -> bool:
        from celery.bootsteps import RUN

        return self._worker is not None and self._worker.blueprint.state == RUN

    def _start(self) -> None:
        from celery.contrib.testing.worker import start_worker

        self.stop()
        self._app.conf.worker_prefetch_multiplier = self._options.prefetch
        self._running = start_worker(
            self._app,
            pool=self._pool,
            concurrency=1,
            queues=list(self._options.queues),
            perform_ping_check=False,
            shutdown_timeout=PATIENCE,
        )
        self._worker = self._running.__enter__()

    def wait_ready(self) -> Self:
        return self

    def stop(self) -> None:
        running, self._running, self._worker = self._running, None, None
        if running is not None:
            running.__exit__(None, None, None)
