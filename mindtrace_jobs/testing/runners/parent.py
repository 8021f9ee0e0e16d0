"""A runner's process does not outlive the process that tests it."""

from __future__ import annotations

import _thread
import os
import signal
import sys


def end_with_parent() -> None:
    """Have this process's group killed when the other end of its standard input closes.

    The thread is a native one: in a process of greenlets nothing else may wait without stopping all of them.
    """
    monkey = sys.modules.get("gevent.monkey")
    start = _thread.start_new_thread if monkey is None else monkey.get_original("_thread", "start_new_thread")
    start(_watch, ())


def _watch() -> None:
    os.read(0, 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)
