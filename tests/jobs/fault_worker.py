"""A worker process for the fault tests: ``python -m tests.jobs.fault_worker OPTIONS`` with OPTIONS as JSON.

It says on standard output what happens, one word and one url a line, so that a test can wait for it. A job whose url is
"wait" goes on when a line arrives on standard input; it ends as a colon and a word behind that say, such as "wait:raise".
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self

from mindtrace_jobs import Consumer, Job, Orchestrator, RejectJob
from mindtrace_jobs.testing.models import ImageOutput, ImageSchema

#: Seconds to wait for what must happen. Only guards against hanging.
PATIENCE = 60.0


def main(options: dict[str, Any]) -> None:
    def handle(job: Job[ImageSchema]) -> ImageOutput:
        url = job.payload.input.url
        name, _, end = url.partition(":")
        print("started", url, flush=True)
        if name == "wait":
            sys.stdin.readline()
        print("finished", url, flush=True)
        if end == "raise":
            raise ValueError(end)
        if end == "reject":
            raise RejectJob(end)
        return ImageOutput(objects=[url])

    with Orchestrator.from_url(options["url"], client_options=options["client_options"]) as orchestrator:
        consumer = Consumer(orchestrator, options["queue"], handle, schema=ImageSchema, prefetch=options["prefetch"])
        print("ready", flush=True)
        print("settled", consumer.run_forever(), flush=True)


class Worker:
    """Such a process; killed at the end of the ``with`` block."""

    def __init__(
        self, url: str, queue: str, *, prefetch: int = 1, client_options: dict[str, Any] | None = None
    ) -> None:
        options = {"url": url, "queue": queue, "prefetch": prefetch, "client_options": client_options or {}}
        self._command = [sys.executable, "-W", "ignore", "-m", "tests.jobs.fault_worker", json.dumps(options)]
        self._lines: Queue[str] = Queue()
        self.said: deque[str] = deque(maxlen=100)

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def wait_for(self, line: str) -> None:
        """Return once the worker has said ``line``.

        Raises:
            AssertionError: it did not in time.
        """
        while True:
            try:
                said = self._lines.get(timeout=PATIENCE)
            except Empty:
                raise AssertionError(f"the worker never said {line!r}, only {list(self.said)}") from None
            self.said.append(said)
            if said == line:
                return

    def go_on(self) -> None:
        """Let the job that waits finish."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
