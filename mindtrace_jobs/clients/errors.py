"""Driver errors -> errors of this package, in one place.

Drivers are told apart by the names of their exception classes, so that no driver is imported to map another's errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import TracebackType

from mindtrace_jobs.clients.redaction import Redactor
from mindtrace_jobs.errors import (
    AccessDeniedError,
    BrokerError,
    BrokerUnavailableError,
    ConfigurationError,
    ExchangeNotFoundError,
    JobsError,
    PublishError,
    QueueNotFoundError,
    UnroutableError,
)

_DENIED = {
    "AccessRefused",
    "AuthenticationError",
    "AuthenticationWrongNumberOfArgsError",
    "AuthorizationError",
    "NoPermissionError",
    "NotAllowed",
}
#: redis-py's, which are no built-ins, and Kombu's.
_LOST = {"ConnectionError", "TimeoutError", "OperationalError"}
_DENIED_TEXT = re.compile(
    r"WRONGPASS|NOAUTH|NOPERM|user executing the script can't|ACL failure in script|invalid (username|password)"
    r"|DB index is out of range",
    re.IGNORECASE,
)
#: Redis answers, and will serve again: it became a replica, can't write to its disk, has too few replicas, runs a script.
_NOT_NOW = {"ReadOnlyError", "MasterDownError"}
_NOT_NOW_TEXT = re.compile(r"(READONLY|MASTERDOWN|MISCONF|NOREPLICAS|BUSY) ")
_NAMED = re.compile(r"no (queue|exchange) '([^']*)'")
_REMEDY = {
    QueueNotFoundError: "declare_queue() makes it, so does publishing to it",
    ExchangeNotFoundError: "declare_exchange() makes it",
}
_NO_ROUTE = 312


class ErrorMapping:
    """A block in which driver errors become errors of this package, causes kept. Any thread may enter it, any number of times.

    Args:
        redactor: Of the broker's URL, which shows it in messages and keeps its secrets out of them.
        connection_errors: Returns what the transport lists as the loss of a connection.
    """

    def __init__(self, redactor: Redactor, connection_errors: Callable[[], Sequence[type[BaseException]]]) -> None:
        self._redactor = redactor
        self._connection_errors = connection_errors

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, JobsError):
            return
        mapped = map_error(error, self._redactor, self._connection_errors())
        cause = self._redactor.cause(error)
        if mapped is None and cause is not error:
            # Kombu's own ValueErrors and KeyErrors for a URL, where it is not read before it is used.
            mapped = ConfigurationError(f"{self._redactor.shown} cannot be used: {cause}")
        if mapped is not None:
            raise mapped from cause


def map_error(
    error: BaseException,
    redactor: Redactor,
    connection_errors: Sequence[type[BaseException]],
    what: str = "",
) -> JobsError | None:
    """The error of this package that says what a driver's error says; None if it is not a driver's.

    Args:
        error: What the driver or Kombu raised.
        redactor: Of the broker's URL, which shows it in the message and keeps its secrets out of it.
        connection_errors: What the transport lists as the loss of a connection.
        what: What is at the URL, for the message, if it is no broker.
    """
    if isinstance(error, JobsError):
        return error
    names = {cls.__name__ for cls in type(error).__mro__}
    if "BatchPublishError" in names and error.__cause__ is not None:
        return map_error(error.__cause__, redactor, connection_errors, what)
    modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    text = _text(error, redactor)
    where = what + redactor.shown
    if modules.isdisjoint({"kombu", "amqp", "redis", "celery"}) and not isinstance(error, OSError):
        return None
    if names & _DENIED or _DENIED_TEXT.search(text):
        return AccessDeniedError(f"{where} refuses access: {text}. Check user, password, virtual host and permissions")
    named = _NAMED.search(text)
    if named:
        kind = QueueNotFoundError if named[1] == "queue" else ExchangeNotFoundError
        return kind(f"there is no {named[1]} {named[2]!r} at {where}: {_REMEDY[kind]}")
    if getattr(error, "reply_code", None) == _NO_ROUTE or "NO_ROUTE" in text:
        return UnroutableError(f"no queue takes the message: {text}. bind_queue() before publishing")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return BrokerUnavailableError(
            f"{where} does not prove who it is: {text}. Check the TLS options, and the host's name in its certificate"
        )
    if names & _NOT_NOW or _NOT_NOW_TEXT.match(text):
        return BrokerUnavailableError(f"{where} cannot serve now: {text}")
    if isinstance(error, (*connection_errors, OSError)) or names & _LOST:
        return BrokerUnavailableError(f"no broker answers at {where}: {text}")
    if "OutOfMemoryError" in names or text.startswith("OOM"):
        return PublishError(f"{where} is out of memory and takes no more jobs: {text}")
    return BrokerError(f"{where} answered: {text}")


def _text(error: BaseException, redactor: Redactor) -> str:
    text = redactor.redact(str(error)).rstrip(".") or type(error).__name__
    return text if len(text) < 500 else text[:500] + "..."
