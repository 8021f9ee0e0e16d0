"""Jobs whose end is decided and could not be carried out: they wait aside, while those behind them run.

A retry, or a dead letter, is a message that has to be published before the original goes. A broker may refuse it for long:
its memory or its disk is full, the dead-letter queue takes no more, a permission is missing. The work is done then, or has
failed, and is not begun again: the message stays with this process, and what was decided is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mindtrace_jobs.errors import BrokerUnavailableError, LeaseLostError
from mindtrace_jobs.execution.lifecycle import Lifecycle, ReceivedJob
from mindtrace_jobs.logs import shown

log = logging.getLogger("mindtrace_jobs.execution")

#: Seconds until a job is tried for the first time again, and at most between two tries.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: At most so many jobs, and bytes of their messages, are replaced by others while they wait.
MOST_JOBS, MOST_BYTES = 1000, 64 << 20


@dataclass(slots=True)
class _Waiting:
    job: ReceivedJob
    since: float
    due: float
    pause: float
    done: Callable[[], None]


class Unsettled:
    """Jobs that wait to be settled, each tried again with growing pauses.

    Args:
        lifecycle: What settles them.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        #: Held while some are tried, so that no two threads settle one job.
        self._trying = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether so much waits that the runner should not receive other jobs in place of these."""
        return len(self._waiting) >= MOST_JOBS or self._bytes >= MOST_BYTES

    def add(self, job: ReceivedJob, error: Exception, done: Callable[[], None] = lambda: None) -> None:
        """Try again later to settle a job whose end is decided.

        Args:
            job: The job.
            error: Why it could not be settled. After a lost lease it is not tried again: the job is somebody else's.
            done: Called when the job is settled, or is this process's no longer.
        """
        if isinstance(error, LeaseLostError):
            self._lost(job, error)
            done()
            return
        if job.written:
            # Of no use any more, and may be large: the data, and what the traceback refers to.
            job.job = job.error = None
        log.warning(
            "job %s waits to be settled, tried again in %.0f s: %s",
            shown(job.id),
            FIRST_PAUSE,
            error,
            extra=self._extra(job),
        )
        now = time.monotonic()
        self._waiting.append(_Waiting(job, now, now + FIRST_PAUSE, FIRST_PAUSE, done))
        self._bytes += len(job.delivery.message.body)

    def try_due(self, *, at_once: bool = False) -> int:
        """Settle those whose time has come, or ``at_once`` all of them; returns how many are settled now.

        When one finds that the broker is not available, the others wait as long. While another thread is at it, nothing.
        """
        if not self._trying.acquire(blocking=False):
            return 0
        try:
            return self._try(at_once=at_once)
        finally:
            self._trying.release()

    def _try(self, *, at_once: bool) -> int:
        settled = 0
        for waiting in list(self._waiting):
            if not at_once and waiting.due > time.monotonic():
                continue
            try:
                self._lifecycle.settle_again(waiting.job)
            except LeaseLostError as error:
                self._lost(waiting.job, error)
            except Exception as error:  # the runner lives, whatever it is
                waiting.pause = min(2 * waiting.pause, LONGEST_PAUSE)
                waiting.due = time.monotonic() + waiting.pause
                if not waiting.job.delivery.settled:
                    log.info(
                        "job %s still waits to be settled, tried again in %.0f s: %s",
                        shown(waiting.job.id),
                        waiting.pause,
                        error,
                        extra=self._extra(waiting.job),
                    )
                    if isinstance(error, BrokerUnavailableError):
                        for other in self._waiting:
                            other.due = max(other.due, waiting.due)
                        return settled
                    continue
                self._lost(waiting.job, error)
            else:
                settled += not waiting.job.delivery.postponed
                log.info(
                    "job %s settled after %.0f s",
                    shown(waiting.job.id),
                    time.monotonic() - waiting.since,
                    extra=self._extra(waiting.job),
                )
            self._waiting.remove(waiting)
            self._bytes -= len(waiting.job.delivery.message.body)
            waiting.done()
        return settled

    def _lost(self, job: ReceivedJob, error: Exception) -> None:
        log.warning("job %s not settled, it will run again: %s", shown(job.id), error, extra=self._extra(job))

    @staticmethod
    def _extra(job: ReceivedJob) -> dict[str, Any]:
        return {"action": "settle_later", **job.log_fields}
