"""One server process: started in a session of its own, its output in a file, killed whatever happens to us."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.jobs.servers.errors import ServerError
from tests.jobs.servers.waiting import POLL_INTERVAL


class Reaper:
    """Our end of ``reaper.py``: it kills what it was told about when this process dies without a word."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int, folder: Path) -> None:
        """Have the process group ``pid`` killed and ``folder`` removed when this process is gone."""
        self._tell(f"add {pid} {folder}\n")

    def forget(self, pid: int) -> None:
        """``pid`` has ended and was waited for."""
        self._tell(f"drop {pid}\n")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the terminal goes to the test run, not to its reaper
                )
                atexit.register(self._end, os.getpid())
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def _end(self, owner: int) -> None:
        if self._process is None or os.getpid() != owner:
            return
        # Closing the pipe without "end" has it kill whatever is still running.
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)


_reaper = Reaper()


class ServerProcess:
    """A running server program.

    Args:
        name: What errors call it.
        command: Program and arguments.
        folder: Where it runs; removed by the reaper when this process dies.
        log: File that gets its output (appended).
        env: Its whole environment.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(self, name: str, command: Sequence[str], *, folder: Path, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._folder = folder
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(env),
                start_new_session=True,
            )
        _reaper.watch(self._process.pid, folder)

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def log_since_start(self) -> str:
        """What this process has written so far, without what earlier ones wrote to the same file."""
        with self._log.open("rb") as output:
            output.seek(self._log_start)
            return output.read().decode(errors="replace")

    def log_tail(self, lines: int = 30) -> str:
        """The last ``lines`` lines of it."""
        return "\n".join(self.log_since_start().splitlines()[-lines:]) or "(no output)"

    def wait_for_log(self, text: str, *, timeout: float) -> None:
        """Return once ``text`` is in the output of this start.

        Raises:
            ServerError: It ended before, or did not write it within ``timeout`` seconds; with the log's tail.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = not self.running  # looked at first: what it wrote last is then surely in the file
            if text in self.log_since_start():
                return
            if ended:
                code = self._process.returncode
                raise ServerError(
                    f"{self.name} ended with exit code {code} while starting. Its log:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} was not ready within {timeout:g} s. Its log:\n{self.log_tail()}")
            time.sleep(POLL_INTERVAL)

    def wait_for_port(self, address: tuple[str, int], *, timeout: float) -> None:
        """Return once ``address`` takes connections.

        Raises:
            ServerError: The process ended before, or it did not within ``timeout`` seconds; with the log's tail.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                socket.create_connection(address, timeout=1).close()
            except OSError as error:
                if not self.running or time.monotonic() > deadline:
                    raise ServerError(f"{self.name} does not listen. Its log:\n{self.log_tail()}") from error
                time.sleep(POLL_INTERVAL)
            else:
                return

    def terminate(self, *, timeout: float) -> None:
        """Ask it to stop (SIGTERM) and wait; does nothing when it has ended.

        Raises:
            ServerError: It did not stop within ``timeout`` seconds; it is killed then.
        """
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                tail = self.log_tail()
                self.kill()
                raise ServerError(f"{self.name} did not stop within {timeout:g} s. Its log:\n{tail}") from error
        self.kill()  # what is left of its group

    def kill(self) -> None:
        """SIGKILL it and its children, and wait until it is gone; does nothing when it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        _reaper.forget(self.pid)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group (SIGSTOP freezes the server, SIGCONT lets it go on)."""
        os.killpg(self.pid, number)


class DetachedProcess:
    """A daemon that a program of ours has started in a session of its own; killed whatever happens to us.

    Args:
        pid: The daemon.
        folder: Where it works; removed by the reaper when this process dies.

    Raises:
        ProcessLookupError: It has ended.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self._group = os.getpgid(pid)
        _reaper.watch(self._group, folder)

    @property
    def running(self) -> bool:
        """Whether it, or anything that it started, has not ended."""
        try:
            os.killpg(self._group, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL it and its children, and wait until they are gone; does nothing when they have ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)
        while self.running:
            time.sleep(POLL_INTERVAL)
        _reaper.forget(self._group)
