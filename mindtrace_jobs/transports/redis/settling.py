"""Telling a server that deliveries are acknowledged, and that work on others begins: one script for both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from mindtrace_jobs.transports.contract import Record
from mindtrace_jobs.transports.redis.store import Store, chunks
from mindtrace_jobs.transports.redis.wire import Posted, Wire

logger = logging.getLogger(__name__)

#: A delivery tag, and the record of its job if that is kept on this server.
Step = tuple[str, Record | None]


def settle(
    store: Store, finished: Sequence[Step], starting: Sequence[Step] = (), wire: Wire | None = None
) -> tuple[set[str], bool]:
    """Remove deliveries and mark others as started, each together with its job's record.

    Args:
        store: The server.
        finished, starting: The deliveries.
        wire: The connection to use, if not the store's.

    Returns:
        Those that were not this holder's any more, and whether all others were started: their jobs are not cancelled.
    """
    reply = (wire or store.wire).script(store.scripts["acknowledge"], args=_arguments(finished, starting))
    lost, cancelled = _read(reply)
    return set(lost), not cancelled


def settling(
    store: Store,
    finished: Sequence[Step],
    starting: Sequence[str],
    lost: Callable[[str], None],
    failed: Callable[[BaseException], None],
) -> Posted:
    """The same, to be sent without waiting for the answer.

    Args:
        store, finished: As there.
        starting: The deliveries that start, of jobs whose records are not kept here.
        lost: Called, when the answer is read, with each tag that was not this holder's any more.
        failed: Called with the error if the server refuses, or is lost before it answers.
    """

    def then(reply: Any) -> None:
        for tag in _read(reply)[0]:
            lost(tag)

    return Posted(store.scripts["acknowledge"], _arguments(finished, [(tag, None) for tag in starting]), then, failed)


def acknowledge_all(store: Store, tags: Sequence[str]) -> set[str]:
    """Remove many deliveries; returns those that were not this holder's any more."""
    lost: set[str] = set()
    for chunk in chunks(tags):
        lost |= settle(store, [(tag, None) for tag in chunk])[0]
    return lost


def _arguments(finished: Sequence[Step], starting: Sequence[Step]) -> list[Any]:
    args: list[Any] = [len(finished)]
    for tag, record in (*finished, *starting):
        args += (tag, *record) if record is not None else (tag, "", "", 0, "")
    return args


def _read(reply: Any) -> tuple[list[str], bool]:
    """What the script says: which tags were lost before, and whether a job that was to start is cancelled."""
    if not isinstance(reply, list):
        return [], False
    lost, cancelled, unwritten = reply
    for key, why in zip(unwritten[::2], unwritten[1::2], strict=True):
        logger.error("the record of a job, %r, could not be written: %s", key.decode(), why.decode())
    return [tag.decode() for tag in lost], bool(cancelled)
