"""The event loop of a process: what is passed in and out of it, and what it survives."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextvars import ContextVar
from typing import Any, Self

import pytest

from mindtrace_jobs import ConfigurationError
from mindtrace_jobs.celery.event_loop import event_loop

variable: ContextVar[str] = ContextVar("variable", default="nothing")


async def loop_id() -> int:
    await asyncio.sleep(0)
    return id(asyncio.get_running_loop())


def test_every_thread_of_a_process_uses_the_same_loop() -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(event_loop().run(loop_id()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert set(found) == {event_loop().run(loop_id())}


def test_a_forked_process_has_a_loop_of_its_own_and_leaves_the_parents_alone() -> None:
    ours = event_loop()
    before = ours.run(loop_id())
    child = os.fork()
    if child == 0:
        other = event_loop()
        os._exit(0 if other is not ours and other.run(loop_id()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ours.run(loop_id()) == before


def test_context_variables_of_the_caller_are_there_and_what_is_set_stays_inside() -> None:
    async def swap() -> str:
        found = variable.get()
        variable.set("the coroutine's")
        await asyncio.sleep(0)
        return found

    variable.set("the caller's")
    assert event_loop().run(swap()) == "the caller's"
    assert variable.get() == "the caller's"


@pytest.mark.parametrize("error", [LookupError("x"), TimeoutError("x"), SystemExit(3), KeyboardInterrupt()])
def test_what_the_coroutine_raises_is_raised_to_who_waits_and_others_go_on(error: BaseException) -> None:
    others = event_loop()
    begun, go = threading.Event(), asyncio.Event()
    results: list[Any] = []

    async def wait() -> str:
        begun.set()
        await go.wait()
        return "went on"

    async def let_go() -> None:
        go.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise error

    thread = threading.Thread(target=lambda: results.append(others.run(wait())))
    thread.start()
    assert begun.wait(30)
    with pytest.raises(type(error)) as raised:
        event_loop().run(fail())
    assert raised.value is error
    event_loop().run(let_go())
    thread.join(30)
    assert results == ["went on"]


def test_a_coroutine_that_cancels_itself_raises_what_it_raised() -> None:
    async def cancel() -> None:
        raise asyncio.CancelledError("enough")

    with pytest.raises(asyncio.CancelledError, match="enough"):
        event_loop().run(cancel())


def test_waiting_in_the_loop_itself_is_refused() -> None:
    async def wait() -> None:
        event_loop().run(loop_id())

    with pytest.raises(ConfigurationError, match="await"):
        event_loop().run(wait())


class Interrupt:
    """A signal handler that raises, as that of a soft time limit does, once the coroutine runs."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.cleaned_up = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGUSR1, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGUSR1, self._before)

    def _raise(self, *_: object) -> None:
        raise self.error

    async def coroutine(self, returned: str | None = None) -> str | None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cleaned_up = True
            if returned is None:
                raise
        return returned


def test_an_interrupted_wait_cancels_the_coroutine_and_lets_it_clean_up() -> None:
    with Interrupt(ValueError("time is up")) as interrupt, pytest.raises(ValueError, match="time is up"):
        event_loop().run(interrupt.coroutine())
    assert interrupt.cleaned_up


def test_a_coroutine_may_return_something_all_the_same() -> None:
    with Interrupt(ValueError("time is up")) as interrupt:
        assert event_loop().run(interrupt.coroutine("half of it")) == "half of it"


def test_a_process_that_is_to_end_does_so_whatever_the_coroutine_returns() -> None:
    with Interrupt(SystemExit(1)) as interrupt, pytest.raises(SystemExit):
        event_loop().run(interrupt.coroutine("half of it"))
    assert interrupt.cleaned_up


def test_it_is_asked_now_and_then_whether_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mindtrace_jobs.celery.event_loop.LOOK_EVERY", 0.001)

    def stop() -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        event_loop().run(asyncio.sleep(600), stop)
