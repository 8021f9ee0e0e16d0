"""The brokers of this process, by id. They outlive their connections.

After a fork the child's brokers keep their queues, exchanges and bindings, for Kombu remembers what it has declared,
but not one message: each stays in the parent, so that none runs twice.
"""

from __future__ import annotations

import os
import threading

from mindtrace_jobs.transports.memory_broker import Broker

_brokers: dict[str, Broker] = {}
_lock = threading.RLock()


def get_broker(broker_id: str) -> Broker:
    """The broker of that id, made if there is none."""
    with _lock:
        found = _brokers.get(broker_id)
        if found is None:
            found = _brokers[broker_id] = Broker(broker_id)
        return found


def _before_fork() -> None:
    # With every lock held no other thread is in the middle of a change, so the child gets whole tables.
    _lock.acquire()
    for broker in _brokers.values():
        broker.lock.acquire()


def _after_fork_in_parent() -> None:
    for broker in _brokers.values():
        broker.lock.release()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - the same object cannot be made new
    _lock = threading.RLock()
    for broker in _brokers.values():
        broker.after_fork_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
