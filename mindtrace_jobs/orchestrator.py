"""Orchestrator: the documented API. It knows jobs, queues and results, and nothing about any one broker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from mindtrace_jobs._arguments import check_seconds, listed
from mindtrace_jobs.clients import (
    Client,
    Delivery,
    ExchangeType,
    LocalClient,
    QueueInfo,
    QueueType,
    RabbitMQClient,
    RedisClient,
    client_for,
)
from mindtrace_jobs.errors import ConfigurationError, Failure, JobsError
from mindtrace_jobs.execution.dead_letters import DeadLetters
from mindtrace_jobs.execution.lifecycle import Lifecycle, ReceivedJob
from mindtrace_jobs.execution.publishing import Publishing, check_job
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobInput, JobSchema, OutputT
from mindtrace_jobs.results import AppResultStore, JobHandle, JobRecord, JobState, ResultStore, output_of, worker_name
from mindtrace_jobs.routing import AppRouter, JobRouter
from mindtrace_jobs.wire.packing import MAX_DECOMPRESSED
from mindtrace_jobs.wire.signing import Signing

SchemaT = TypeVar("SchemaT", bound=JobSchema[Any, Any])
ChoiceT = TypeVar("ChoiceT", bound=StrEnum)

_CLIENTS: dict[str, type[Client]] = {
    "memory": LocalClient,
    "redis": RedisClient,
    "rediss": RedisClient,
    "sentinel": RedisClient,
    "amqp": RabbitMQClient,
    "amqps": RabbitMQClient,
    "pyamqp": RabbitMQClient,
}


class Orchestrator:
    """Publishes, receives, counts and cleans jobs on the queues of one broker. Safe for threads and forks.

    Args:
        client: The broker; default a LocalClient. A client that is passed in is closed with the orchestrator only if
            ``close_client`` is true.
        router: Which queue ``submit`` uses; default the documented rules.
        retry: What ``receiving`` and Consumer do with a job that fails.
        track: Record the status of every job that is received here, not only of submitted ones.
        results_expire: How long status and results are kept. Default one day.
        max_job_bytes: Largest encoded job that is published; None for no limit.
        dead_letter_limit, dead_letter_max_age: Bounds of each dead-letter queue; None keeps everything.
        close_client: Whether ``close`` closes the client.
        results: Where status and results are kept; default the client's result backend.
        signing: Signs and verifies jobs, as ``from_celery`` has it; default none is signed.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        router: JobRouter | None = None,
        retry: RetryPolicy | None = None,
        track: bool = False,
        results_expire: timedelta = timedelta(days=1),
        max_job_bytes: int | None = None,
        dead_letter_limit: int | None = None,
        dead_letter_max_age: timedelta | None = None,
        close_client: bool = True,
        results: ResultStore | None = None,
        signing: Signing | None = None,
    ) -> None:
        if client is not None and not isinstance(client, Client):
            raise ConfigurationError(
                f"Orchestrator takes a client, not {type(client).__name__}: Orchestrator.from_url(url) makes one from a URL"
            )
        self.client = client if client is not None else LocalClient()
        self.router = router or JobRouter()
        self.retry = retry or RetryPolicy()
        self.results = results or ResultStore(
            self.client.result_backend,
            results_expire,
            self.client.result_options,
            inline=self.client.keeps_records,
        )
        self.signing = signing
        self.publishing = Publishing(self.client, self.results, max_job_bytes=max_job_bytes, signing=signing)
        self.dead_letters = DeadLetters(
            self.client,
            limit=dead_letter_limit,
            max_age=dead_letter_max_age,
            on_replay=self.publishing.replayed,
            signing=signing,
        )
        self.lifecycle = Lifecycle(self.client, self.results, self.dead_letters, track=track, signing=signing)
        self._close_client = close_client

    @classmethod
    def from_url(cls, url: str, *, client_options: dict[str, Any] | None = None, **options: Any) -> Self:
        """An orchestrator for ``memory://``, ``redis://``, ``rediss://``, ``sentinel://``, ``amqp://`` or ``amqps://``.

        Args:
            url: The broker.
            client_options: Further arguments of the client, such as ``{"lease": 30.0}``.
            options: Further arguments of the orchestrator.

        Raises:
            ConfigurationError: another scheme.
        """
        if not isinstance(url, str):
            raise ConfigurationError(
                f"url is a {type(url).__name__}; it must be text: is an environment variable not set?"
            )
        scheme = url.partition("://")[0]
        client = _CLIENTS.get(scheme)
        if client is None or "://" not in url:
            # What stands before a misplaced "://" may be a password.
            shown = f"the scheme {scheme!r}" if "://" in url and scheme.isalnum() else "a URL without a scheme"
            raise ConfigurationError(
                f"no backend for {shown}: use one of {', '.join(f'{name}://' for name in _CLIENTS)}"
            )
        return cls(client.from_url(url, **(client_options or {})), **options)

    @classmethod
    def from_celery(
        cls,
        app: Any,
        *,
        lease: float | None = None,
        max_decompressed_bytes: int | None = MAX_DECOMPRESSED,
        **options: Any,
    ) -> Self:
        """An orchestrator on a Celery app's broker, routes and result backend, with the app's settings for each.

        Of an app that accepts signed messages only, what it publishes is signed, and what it receives is verified.

        Args:
            app: The app, configured or not yet: its settings are read now.
            lease: As RedisClient's; default what the app was installed with, else 60 seconds.
            max_decompressed_bytes: As a client's.
            options: Further arguments of the orchestrator.

        Raises:
            ConfigurationError: the app's broker is none that this package has a client for.
        """
        options.setdefault("router", AppRouter(app))
        options.setdefault("signing", Signing(app))
        client = client_for(app, lease=lease, max_decompressed_bytes=max_decompressed_bytes)
        return cls(client, results=AppResultStore(app), **options)

    def __repr__(self) -> str:
        return f"Orchestrator({self.client!r})"

    # --- queues

    def declare_queue(self, queue: str, queue_type: QueueType | str = QueueType.FIFO) -> None:
        """Make a queue of type "fifo" (default), "priority" or "stack". One that exists is used as it is.

        Raises:
            UnsupportedError: the broker has no such type of queue.
            ConfigurationError: no such type.
        """
        self.client.declare_queue(queue, _choice(QueueType, queue_type, "queue_type"))

    def queue_status(self, queue: str) -> int:
        """How many jobs wait in a queue.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        return self.client.count(queue)

    count_queue_messages = queue_status

    def queue_info(self, queue: str) -> QueueInfo:
        """Ready, unacknowledged, delayed and dead-lettered jobs of a queue, and its consumers; raises as queue_status."""
        return self.client.info(queue)

    def clean_queue(self, queue: str) -> int:
        """Remove all jobs that wait in a queue; returns how many. Raises as ``queue_status``."""
        return self.client.purge(queue)

    def delete_queue(self, queue: str) -> None:
        """Remove a queue and its jobs. Its dead-letter queue stays. Raises as ``queue_status``."""
        self.client.delete_queue(queue)

    # --- exchanges

    def declare_exchange(self, exchange: str, exchange_type: ExchangeType | str = ExchangeType.DIRECT) -> None:
        """Make an exchange of type "direct" (default), "topic" or "fanout"."""
        self.client.declare_exchange(exchange, _choice(ExchangeType, exchange_type, "exchange_type"))

    def bind_queue(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Let an exchange deliver to a queue.

        Raises:
            QueueNotFoundError, ExchangeNotFoundError: one of them is not there.
        """
        self.client.bind_queue(queue, exchange, routing_key)

    def delete_exchange(self, exchange: str) -> None:
        """Remove an exchange; the queues bound to it stay."""
        self.client.delete_exchange(exchange)

    # --- publishing

    def publish_message(
        self,
        queue: str,
        job: Job[Any],
        *,
        exchange: str = "",
        routing_key: str = "",
        eta: datetime | None = None,
        delay: float | timedelta | None = None,
        expires: datetime | float | timedelta | None = None,
    ) -> str:
        """Put a job on a queue, which is declared if need be; returns the job's id when the broker has the job.

        Args:
            queue: The queue; or "" together with ``exchange``.
            job: The job.
            exchange, routing_key: Publish to an exchange instead.
            eta, delay: Aware time, or seconds from now, before which it must not run.
            expires: Aware time, or seconds from now, after which it must not run but is dead-lettered.

        Raises:
            ConfigurationError: both a queue and an exchange, or a routing key without an exchange.
            EncodeError: the job holds a value that would not come back as it went in, or is too large.
            UnroutableError: no queue is bound to the exchange under this routing key.
            PublishError: the broker refused the job.
            BrokerUnavailableError: no broker answers within the connect timeout.
        """
        message = self.publishing.encode(job, eta=eta, delay=delay, expires=expires)
        self.publishing.publish(job, message, queue, exchange, routing_key)
        return job.id

    publish = publish_message

    def publish_many(self, queue: str, jobs: Sequence[Job[Any]]) -> list[str]:
        """Put many jobs on a queue in as few round trips as the broker allows; returns their ids.

        Raises:
            EncodeError: a job cannot be encoded; none was published.
            PublishError: ``failures`` names each job that the broker refused; the others are on the queue.
        """
        jobs = listed("jobs", jobs)
        self.publishing.publish_many(jobs, queue)
        return [job.id for job in jobs]

    def submit(
        self,
        job: Job[JobSchema[Any, OutputT]],
        *,
        queue: str | None = None,
        eta: datetime | None = None,
        delay: float | timedelta | None = None,
        expires: datetime | float | timedelta | None = None,
    ) -> JobHandle[OutputT]:
        """Route a job to its queue, record it as queued, and return a handle to its status and result.

        Where no results are kept (RabbitMQ without a result backend) the job is published all the same, and the
        handle's methods raise ResultsNotConfiguredError.

        Raises:
            ConfigurationError: no rule routes the job and the router has no default; or it cannot be signed and has to be.
            As ``publish_message``.
        """
        check_job(job)
        target = queue or self.router.route(job)
        tracked = self.results.configured
        message = self.publishing.encode(job, eta=eta, delay=delay, expires=expires, tracked=tracked)
        self.publishing.submit_to(target, job, message)
        return JobHandle(job.id, self.results)

    # --- receiving

    @overload
    def receive_message(self, queue: str, timeout: float | None = None) -> Job[Any] | None: ...

    @overload
    def receive_message(
        self, queue: str, timeout: float | None = None, *, schema: type[SchemaT]
    ) -> Job[SchemaT] | None: ...

    def receive_message(
        self, queue: str, timeout: float | None = None, *, schema: type[Any] | None = None
    ) -> Job[Any] | None:
        """Receive the next job, acknowledged as it is handed over: the simple form. None when there is none.

        Args:
            queue: The queue.
            timeout: Seconds to wait for a job; None does not wait.
            schema: Return a ``Job[schema]``.

        Raises:
            QueueNotFoundError: there is no such queue.
            DecodeError: the next message is no job of a known type. It was moved to the dead-letter queue, and the
                next call goes on behind it.
            BrokerUnavailableError: no broker answers within the connect timeout.
        """
        received = self._receive(queue, timeout, schema, None)
        if received is None:
            return None
        with _RequeuedOnError(received.delivery):
            received.delivery.acknowledge(at_once=True)
        assert received.job is not None
        # Handed over as it was sent; whoever runs it sets its status.
        received.job._assign(status=ExecutionStatus.QUEUED, started_at=None)
        return received.job

    @overload
    def receiving(self, queue: str, timeout: float | None = None) -> AbstractContextManager[Job[Any] | None]: ...

    @overload
    def receiving(
        self, queue: str, timeout: float | None = None, *, schema: type[SchemaT]
    ) -> AbstractContextManager[Job[SchemaT] | None]: ...

    def receiving(
        self, queue: str, timeout: float | None = None, *, schema: type[Any] | None = None
    ) -> AbstractContextManager[Job[Any] | None]:
        """Receive the next job for the length of a ``with`` block: ``with orchestrator.receiving(queue) as job:``.

        ``job`` is None when there is none. A block that ends well acknowledges the job, recording ``job.payload.output``
        as its result. One that raises has the job retried or dead-lettered by the retry policy, and the error goes on; a
        job from a dead-letter queue goes back there. Arguments and errors as ``receive_message``.
        """
        return self._receiving(queue, timeout, schema)

    @contextmanager
    def _receiving(self, queue: str, timeout: float | None, schema: type[Any] | None) -> Iterator[Job[Any] | None]:
        received = self._receive(queue, timeout, schema, self.retry)
        if received is None:
            yield None
            return
        with _RequeuedOnError(received.delivery):
            try:
                yield received.job
            except Exception as error:
                self.lifecycle.fail(received, error, self.retry)
                raise
            self.lifecycle.succeed(received)

    def _receive(
        self, queue: str, timeout: float | None, schema: Any, policy: RetryPolicy | None
    ) -> ReceivedJob | None:
        check_schema(schema)
        check_seconds("timeout", timeout)
        deadline = time.monotonic() + (timeout or 0)
        losses = None if policy is None else policy.max_worker_losses
        while True:
            delivery = self.client.get(queue, max(0.0, deadline - time.monotonic()))
            if delivery is None:
                return None
            with _RequeuedOnError(delivery):
                received = self.lifecycle.receive(delivery, losses)
                if received is not None and self.lifecycle.start(received, marked=policy is not None):
                    self.lifecycle.decode(received, schema)
                    return received

    # --- results

    def save(self, job: Job[Any]) -> None:
        """Record the job's present status, times, output or error, for ``job_status`` and ``job_result``.

        Raises:
            ResultsNotConfiguredError: this orchestrator keeps no results.
        """
        if job.status.final and job.completed_at is None:
            job.completed_at = datetime.now(UTC)
        failed = job.status is ExecutionStatus.FAILED
        state = JobState(
            job.id,
            job.payload.name,
            job.status,
            output=job.payload.output,
            failure=Failure("", job.error or "failed") if failed else None,
            starts=int(job.started_at is not None),
            queued_at=job.created_at,
            started_at=job.started_at,
            completed_at=job.completed_at,
            worker=worker_name(),
        )
        # Celery's backends keep a success for good; what is saved on purpose replaces it.
        self.results.forget(job.id)
        self.results.save(state)

    def queues_for(self, input_type: type[JobInput]) -> list[str]:
        """The queues where jobs with this input may arrive, by the router: what a specialized worker consumes."""
        return self.router.queues_for(input_type)

    def handle(self, job_id: str) -> JobHandle[Any]:
        """A handle to a job that was submitted anywhere."""
        return JobHandle(job_id, self.results)

    def job_record(self, job_id: str) -> JobRecord[Any]:
        """All that is recorded of a job; raises as ``job_status``."""
        return self.results.get(job_id)

    def job_status(self, job_id: str) -> ExecutionStatus:
        """Where a submitted job stands.

        Raises:
            JobNotFoundError: nothing is recorded of this id.
            ResultsNotConfiguredError: this orchestrator keeps no results.
        """
        return self.results.get(job_id).status

    def job_result(self, job_id: str) -> Any:
        """The typed output of a completed job; None while it has none.

        Raises:
            JobFailedError, JobCancelledError: there will be none.
            JobNotFoundError, ResultsNotConfiguredError: as ``job_status``.
        """
        return output_of(self.results.get(job_id))

    def cancel(self, job_id: str) -> bool:
        """Keep a submitted job that still waits from being run; whether it did wait.

        Raises:
            JobNotFoundError, ResultsNotConfiguredError: as ``job_status``.
        """
        return self.handle(job_id).cancel()

    # --- life

    def close(self) -> None:
        """Close the connections. Using the orchestrator afterwards, or waiting for a job meanwhile, raises ClosedError."""
        self.results.close()
        if self._close_client:
            self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _RequeuedOnError:
    """A block after which a delivery is requeued if the block fails, for whatever reason, before it was settled."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._delivery.settled:
            with suppress(JobsError):
                self._delivery.requeue()


def check_schema(schema: Any) -> None:
    """Raise ConfigurationError unless jobs can be read as this: with anything else all would end as dead letters."""
    if schema is not None and not (isinstance(schema, type) and issubclass(schema, JobSchema)):
        raise ConfigurationError(f"schema is {schema!r:.60}; it must be a subclass of JobSchema")


def _choice(kind: type[ChoiceT], value: Any, argument: str) -> ChoiceT:
    try:
        return kind(value)
    except ValueError as error:
        raise ConfigurationError(f"{argument} is {value!r:.40}; it is one of {', '.join(kind)}") from error
