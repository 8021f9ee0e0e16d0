"""What all test servers have in common: a port, a folder for their data, start, stop, kill and restart."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from tests.jobs.servers.errors import ServerError
from tests.jobs.servers.process import ServerProcess

HOST = "127.0.0.1"

# Below the range from which Linux takes ports for outgoing connections (32768 and up), so that a server which is
# restarted finds its port still free.
_PORTS = range(20000, 32000)
_random = random.SystemRandom()  # a seeded generator would give two test runs on one machine the same ports
_given: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, and that this process has not given out before.

    Raises:
        ServerError: None found in 200 tries.
    """
    for _ in range(200):
        port = _random.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise ServerError(f"no free TCP port on {HOST} in {_PORTS}")


class Server(ABC):
    """A throw-away server on 127.0.0.1 with its data in a temporary folder.

    Port and folder stay the same over :meth:`stop`, :meth:`kill` and :meth:`start`; :meth:`close` removes the folder.
    As a context manager: started on entry, closed on exit.
    """

    #: What errors call it.
    name: ClassVar[str]
    #: What it writes when it takes connections.
    ready_text: ClassVar[str]
    #: Seconds a start may take; generous, it only bounds a hang.
    start_timeout: ClassVar[float] = 60.0
    #: Seconds an orderly stop may take.
    stop_timeout: ClassVar[float] = 60.0

    def __init__(self) -> None:
        self._owner = os.getpid()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"mindtrace-{self.name.lower()}-"))
        self.log = self.folder / "server.log"
        self._process: ServerProcess | None = None

    @abstractmethod
    def _command(self) -> list[str]:
        """Program and arguments."""

    def _environment(self) -> dict[str, str]:
        """Environment of the process."""
        return dict(os.environ)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    @property
    def running(self) -> bool:
        """Whether the process lives (it may not be ready yet, or be frozen)."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """Process id.

        Raises:
            ServerError: It was never started.
        """
        return self._live_process().pid

    def launch(self) -> None:
        """Start the process and return at once; :meth:`wait_ready` waits. Does nothing when it runs."""
        if not self.running:
            self._process = ServerProcess(
                self.name, self._command(), folder=self.folder, log=self.log, env=self._environment()
            )

    def wait_ready(self) -> None:
        """Wait until it takes connections.

        Raises:
            ServerError: It ended, or took longer than ``start_timeout``; with the tail of its log.
        """
        self._live_process().wait_for_log(self.ready_text, timeout=self.start_timeout)

    def start(self) -> Self:
        """Start it (with the data it had) and wait until it takes connections. Does nothing when it runs.

        Raises:
            ServerError: As :meth:`wait_ready`.
        """
        self.launch()
        self.wait_ready()
        return self

    def stop(self) -> None:
        """Stop it in order (SIGTERM) and wait; data that the server persists stays. Does nothing when it is stopped.

        Raises:
            ServerError: It took longer than ``stop_timeout`` and was killed.
        """
        if self._process is not None:
            self._let_garbage_go()
            self._process.terminate(timeout=self.stop_timeout)

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone. Does nothing when it is stopped."""
        if self._process is not None:
            self._let_garbage_go()
            self._process.kill()

    def _let_garbage_go(self) -> None:
        """Collect what speaks to the server when it is collected: Celery's AsyncResult gives up its subscription then.

        Later it would try for seconds to reach a server that is gone, in the middle of whichever test runs by then.
        """
        if self.running:
            gc.collect()

    def restart(self) -> None:
        """Stop in order and start again: same port, same data.

        Raises:
            ServerError: As :meth:`stop` and :meth:`start`.
        """
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the process without ending it (SIGSTOP): connections stay open and nothing answers."""
        self._live_process().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo :meth:`freeze`."""
        self._live_process().send_signal(signal.SIGCONT)

    def log_tail(self, lines: int = 30) -> str:
        """The last ``lines`` lines the server wrote since its last start."""
        return self._live_process().log_tail(lines)

    def close(self) -> None:
        """Kill it and remove its data. In a forked child: nothing, the server is its parent's."""
        if os.getpid() != self._owner:
            return
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _live_process(self) -> ServerProcess:
        if self._process is None:
            raise ServerError(f"{self.name} on port {self.port} was never started: call start()")
        return self._process

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *error: object) -> None:
        self.close()
