"""Every exception of this package, in one tree.

::

    JobsError
    ├── ConfigurationError (ValueError)        a setting or URL that cannot work
    │   └── ResultsNotConfiguredError          status or result asked for, nowhere to keep them
    ├── RegistrationError (TypeError)          two types claim one name
    ├── UnsupportedError (NotImplementedError) the backend cannot do this, by its nature
    ├── ClosedError (RuntimeError)             used after close()
    ├── EncodeError (ValueError)               a value that would not come back as it went in
    ├── DecodeError (ValueError)               bytes that are not a job
    │   ├── UnknownTypeError (LookupError)     a type this process has not registered
    │   └── InvalidPayloadError                fields that do not fit the type
    │       ├── InvalidInputError              ... of a job's input
    │       └── InvalidOutputError             ... of the output that a handler returned
    ├── QueueNotFoundError (KeyError)
    ├── ExchangeNotFoundError (KeyError)
    ├── PublishError                           the broker refused a job
    │   └── UnroutableError                    no queue takes it
    ├── BrokerError                            the broker answered with an error
    │   ├── BrokerUnavailableError (ConnectionError)   nobody answers; worth retrying
    │   │   └── UnconfirmedError               ... as to whether it took what was published
    │   └── AccessDeniedError (PermissionError)        wrong password, unknown virtual host
    ├── LeaseLostError                         the job was given to somebody else
    ├── JobExpiredError                        the job was received after its ``expires``
    ├── WorkerLostError                        workers vanished while they ran the job, too often
    ├── HandlerError                           stands for what a handler raised and no process can hand on
    ├── JobNotFoundError (KeyError)            no record of this job id
    ├── JobFailedError                         the result asked for is a failure
    │   └── JobCancelledError                  ... because the job was cancelled
    ├── ResultTimeoutError (TimeoutError)      no result yet
    ├── RejectJob                              raised by a handler: dead-letter at once
    └── RetryJob                               raised by a handler: run again later

``retryable`` on the class says whether the same call may succeed later without anything being changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

#: Ten years, in seconds: further away there is no retry, only a mistake.
LONGEST_DELAY = 10 * 365 * 86_400.0
_LONGEST_SUMMARY = 4000


def summary(error: BaseException | str) -> str:
    """What an error says, as text that every header and result backend takes: never raises, bounded, no lone surrogates."""
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # whatever a user's __str__ does
        text = f"({type(error).__name__} that cannot be printed)"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _LONGEST_SUMMARY else text[:_LONGEST_SUMMARY] + " ..."


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, as text: what its record and its dead letter say, whatever became of the exception.

    Attributes:
        error_type: Name of the exception's class.
        error: What the exception says.
        errors: For input or output that does not fit its type, each offence as ``{"field", "message", "type"}``.
    """

    error_type: str
    error: str
    errors: tuple[dict[str, Any], ...] = ()


def failure_of(error: BaseException) -> Failure:
    """The text of an exception. Of the attributes of a stranger's exception none is looked at."""
    if isinstance(error, HandlerError):
        return error.failure
    errors = tuple(error.errors) if isinstance(error, InvalidPayloadError) else ()
    return Failure(type(error).__name__, summary(error), errors)


class JobsError(Exception):
    """Base of every error this package raises."""

    #: Whether the same call may succeed later with nothing changed on this side.
    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        # KeyError prints repr(args[0]); a message for people must not arrive in quotes.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class ConfigurationError(JobsError, ValueError):
    """A setting, URL or combination of arguments that cannot work; the message names it and the remedy."""


class ResultsNotConfiguredError(ConfigurationError):
    """Status, result or cancellation was asked for, but this orchestrator keeps no results."""


class RegistrationError(JobsError, TypeError):
    """Two different types claim one schema name or one tag."""


class UnsupportedError(JobsError, NotImplementedError):
    """The backend cannot do what was asked, by its nature."""


class ClosedError(JobsError, RuntimeError):
    """The orchestrator, client or consumer was used after ``close()``."""


class EncodeError(JobsError, ValueError):
    """A value cannot be published without changing it; the message names the field and the remedy."""


class DecodeError(JobsError, ValueError):
    """Bytes or headers that are not a job."""


class UnknownTypeError(DecodeError, LookupError):
    """The message names a schema or model that this process has not registered.

    Import the module that defines it before receiving. Nothing is ever imported because a message names it.
    """


class InvalidPayloadError(DecodeError):
    """The message's fields do not fit the registered type.

    ``errors`` lists each offence as ``{"field", "message", "type"}``, without the values: payloads are private.
    """

    def __init__(self, message: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        self.errors = [dict(error) for error in errors]
        # Celery's JSON results make an exception again from its args.
        super().__init__(message, self.errors)

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidInputError(InvalidPayloadError):
    """What the producer sent does not fit the schema's input type."""


class InvalidOutputError(InvalidPayloadError):
    """What the handler returned is not of the schema's output type, or could not be read back."""


class QueueNotFoundError(JobsError, KeyError):
    """No such queue on this broker. ``declare_queue`` or the first ``publish`` makes one."""


class ExchangeNotFoundError(JobsError, KeyError):
    """No such exchange on this broker. ``declare_exchange`` makes one."""


class PublishError(JobsError):
    """The broker did not take a job, or some jobs of a batch.

    ``failures`` maps the job's id to what the broker said of it.
    """

    def __init__(self, message: str, failures: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failures = dict(failures or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.failures), self.__dict__


class UnroutableError(PublishError):
    """No queue is bound to the exchange under this routing key, so nobody would ever get the job."""


class BrokerError(JobsError):
    """The broker answered with an error that no other class of this tree names."""


class BrokerUnavailableError(BrokerError, ConnectionError):
    """No broker answers, it cannot serve now, or the connection broke and could not be made again in time."""

    retryable: ClassVar[bool] = True


class UnconfirmedError(BrokerUnavailableError):
    """The broker did not say whether it took what was published; publishing again may make a second copy."""


class AccessDeniedError(BrokerError, PermissionError):
    """The broker answers, and refuses: wrong user or password, unknown virtual host, missing permission."""


class LeaseLostError(JobsError):
    """The broker gave this delivery to another consumer because its lease ran out."""


class JobExpiredError(JobsError):
    """The job was received after the time up to which it was to run."""


class WorkerLostError(JobsError):
    """The job was running each time when its workers vanished: killed, out of memory, cut off from the broker."""


class HandlerError(JobsError):
    """Stands for what a handler raised where that cannot leave its process.

    It cannot be pickled, or would end the runner instead of the job: SystemExit, MemoryError. ``error`` and
    ``error_type`` are its text and its class's name; it is the cause.
    """

    def __init__(self, error: str, error_type: str = "") -> None:
        super().__init__(error, error_type)
        self.failure = Failure(error_type or "HandlerError", error)

    def __str__(self) -> str:
        return self.failure.error

    @property
    def error_type(self) -> str:
        """Name of the class that was raised."""
        return self.failure.error_type

    @property
    def error(self) -> str:
        """What it says."""
        return self.failure.error


class JobNotFoundError(JobsError, KeyError):
    """There is no record of this job id: never submitted here, or its record has expired."""


class JobFailedError(JobsError):
    """The job whose result was asked for has failed.

    ``job_id``, ``error`` (what the worker reported) and ``error_type`` (the name of its exception) are attributes.
    """

    def __init__(self, message: str, job_id: str = "", error: str = "", error_type: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
        self.error = error
        self.error_type = error_type

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.job_id, self.error, self.error_type), self.__dict__


class JobCancelledError(JobFailedError):
    """The job whose result was asked for was cancelled."""


class ResultTimeoutError(JobsError, TimeoutError):
    """The job has no result yet; waiting again is safe."""

    retryable: ClassVar[bool] = True


class RejectJob(JobsError):  # noqa: N818 - an instruction to the consumer, not a fault
    """Raise in a handler to dead-letter the job at once, without further retries. The message is the reason."""


class RetryJob(JobsError):  # noqa: N818 - an instruction to the consumer, not a fault
    """Raise in a handler to run the job again after ``delay`` seconds (``None``: the policy's backoff).

    Counts as a retry: past the policy's limit the job is dead-lettered.
    """

    def __init__(self, message: str = "", delay: float | None = None) -> None:
        super().__init__(message)
        if delay is not None and not 0 <= delay <= LONGEST_DELAY:
            raise ConfigurationError(f"RetryJob: delay is {delay!r}; it is a number of seconds from 0 to ten years")
        self.delay = delay

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.delay), self.__dict__
