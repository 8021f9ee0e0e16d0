"""The event loop of a process: a thread that runs the coroutines of all its jobs.

It is started by the first job that needs it, hence in a pool's process and not in the one that forks it. It lives as
long as the process, so that clients and their connections may be kept from job to job.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from mindtrace_jobs import _forks
from mindtrace_jobs.errors import ConfigurationError

T = TypeVar("T")

log = logging.getLogger("mindtrace_jobs.celery")

#: Seconds between two looks whether a coroutine is to stop.
LOOK_EVERY = 1.0


class EventLoop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="mindtrace_jobs.event_loop", daemon=True).start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # Whoever waits for the task that raised it gets it; the others' go on.
                log.debug("a coroutine raised %r", error)

    def run(self, coroutine: Coroutine[Any, Any, T], raise_if_stopped: Callable[[], None] | None = None) -> T:
        """Run a coroutine, with the caller's context variables, and wait for it.

        Args:
            coroutine: What to run.
            raise_if_stopped: Called now and then; what it raises cancels the coroutine.

        Returns:
            What the coroutine returns; also if it was cancelled and returns all the same.

        Raises:
            ConfigurationError: called in the loop itself, which would wait for ever.
            BaseException: what the coroutine raises. If the wait was interrupted, as by a soft time limit, the coroutine is
                cancelled; once it has ended for that, what interrupted.
        """
        if asyncio._get_running_loop() is self._loop:
            coroutine.close()
            raise ConfigurationError(
                "a coroutine of a job waits for another job to run here: await its function instead"
            )
        running = _Running(self._loop, coroutine)
        interruption: BaseException | None = None
        while True:
            try:
                if interruption is None:
                    running.begin()
                while not running.ended.wait(LOOK_EVERY):
                    if raise_if_stopped is not None and interruption is None:
                        raise_if_stopped()
                break
            except BaseException as error:
                interruption = error
                running.cancel()
        if interruption is not None and not isinstance(interruption, Exception):
            raise interruption  # the process is to end
        try:
            return cast("T", running.result())
        except asyncio.CancelledError:
            if interruption is not None:
                raise interruption from None
            raise  # it cancelled itself


class _Running:
    """A coroutine on its way through a loop of another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.ended = threading.Event()
        self._loop = loop
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        """Start it, with a copy of this thread's context variables."""
        self._loop.call_soon_threadsafe(self._begin)

    def cancel(self) -> None:
        """Have it raise CancelledError where it awaits, or never begin."""
        self._loop.call_soon_threadsafe(self._cancel)

    def result(self) -> Any:
        """What it returned, or raises what it raised, once it has ended."""
        assert self._task is not None
        return self._task.result()

    # --- in the loop

    def _begin(self) -> asyncio.Task[Any]:
        if self._task is None:
            self._task = self._loop.create_task(self._coroutine)
            self._task.add_done_callback(lambda _: self.ended.set())
        return self._task

    def _cancel(self) -> None:
        self._begin().cancel()


_lock = threading.Lock()
_loop: EventLoop | None = None
#: Never collected, so that closing them does not touch what the parent waits for.
_inherited: list[EventLoop] = []


def event_loop() -> EventLoop:
    """This process's event loop, started if it was not."""
    global _loop  # noqa: PLW0603 - one a process
    with _lock:
        if _loop is None:
            _loop = EventLoop()
        return _loop


def _after_fork_in_child() -> None:
    """There is no such thread here."""
    global _loop, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _loop is not None:
        _inherited.append(_loop)
        _loop = None


_forks.register(after_in_child=_after_fork_in_child)
