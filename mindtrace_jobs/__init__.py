"""Pydantic-typed jobs over Kombu and Celery.

The names below are the public interface. They are loaded on first use, so that importing the package loads neither Kombu
nor Celery nor any driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mindtrace_jobs import _lazy
from mindtrace_jobs._version import __version__ as __version__

if TYPE_CHECKING:
    from mindtrace_jobs.clients import Client as Client
    from mindtrace_jobs.clients import LocalClient as LocalClient
    from mindtrace_jobs.clients import QueueInfo as QueueInfo
    from mindtrace_jobs.clients import QueueType as QueueType
    from mindtrace_jobs.clients import RabbitMQClient as RabbitMQClient
    from mindtrace_jobs.clients import RedisClient as RedisClient
    from mindtrace_jobs.consumer import Consumer as Consumer
    from mindtrace_jobs.errors import AccessDeniedError as AccessDeniedError
    from mindtrace_jobs.errors import BrokerError as BrokerError
    from mindtrace_jobs.errors import BrokerUnavailableError as BrokerUnavailableError
    from mindtrace_jobs.errors import ClosedError as ClosedError
    from mindtrace_jobs.errors import ConfigurationError as ConfigurationError
    from mindtrace_jobs.errors import DecodeError as DecodeError
    from mindtrace_jobs.errors import EncodeError as EncodeError
    from mindtrace_jobs.errors import ExchangeNotFoundError as ExchangeNotFoundError
    from mindtrace_jobs.errors import InvalidInputError as InvalidInputError
    from mindtrace_jobs.errors import InvalidOutputError as InvalidOutputError
    from mindtrace_jobs.errors import InvalidPayloadError as InvalidPayloadError
    from mindtrace_jobs.errors import JobCancelledError as JobCancelledError
    from mindtrace_jobs.errors import JobFailedError as JobFailedError
    from mindtrace_jobs.errors import JobNotFoundError as JobNotFoundError
    from mindtrace_jobs.errors import JobsError as JobsError
    from mindtrace_jobs.errors import LeaseLostError as LeaseLostError
    from mindtrace_jobs.errors import PublishError as PublishError
    from mindtrace_jobs.errors import QueueNotFoundError as QueueNotFoundError
    from mindtrace_jobs.errors import RegistrationError as RegistrationError
    from mindtrace_jobs.errors import RejectJob as RejectJob
    from mindtrace_jobs.errors import ResultsNotConfiguredError as ResultsNotConfiguredError
    from mindtrace_jobs.errors import ResultTimeoutError as ResultTimeoutError
    from mindtrace_jobs.errors import RetryJob as RetryJob
    from mindtrace_jobs.errors import UnknownTypeError as UnknownTypeError
    from mindtrace_jobs.errors import UnroutableError as UnroutableError
    from mindtrace_jobs.errors import UnsupportedError as UnsupportedError
    from mindtrace_jobs.execution.dead_letters import DeadLetter as DeadLetter
    from mindtrace_jobs.execution.retry import RetryPolicy as RetryPolicy
    from mindtrace_jobs.jobs import BackendType as BackendType
    from mindtrace_jobs.jobs import ExecutionStatus as ExecutionStatus
    from mindtrace_jobs.jobs import Job as Job
    from mindtrace_jobs.jobs import JobInput as JobInput
    from mindtrace_jobs.jobs import JobOutput as JobOutput
    from mindtrace_jobs.jobs import JobSchema as JobSchema
    from mindtrace_jobs.logs import JobLogFilter as JobLogFilter
    from mindtrace_jobs.orchestrator import Orchestrator as Orchestrator
    from mindtrace_jobs.registry import register_model as register_model
    from mindtrace_jobs.results import JobHandle as JobHandle
    from mindtrace_jobs.results import JobRecord as JobRecord
    from mindtrace_jobs.routing import JobRouter as JobRouter

_HOMES = {
    "mindtrace_jobs.clients": ["Client", "LocalClient", "QueueInfo", "QueueType", "RabbitMQClient", "RedisClient"],
    "mindtrace_jobs.consumer": ["Consumer"],
    "mindtrace_jobs.execution.dead_letters": ["DeadLetter"],
    "mindtrace_jobs.errors": [
        "AccessDeniedError",
        "BrokerError",
        "BrokerUnavailableError",
        "ClosedError",
        "ConfigurationError",
        "DecodeError",
        "EncodeError",
        "ExchangeNotFoundError",
        "InvalidInputError",
        "InvalidOutputError",
        "InvalidPayloadError",
        "JobCancelledError",
        "JobFailedError",
        "JobNotFoundError",
        "JobsError",
        "LeaseLostError",
        "PublishError",
        "QueueNotFoundError",
        "RegistrationError",
        "RejectJob",
        "ResultTimeoutError",
        "ResultsNotConfiguredError",
        "RetryJob",
        "UnknownTypeError",
        "UnroutableError",
        "UnsupportedError",
    ],
    "mindtrace_jobs.jobs": ["BackendType", "ExecutionStatus", "Job", "JobInput", "JobOutput", "JobSchema"],
    "mindtrace_jobs.logs": ["JobLogFilter"],
    "mindtrace_jobs.orchestrator": ["Orchestrator"],
    "mindtrace_jobs.registry": ["register_model"],
    "mindtrace_jobs.results": ["JobHandle", "JobRecord"],
    "mindtrace_jobs.execution.retry": ["RetryPolicy"],
    "mindtrace_jobs.routing": ["JobRouter"],
}
__all__ = [
    "AccessDeniedError",
    "BackendType",
    "BrokerError",
    "BrokerUnavailableError",
    "Client",
    "ClosedError",
    "ConfigurationError",
    "Consumer",
    "DeadLetter",
    "DecodeError",
    "EncodeError",
    "ExchangeNotFoundError",
    "ExecutionStatus",
    "InvalidInputError",
    "InvalidOutputError",
    "InvalidPayloadError",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobHandle",
    "JobInput",
    "JobLogFilter",
    "JobNotFoundError",
    "JobOutput",
    "JobRecord",
    "JobRouter",
    "JobSchema",
    "JobsError",
    "LeaseLostError",
    "LocalClient",
    "Orchestrator",
    "PublishError",
    "QueueInfo",
    "QueueNotFoundError",
    "QueueType",
    "RabbitMQClient",
    "RedisClient",
    "RegistrationError",
    "RejectJob",
    "ResultTimeoutError",
    "ResultsNotConfiguredError",
    "RetryJob",
    "RetryPolicy",
    "UnknownTypeError",
    "UnroutableError",
    "UnsupportedError",
    "__version__",
    "register_model",
]


__getattr__, __dir__ = _lazy.attach(__name__, _HOMES)
