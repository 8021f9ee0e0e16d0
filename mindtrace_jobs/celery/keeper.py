"""Keeps what a worker cannot run: published to ``<queue>.dlq``, confirmed, before the original is acknowledged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery.utils.objects import Bunch

from mindtrace_jobs._serializer_entry import CONTENT_TYPE
from mindtrace_jobs.celery.errors import InvalidInputError
from mindtrace_jobs.celery.installation import Installation
from mindtrace_jobs.celery.messages import original
from mindtrace_jobs.deadletter import Reason, reason_for
from mindtrace_jobs.errors import DecodeError, InvalidPayloadError, JobsError
from mindtrace_jobs.logs import message_fields
from mindtrace_jobs.message import ATTEMPTS

log = logging.getLogger("mindtrace_jobs.celery")


class Keeper:
    """Dead letters of one app's workers.

    Args:
        installation: What was chosen for the app.
    """

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def keep(
        self,
        raw: Any,
        queue: str,
        reason: Reason,
        error: BaseException | str,
        *,
        attempts: int = 0,
        worker: str | None = None,
    ) -> None:
        """Publish a copy to the dead-letter queue, if there are any; the original is the caller's to acknowledge.

        Raises:
            BrokerUnavailableError, PublishError: it is not kept; do not acknowledge it.
        """
        if not self._installation.dead_letters:
            return
        letters = self._installation.orchestrator.dead_letters
        letters.keep(original(raw), queue, reason, error, attempts=attempts, worker=worker)
        try:
            letters.trim(queue)
        except JobsError as failure:
            log.warning(
                "dead letters of %s not trimmed: %s",
                queue,
                failure,
                extra={"action": "trim_dead_letters", **message_fields(raw.headers or {}, queue, attempts)},
            )

    def run_again(self, raw: Any, queue: str, losses: int) -> None:
        """Publish a copy to the same queue that says how often its worker was lost; raises as ``keep``."""
        message = original(raw)
        copy = replace(message, headers={**message.headers, ATTEMPTS: losses})
        self._installation.orchestrator.client.publish(copy, queue=queue)

    def fail(self, raw: Any, error: BaseException) -> None:
        """Record a job that never became a request as failed; what cannot be recorded is logged."""
        headers = raw.headers or {}
        job_id = headers.get("id")
        if not isinstance(job_id, str):
            return
        properties = raw.properties or {}
        request = Bunch(
            id=job_id,
            task=headers.get("task"),
            chord=None,
            chain=None,
            errbacks=None,
            group=headers.get("group"),
            parent_id=headers.get("parent_id"),
            root_id=headers.get("root_id"),
            correlation_id=properties.get("correlation_id"),
            reply_to=properties.get("reply_to"),
            ignore_result=bool(headers.get("ignore_result")),
            children=(),
        )
        try:
            self._installation.app.backend.mark_as_failure(
                job_id, error, request=request, store_result=not request.ignore_result
            )
        except Exception as failure:
            queue = (raw.delivery_info or {}).get("routing_key") or ""
            fields = message_fields(headers, queue, headers.get(ATTEMPTS) or 0)
            log.error("job %s: failure not recorded: %s", job_id, failure, extra={"action": "record_status", **fields})  # noqa: TRY400


def why(error: BaseException) -> tuple[Reason, BaseException]:
    """Reason and cause of a decoding error as Kombu raised it: it wraps the decoder's own."""
    cause = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    if isinstance(cause, InvalidPayloadError) and not isinstance(cause, InvalidInputError):
        cause = InvalidInputError(str(cause), cause.errors)
    if isinstance(cause, DecodeError):
        return reason_for(cause), cause
    # Most others cannot be made again from a JSON result: their constructors take more than a text.
    return Reason.UNDECODABLE, DecodeError(f"{type(cause).__name__}: {cause}")


class _Unshown(bytes):
    """The body of a typed job, in which Celery's log lines show no data."""

    def __repr__(self) -> str:
        return "a typed job's data, kept where it can be looked at"


class KeptMessage:
    """A Kombu message that is kept before Celery's own handlers log its body, and acknowledge or reject it away.

    A connection that is lost meanwhile is the worker's to notice: the message will come again.

    Args:
        raw: The message.
        keep: Publishes it to the dead-letter queue.
    """

    def __init__(self, raw: Any, keep: Callable[[], None]) -> None:
        self._raw = raw
        self._keep = keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    @property
    def body(self) -> Any:
        """As it was delivered, but a typed job's is not printed."""
        body = self._raw.body
        if self._raw.content_type != CONTENT_TYPE:
            return body
        return _Unshown(body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body or b"")

    def ack(self, *_: Any, **__: Any) -> None:
        """Keep, then acknowledge."""
        self._keep()
        self._raw.ack()

    def reject(self, requeue: bool = False, **_: Any) -> None:
        """Keep, then acknowledge; what is to be put back is put back."""
        if requeue:
            self._raw.requeue()
        else:
            self.ack()

    def ack_log_error(self, *_: Any, **__: Any) -> None:
        """As ``ack``."""
        self.ack()

    def reject_log_error(self, _logger: Any, _errors: Any, requeue: bool = False) -> None:
        """As ``reject``."""
        self.reject(requeue=requeue)
