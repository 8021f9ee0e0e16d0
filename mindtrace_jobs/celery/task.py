"""JobTask: a kind of job as a Celery task, and the decorator that makes one from a typed function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ClassVar, Generic, TypeVar, cast

from celery import Task
from celery.exceptions import Reject, Retry
from celery.utils.imports import symbol_by_name
from celery.utils.time import get_exponential_backoff_interval
from pydantic import ValidationError

from mindtrace_jobs import registry
from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.arguments import holds_output, job_from
from mindtrace_jobs.celery.context import CANCELLED, JobContext, delivery_of
from mindtrace_jobs.celery.errors import CancelledIgnore, InvalidInputError, InvalidOutputError, RetriesExceededError
from mindtrace_jobs.celery.event_loop import event_loop
from mindtrace_jobs.celery.parameters import Parameters, parameters_of
from mindtrace_jobs.celery.publish import CONFIRM_TIMEOUT, confirming_producer
from mindtrace_jobs.clients import speaks_amqp
from mindtrace_jobs.errors import ConfigurationError, JobCancelledError, RetryJob
from mindtrace_jobs.jobs import ExecutionStatus, Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.message import TRACKED, _moment
from mindtrace_jobs.results import AppResultStore, JobHandle
from mindtrace_jobs.results.record import PROGRESS, QUEUED
from mindtrace_jobs.serializer.decoding import explain

InT = TypeVar("InT", bound=JobInput)
OutT = TypeVar("OutT", bound=JobOutput)

_STARTED, _RETRY = "STARTED", "RETRY"
#: Headers of one delivery, which a retry must not inherit.
_OF_DELIVERY = ("redelivered", "x-delivery-count", "x-death", "x-dead-letter")


class JobTask(Task, Generic[InT, OutT]):  # type: ignore[misc]
    """Base class of job tasks: a Celery task whose name, input and output are a schema's.

    Use ``job_task``, or subclass it with ``schema`` and ``run`` and register it: ``app.register_task(Detect())``.

    It acknowledges late and is requeued when its worker is lost, whatever the app's defaults. Called directly it runs
    in this process, as a function does. All of Celery's task options apply.
    """

    abstract = True
    is_job = True

    #: What the task takes and returns.
    schema: ClassVar[type[JobSchema[Any, Any]]]

    serializer = "pydantic"
    acks_late = True
    reject_on_worker_lost = True
    acks_on_failure = True
    acks_on_timeout = True
    #: Another way to handle a lost worker, which would not count it.
    retry_on_worker_lost = False
    store_eager_result = True
    #: Arguments are checked against the schema, not against the function.
    typing = False
    MaxRetriesExceededError = RetriesExceededError
    Request: Any = "mindtrace_jobs.celery.request:JobRequest"
    retry_backoff = True

    #: The job function as it is written, if it is a coroutine function; ``run`` then waits for it.
    _coroutine_function: Callable[..., Coroutine[Any, Any, Any]] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        run = cls.__dict__.get("run")
        if run is not None:
            is_async = inspect.iscoroutinefunction(getattr(run, "__func__", run))
            cls._coroutine_function = run if is_async else None
            if is_async:
                cls.run = _waiting(run)
        schema = cls.__dict__.get("schema")
        if schema is not None and cls.__dict__.get("name") is None:
            cls.name = schema_name(schema)

    # --- publishing

    def submit(self, job: InT | Job[Any], **options: Any) -> JobHandle[OutT]:
        """Publish a job, recorded as queued, and return a handle to its status and typed result.

        Args:
            job: The input, or a whole Job.
            options: As Celery's ``apply_async``: queue, countdown, expires, priority, link, ...

        Raises:
            EncodeError: a value in it would not come back as it went in.
            InvalidInputError: it does not fit the schema.
            kombu.exceptions.OperationalError: the broker did not take it.
        """
        results = self._orchestrator.results
        made = job_from([job], {}, self.schema, options.pop("task_id", None))
        if results.configured:
            options["headers"] = {**(options.get("headers") or {}), TRACKED: True}
            # Before publishing: a fast worker's record must not be overwritten by ours.
            results.save(made)
        try:
            self.apply_async((made,), **options)
        except Exception:
            if results.configured:
                results.forget(made.id)
            raise
        return JobHandle(made.id, results)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish a job as Celery does, with everything canvas needs; returns Celery's AsyncResult.

        The arguments are the input, a Job, the output of the job before in a chain, or the input's fields.

        Raises:
            InvalidInputError: they do not fit the schema. An output that does not fit is published all the same, and
                dead-lettered by the worker: the job that returned it did nothing wrong.
        """
        sent: tuple[Any, ...] = tuple(args or ())
        named = dict(kwargs or {})
        try:
            job = job_from(sent, named, self.schema, task_id)
        except InvalidInputError:
            if not holds_output(sent):
                raise
        else:
            sent, named, task_id = (job,), {}, job.id
            options["argsrepr"] = f"(<{self.schema.__name__} job {job.id}>,)"
            options["kwargsrepr"] = "{}"
            if job.priority is not None:
                options.setdefault("priority", job.priority)
        headers = {name: value for name, value in (options.get("headers") or {}).items() if name not in _OF_DELIVERY}
        expires = options.get("expires", self.expires)
        options["expires"] = None
        if expires is not None:
            # Not as Celery's option, which has RabbitMQ delete the job without a word when its time is over.
            headers["expires"] = expires if isinstance(expires, str) else _moment("expires", _aware(expires), _now())
        if headers:
            options["headers"] = headers
        options.setdefault("delivery_mode", 2)
        with ExitStack() as stack:
            if producer is None and options.get("connection") is None and not self.app.conf.task_always_eager:
                producer = stack.enter_context(confirming_producer(self.app))
                if producer is not None:
                    options.setdefault("confirm_timeout", CONFIRM_TIMEOUT)
            return super().apply_async(sent, named, task_id, producer, link, link_error, shadow, **options)

    # --- running

    def __call__(self, *args: Any, **kwargs: Any) -> OutT:
        """Run: with a message's arguments in a worker, with the function's own when called directly."""
        request = self.request
        if request.called_directly or request.get("job_entered"):
            return cast("OutT", self._call(*args, **kwargs))
        request.job_entered = True
        return self._work(args, kwargs, request)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        parameters = self._parameters
        missing = {name for name in (parameters.job, parameters.context) if name} - kwargs.keys()
        if missing and len(args) == 1 and isinstance(args[0], JobInput):
            job = job_from(args, {}, self.schema, None)
            filled = parameters.extras(job, JobContext(job))
            kwargs = {**{name: filled[name] for name in missing}, **kwargs}
        if self._coroutine_function is not None:
            return self._coroutine_function(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _work(self, args: Any, kwargs: Any, request: Any) -> OutT:
        job = job_from(args, kwargs, self.schema, request.id)
        recording = self if AppResultStore(self.app).configured else None
        context = request.job_context = JobContext(job, recording, **delivery_of(request), request=request)
        self._begin(request, context)
        job.status, job.started_at = ExecutionStatus.RUNNING, _now()
        try:
            returned = self.run(job.payload.input, **self._parameters.extras(job, context))
        except JobCancelledError as error:
            # It stopped because it was asked to.
            self.record(job.id, error, CANCELLED)
            context.log.info("job %s was cancelled: stopped", job.id, extra={"action": "stop_job"})
            raise CancelledIgnore(str(error)) from error
        except RetryJob as error:
            pause = error.delay if error.delay is not None else self._pause(request.retries or 0)
            raise self.retry(exc=error, countdown=max(0.0, pause)) from error
        return cast("OutT", self._output(job, returned))

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: Any = None,
        throw: bool = True,
        **options: Any,
    ) -> Any:
        """Run again later, as Celery's ``retry``; raises the exception that tells the worker so.

        The state RETRY is recorded before the message is published and not after, when the next run may have ended.
        """
        request = self.request
        if request.called_directly or request.is_eager or not throw or not self._records(request):
            return super().retry(args, kwargs, exc, throw, **options)
        self.record(request.id, exc or Retry(), _RETRY)
        try:
            return super().retry(args, kwargs, exc, throw, **options)
        except Retry:
            request.ignore_result = True
            raise
        except Reject as error:
            # The copy could not be published; Celery would drop the job now.
            raise Reject(error.reason, requeue=True) from error

    def _begin(self, request: Any, context: JobContext) -> None:
        """Skip a cancelled job; record that a job starts where its status or its starts are kept."""
        tracked = bool(request.get(TRACKED))
        if not self._records(request):
            return
        if tracked and self.recorded_state(request.id) == CANCELLED:
            context.log.info("job %s was cancelled: skipped", request.id, extra={"action": "skip_job"})
            raise CancelledIgnore(f"job {request.id} was cancelled")
        installed = installation.find(self.app)
        counts_here = speaks_amqp(self.app) and not request.is_eager
        if counts_here or (not self.track_started and (tracked or (installed is not None and installed.track))):
            meta = {"pid": request.get("pid"), "hostname": request.hostname, "attempts": context.losses + 1}
            self.record(request.id, meta, _STARTED)

    def _output(self, job: Job[Any], returned: Any) -> Any:
        payload = job.payload
        if returned is not None:
            try:
                payload.output = returned
            except ValidationError as error:
                expected = self.schema.output_type().__name__
                raise InvalidOutputError(
                    f"{self.name} returned {type(returned).__name__}, not {expected}", explain(error)
                ) from error
        return payload.output

    def _pause(self, retries: int) -> float:
        if not self.retry_backoff:
            return float(self.default_retry_delay)
        return float(
            get_exponential_backoff_interval(
                factor=int(max(1.0, float(self.retry_backoff))),
                retries=retries,
                maximum=int(getattr(self, "retry_backoff_max", 600)),
                full_jitter=bool(getattr(self, "retry_jitter", True)),
            )
        )

    @property
    def _parameters(self) -> Parameters:
        found = self.__dict__.get("_read_parameters")
        if found is None:
            function: Any = self._coroutine_function or getattr(self, "_orig_run", self.run)
            found = self._read_parameters = parameters_of(function, self.schema)
        return cast("Parameters", found)

    # --- records

    def _records(self, request: Any) -> bool:
        return not (request.ignore_result or self.ignore_result) and AppResultStore(self.app).configured

    def record(self, job_id: str, value: Any, state: str, request: Any = None) -> None:
        """Write a state of the running job to the result backend.

        Args:
            job_id: The job.
            value: Its result, or what belongs to the state.
            state: Celery's name of it.
            request: The job's, where this is not the thread that runs it.
        """
        self.backend.store_result(job_id, value, state, request=request or self.request)

    def record_put_back(self, request: Any, losses: int) -> None:
        """Write that a job whose start was recorded waits again, its worker having stopped; that start does not count."""
        if self._records(request) and self.started_attempts(request.id):
            self.backend.store_result(request.id, {"attempts": losses}, QUEUED, request=request)

    def recorded_state(self, job_id: str) -> str:
        """The state in the result backend, as it is now."""
        return str(self.backend.get_task_meta(job_id, cache=False).get("status"))

    def started_attempts(self, job_id: str) -> int | None:
        """How often work on a job that is delivered again began and did not end, by the result backend.

        None: there is none to tell. 0: it never began, or ended.
        """
        if self.ignore_result or not AppResultStore(self.app).configured:
            return None
        meta = self.backend.get_task_meta(job_id, cache=False)
        result = meta.get("result")
        if meta.get("status") not in (_STARTED, PROGRESS, QUEUED) or not isinstance(result, dict):
            return 0
        attempts = result.get("attempts", 1)
        return attempts if isinstance(attempts, int) else 1

    # --- the worker's side

    @property
    def shown_output(self) -> str:
        """What monitors and logs show of an output: its type, not its data."""
        return f"<{self.schema.output_type().__name__}>"

    @property
    def _orchestrator(self) -> Any:
        found = installation.find(self.app)
        if found is None:
            raise ConfigurationError(f"task {self.name!r}: call mindtrace_jobs.celery.install(app) first")
        return found.orchestrator

    @property
    def queue_name(self) -> str:
        """The queue its jobs are routed to."""
        return str(self._orchestrator.router.queue_for(self.name, self.schema.input_type()))

    def start_strategy(self, app: Any, consumer: Any, **kwargs: Any) -> Any:
        """Let this task's requests in a worker reach the worker's consumer.

        Raises:
            ConfigurationError: the worker runs greenlets, and the task is a coroutine function.
        """
        if self._coroutine_function is not None and getattr(consumer.pool, "is_green", False):
            raise ConfigurationError(
                f"task {self.name!r} is a coroutine function, whose event loop needs a thread; greenlets have none: use "
                "the pool threads, prefork or solo"
            )
        base = symbol_by_name(type(self).Request)
        self.Request = type(base.__name__, (base,), {"consumer": consumer})
        return super().start_strategy(app, consumer, **kwargs)


def _waiting(function: Any) -> Callable[..., Any]:
    """A method ``run`` that runs a coroutine function to its end."""

    @wraps(getattr(function, "__func__", function))
    def run(self: JobTask[Any, Any], *args: Any, **kwargs: Any) -> Any:
        assert self._coroutine_function is not None
        context: JobContext | None = self.request.get("job_context")
        stop = None if context is None else context.raise_if_asked
        return event_loop().run(self._coroutine_function(*args, **kwargs), stop)

    return run


def _now() -> datetime:
    return datetime.now(UTC)


def _aware(moment: Any) -> Any:
    """Celery takes naive times as UTC."""
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) and moment.tzinfo is None else moment


def schema_name(schema: type[JobSchema[Any, Any]]) -> str:
    """The name a schema class is registered under.

    Raises:
        ConfigurationError: it is registered under none.
    """
    name = schema.model_fields["name"].default
    if not isinstance(name, str) or registry.find_schema(name) is None:
        raise ConfigurationError(
            f"{schema.__name__} has no name of its own: a task needs a subclass of JobSchema with `name: str = '...'`"
        )
    return name
