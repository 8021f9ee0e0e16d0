"""Lazily computed attributes, Kombu's and ours, made safe for forks.

``kombu.utils.objects.cached_property`` keeps one lock for all instances of a class and takes it on every access. A process
that forks while another of its threads holds one hands its child a lock that nobody will ever release: the child would
wait for ever at its first connection. Holding these locks during the fork gives the child free ones.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - the first connection imports it; a fork in that moment would leave it half imported
import time
from functools import cached_property
from typing import Any

from mindtrace_jobs import _forks

#: Seconds to wait for the locks; they are held for moments, and a fork must not hang for one that is not.
_TIMEOUT = 5.0
_PAUSE = 0.0005

_locks: dict[int, Any] = {}
_held: list[Any] = []


def hold_over_forks(*classes: type) -> None:
    """Have no other thread be in the middle of computing an attribute of these classes when this process forks."""
    for cls in classes:
        for base in cls.__mro__:
            for attribute in vars(base).values():
                # Python's own, which Kombu's extends, has a lock up to 3.11.
                lock = getattr(attribute, "lock", None) if isinstance(attribute, cached_property) else None
                if lock is not None:
                    _locks.setdefault(id(lock), lock)


def _before_fork() -> None:
    # All or none: a thread that computes one attribute may need another, so waiting for its lock while holding the other's
    # would be a deadlock.
    deadline = time.monotonic() + _TIMEOUT
    while not _acquired_all() and time.monotonic() < deadline:
        time.sleep(_PAUSE)


def _acquired_all() -> bool:
    for lock in list(_locks.values()):
        if not lock.acquire(blocking=False):
            _after_fork()
            return False
        _held.append(lock)
    return True


def _after_fork() -> None:
    while _held:
        _held.pop().release()


_forks.register(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
