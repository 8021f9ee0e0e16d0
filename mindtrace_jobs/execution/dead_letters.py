"""What happens to a job that cannot succeed: it is kept in ``<queue>.dlq``, where it can be read and replayed.

The body stays as it was; header ``x-dead-letter`` says why, when, where and how often. The copy is published (confirmed)
before the original is acknowledged, so nothing is lost between the two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, PrivateAttr

from mindtrace_jobs.clients import Client, Delivery, dead_letter_queue, origin_queue
from mindtrace_jobs.clients.base import LARGEST_PREFETCH
from mindtrace_jobs.errors import DecodeError, Failure, JobNotFoundError, JobsError, QueueNotFoundError
from mindtrace_jobs.execution.outcome import Reason
from mindtrace_jobs.jobs import Job
from mindtrace_jobs.logs import shown
from mindtrace_jobs.results import worker_name
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import Message, decode, identity
from mindtrace_jobs.wire.signing import Signing

log = logging.getLogger("mindtrace_jobs.execution")

_DELIVERY_TIMEOUT = 5.0


class DeadLetter(BaseModel):
    """A job in a dead-letter queue.

    Attributes:
        id, name: The job's id and schema name, as far as its headers or its body tell.
        queue: The queue it came from, and is replayed to.
        reason, error, error_type: Why it is here.
        at: When it was put here.
        losses, retries: How often its worker vanished while it ran; how often it was retried after a failure.
        worker: Who put it here.
        body, headers, content_type: The original message. A letter that was listed without bodies may have none.
    """

    model_config = ConfigDict(frozen=True)

    id: str | None = None
    name: str | None = None
    queue: str
    reason: str
    error: str = ""
    error_type: str = ""
    at: AwareDatetime | None = None
    losses: int = 0
    retries: int = 0
    worker: str = ""
    body: bytes
    headers: dict[str, Any]
    content_type: str | None = None
    _signing: Signing | None = PrivateAttr(None)

    def job(self) -> Job[Any]:
        """The job itself.

        Raises:
            DecodeError: it still cannot be read, which may be why it is here, or was listed without its body.
        """
        if not self.body:
            raise DecodeError("this dead letter has no body: was it listed with bodies=False? show() has it then")
        message = Message(self.body, self.headers, self.content_type or "")
        if self._signing is not None:
            message = self._signing.verified(message)
        return decode(message.body, message.headers, message.content_type)


class DeadLetters:
    """The dead-letter queues of one client.

    Args:
        client: The broker.
        limit: Jobs kept per dead-letter queue; past it the oldest are dropped, with a warning in the log. None: all.
        max_age: How long a job is kept, checked as others are added. None: for ever.
        on_replay: Called with each message just before it is replayed; what it returns is called if that fails.
        signing: Verifies the jobs of dead letters, where only signed messages are accepted.
    """

    def __init__(
        self,
        client: Client,
        *,
        limit: int | None = None,
        max_age: timedelta | None = None,
        on_replay: Callable[[Message], Callable[[], None]] = lambda _: lambda: None,
        signing: Signing | None = None,
    ) -> None:
        self._client = client
        self._signing = signing
        self._on_replay = on_replay
        self._limit = limit
        self._max_age = max_age

    def add(
        self,
        delivery: Delivery,
        reason: Reason,
        failure: Failure,
        *,
        losses: int = 0,
        retries: int = 0,
        worker: str | None = None,
        level: int = logging.ERROR,
    ) -> None:
        """Move a delivery to the dead-letter queue of its queue; raises as ``Delivery.replace``.

        Args:
            delivery: What was received.
            reason, failure: Why it cannot succeed.
            losses, retries: How often its worker vanished, and how often it was retried.
            worker: Who says so; default this process.
            level: Of the log record that says so.
        """
        message, queue = delivery.message, delivery.queue
        job_id, name = identity(message, self._client.max_decompressed_bytes)
        headers = {
            **message.headers,
            wire.DEAD_LETTER: {
                # Here too, since some messages have them in the body alone, and whoever lists letters need not fetch it.
                "id": job_id,
                "name": name,
                "reason": str(reason),
                "error": failure.error,
                "error_type": failure.error_type,
                "queue": origin_queue(queue),
                "at": datetime.now(UTC).isoformat(),
                "losses": losses,
                "retries": retries,
                "worker": worker or worker_name(),
            },
        }
        target = dead_letter_queue(queue)
        delivery.replace(self._client, replace(message, headers=headers), target)
        log.log(
            level,
            "job %s dead-lettered to %s: %s: %s",
            shown(job_id),
            target,
            reason,
            shown(failure.error),
            extra={
                "action": "dead_letter_job",
                "reason": str(reason),
                # Whoever lost its worker began as often; all others are on the attempt after those.
                **wire.log_fields(
                    {**headers, "id": job_id, "task": name},
                    queue,
                    losses - 1 if reason is Reason.WORKER_LOST else losses,
                ),
            },
        )

    def trim(self, queue: str) -> None:
        """Drop dead letters of ``queue`` beyond the configured limits; without limits, nothing."""
        if self._limit is not None or self._max_age is not None:
            self._trim(queue)

    def list(self, queue: str, limit: int = 100, *, bodies: bool = True) -> list[DeadLetter]:
        """Dead letters of a queue, oldest first, none removed; empty if there are none.

        Args:
            queue: The queue they came from.
            limit: At most how many.
            bodies: Fetch their bodies. Without, which is cheaper on Redis, ``body`` may be empty.
        """
        try:
            found = self._client.browse(dead_letter_queue(queue), limit, bodies=bodies)
            return [self._letter(message, queue) for message in found]
        except QueueNotFoundError:
            return []

    def _letter(self, message: Message, queue: str) -> DeadLetter:
        letter = _read(message, queue)
        if self._signing is not None and self._signing.required:
            letter._signing = self._signing
        return letter

    def show(self, queue: str, job_id: str) -> DeadLetter:
        """The dead letter of one job.

        Raises:
            JobNotFoundError: it is not there.
        """
        for offset, letter in enumerate(self.list(queue, self.count(queue), bodies=False)):
            if letter.id != job_id:
                continue
            # Others may have gone meanwhile, so that it stands before its place.
            for limit, first in ((1, offset), (offset, 0)):
                for message in self._client.browse(dead_letter_queue(queue), limit, first):
                    if (whole := self._letter(message, queue)).id == job_id:
                        return whole
        raise JobNotFoundError(f"job {job_id!r} is not in {dead_letter_queue(queue)!r}")

    def count(self, queue: str) -> int:
        """How many dead letters ``queue`` has."""
        try:
            return self._client.count(dead_letter_queue(queue))
        except QueueNotFoundError:
            return 0

    def replay(
        self, queue: str, job_ids: str | Collection[str] | None = None, *, limit: int | None = None
    ) -> Sequence[str | None]:
        """Put dead letters back on ``queue`` as they were, with their counts reset and without ETA and expiry.

        Args:
            queue: The queue they came from.
            job_ids: One id, or some; None for all.
            limit: At most so many, oldest first.

        Returns:
            The ids of the jobs replayed.

        Raises:
            JobNotFoundError: an id is not there; the others are replayed.
        """
        queue = origin_queue(queue)
        wanted = {job_ids} if isinstance(job_ids, str) else set(job_ids) if job_ids is not None else None
        replayed: list[str | None] = []
        total = self.count(queue)
        if total:
            with self._client.consume([dead_letter_queue(queue)], prefetch=min(total, LARGEST_PREFETCH)) as source:
                for _ in range(total):
                    if len(replayed) == limit or (wanted is not None and wanted <= set(replayed)):
                        break
                    delivery = source.next(_DELIVERY_TIMEOUT)
                    if delivery is None:
                        break
                    job_id = _read(delivery.message, queue).id
                    if wanted is not None and job_id not in wanted:
                        continue  # closing the source requeues it in its place
                    revived = _revived(delivery.message)
                    undo = self._on_replay(revived)
                    try:
                        delivery.replace(self._client, revived, queue)
                    except BaseException:
                        with suppress(JobsError):
                            undo()
                        raise
                    replayed.append(job_id)
        missing = (wanted or set()) - set(replayed)
        if missing and limit is None:
            raise JobNotFoundError(f"not in {dead_letter_queue(queue)!r}: {', '.join(sorted(missing))}")
        return replayed

    def purge(self, queue: str) -> int:
        """Remove all dead letters of ``queue`` for good; returns how many."""
        try:
            return self._client.purge(dead_letter_queue(queue))
        except QueueNotFoundError:
            return 0

    def _trim(self, queue: str) -> None:
        """Drop the oldest beyond the configured limits, saying so."""
        target = dead_letter_queue(queue)
        while True:
            over = self._limit is not None and self._client.count(target) > self._limit
            delivery = self._client.get(target)
            if delivery is None:
                return
            letter = _read(delivery.message, queue)
            old = self._max_age is not None and letter.at is not None and datetime.now(UTC) - letter.at > self._max_age
            if not over and not old:
                delivery.requeue()
                return
            delivery.acknowledge()
            log.warning(
                "dead letter %s of %s dropped: %s",
                shown(letter.id),
                target,
                "over the configured limit" if over else "over the configured age",
                extra={"action": "drop_dead_letter", "job_id": shown(letter.id), "queue": queue},
            )


def _read(message: Message, queue: str) -> DeadLetter:
    why = message.headers.get(wire.DEAD_LETTER)
    why = why if isinstance(why, dict) else {}
    original = {name: value for name, value in message.headers.items() if name != wire.DEAD_LETTER}
    job_id = wire.text(message.headers, "id") or wire.text(why, "id")
    name = wire.text(message.headers, "task") or wire.text(why, "name")
    if job_id is None and "id" not in why:  # written by an earlier version
        job_id, name = identity(message)
    return DeadLetter(
        id=job_id,
        name=name,
        queue=wire.text(why, "queue") or queue,
        reason=wire.text(why, "reason") or "unknown",
        error=wire.text(why, "error") or "",
        error_type=wire.text(why, "error_type") or "",
        at=wire.moment_or_none(why, "at"),
        losses=wire.count(why, "losses"),
        retries=wire.count(why, "retries"),
        worker=wire.text(why, "worker") or "",
        body=message.body,
        headers=original,
        content_type=message.content_type,
    )


def _revived(message: Message) -> Message:
    headers = {name: value for name, value in message.headers.items() if name not in wire.OF_DELIVERY}
    headers.update(eta=None, expires=None, retries=0)
    return replace(message, headers=headers)
