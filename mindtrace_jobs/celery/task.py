"""JobTask: a kind of job as a Celery task."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cache, wraps
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar, cast

from celery import Task
from celery.exceptions import Reject, Retry
from celery.utils.imports import symbol_by_name

from mindtrace_jobs import registry
from mindtrace_jobs._callers import caller_level
from mindtrace_jobs._times import aware
from mindtrace_jobs.celery import installation
from mindtrace_jobs.celery.arguments import holds_output, job_from
from mindtrace_jobs.celery.bases import JOB_OPTION, adopt, plain_data
from mindtrace_jobs.celery.errors import RetriesExceededError
from mindtrace_jobs.celery.event_loop import event_loop
from mindtrace_jobs.celery.policy import policy_from
from mindtrace_jobs.celery.publish import CONFIRM_TIMEOUT, confirming_producer
from mindtrace_jobs.celery.records import ENTERED, EXHAUSTED, RECORDED, RUNNING, task_backend
from mindtrace_jobs.celery.running import RunningJob, run_eagerly
from mindtrace_jobs.errors import ConfigurationError, InvalidInputError, PublishError
from mindtrace_jobs.execution.context import JobContext
from mindtrace_jobs.execution.handlers import Parameters, parameters_of
from mindtrace_jobs.execution.lifecycle import Lifecycle
from mindtrace_jobs.execution.retry import RetryPolicy
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.results import JobHandle, ResultStore
from mindtrace_jobs.transports.contract import DELAY_PROPERTY
from mindtrace_jobs.wire import headers as wire
from mindtrace_jobs.wire.message import iso_moment
from mindtrace_jobs.wire.signing import Signing

InT = TypeVar("InT", bound=JobInput)
OutT = TypeVar("OutT", bound=JobOutput)

#: Options of Celery's that ``submit`` hands on to ``apply_async``.
_OPTIONS = frozenset(
    {
        "add_to_parent",
        "chain",
        "chord",
        "compression",
        "connection",
        "countdown",
        "declare",
        "delivery_mode",
        "exchange",
        "group_id",
        "group_index",
        "headers",
        "ignore_result",
        "link",
        "link_error",
        "mandatory",
        "parent_id",
        "priority",
        "producer",
        "reply_to",
        "retry",
        "retry_policy",
        "root_id",
        "routing_key",
        "serializer",
        "shadow",
        "soft_time_limit",
        "stamped_headers",
        "task_id",
        "time_limit",
    }
)


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
    #: How its jobs are retried; None: by the default policy, and ``job_retry_options``.
    job_retry: RetryPolicy | None = None
    #: Those of Celery's options that change the default policy.
    job_retry_options: Mapping[str, Any] = MappingProxyType({})
    #: Whether the start of every job is recorded; None: as the app's ``task_track_started`` says.
    job_track_started: bool | None = None

    serializer = "pydantic"
    acks_late = True
    reject_on_worker_lost = True
    acks_on_failure = True
    acks_on_timeout = True
    #: Another way to handle a lost worker, which would not count it.
    retry_on_worker_lost = False
    store_eager_result = True
    #: Starts are recorded by the lifecycle: Celery's own way would overwrite that a job is cancelled.
    track_started = False
    #: Arguments are checked against the schema, not against the function.
    typing = False
    MaxRetriesExceededError = RetriesExceededError
    Request: Any = "mindtrace_jobs.celery.worker.request:JobRequest"

    #: Whether a base class looks at arguments where tasks are published: it is shown them as JSON values.
    shows_plain_data: ClassVar[bool] = False
    #: The ``__call__`` of a subclass or of another base class, which runs the job function in its own way.
    _own_call: ClassVar[Callable[..., Any] | None] = None
    #: What its function asks for, once it is known.
    _read_parameters: Parameters | None = None
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
        adopt(cls, JobTask)
        schema = cls.__dict__.get("schema")
        if schema is not None and cls.__dict__.get("name") is None:
            cls.name = schema_name(schema)

    # --- publishing

    def submit(
        self,
        job: InT | Job[Any],
        *,
        queue: str | None = None,
        eta: datetime | None = None,
        delay: float | timedelta | None = None,
        expires: datetime | float | timedelta | None = None,
        **options: Any,
    ) -> JobHandle[OutT]:
        """Publish a job, recorded as queued, and return a handle to its status and typed result.

        Args:
            job: The input, or a whole Job.
            queue: The queue; default the one it is routed to.
            eta, delay: Aware time, or seconds from now, before which it must not run.
            expires: Aware time, or seconds from now, after which it must not run but is dead-lettered.
            options: Further ones of Celery's ``apply_async``, and of the task's own if it has one: priority, link,
                time_limit, task_id, ...

        Raises:
            TypeError: an option that Celery does not know.
            PublishError: the task's own ``apply_async`` did not publish it.
            ConfigurationError: both ``eta`` and ``delay``, or a time that is none; or as ``apply_async``.
            EncodeError: a value in it would not come back as it went in.
            InvalidInputError: it does not fit the schema.
            kombu.exceptions.OperationalError: the broker did not take it.
        """
        unknown = sorted(options.keys() - _OPTIONS)
        if unknown and not self.shows_plain_data:
            raise TypeError(
                f"submit() got an unexpected option {unknown[0]!r}: Celery's apply_async has none of that name"
            )
        if eta is not None and delay is not None:
            raise ConfigurationError("pass `eta` or `delay`, not both")
        made = job_from([job], {}, self.schema, options.pop("task_id", None))
        if queue is not None:
            options["queue"] = queue
        if expires is not None:
            options["expires"] = iso_moment("expires", expires)
        priority = options.get("priority", made.priority)
        if priority and not self.app.conf.task_always_eager:
            target = options.get("queue") or self.queue_name
            self._orchestrator.client.warn_of_priority(priority, str(getattr(target, "name", target)))
        moment = iso_moment("eta", eta) or iso_moment("delay", delay)
        if moment is not None:
            options.update(self._held_until(datetime.fromisoformat(moment), priority, options))
        if options.get("ignore_result", self.ignore_result):
            return self._submit_untracked(made, options)
        orchestrator = self._orchestrator
        if orchestrator.results.configured:
            options["headers"] = {**(options.get("headers") or {}), wire.TRACKED: True}
        try:
            orchestrator.publishing.submit(made, lambda: self._publish(made, options))
        except _AnsweredError as answer:
            found = answer.job_id
            if found is None:
                raise PublishError(f"{answer}: job {made.id} was not published", {made.id: str(answer)}) from None
            return JobHandle(found, orchestrator.results)
        return JobHandle(made.id, orchestrator.results)

    def _publish(self, job: Job[Any], options: dict[str, Any]) -> None:
        result = self.apply_async((job,), **options)
        job_id = getattr(result, "id", None)
        if job_id != job.id:
            # A base class has decided that it need not be published, and names the job that is there already, or none.
            raise _AnsweredError(f"{type(self).__name__}.apply_async answered {result!r:.80}", job_id)

    def _submit_untracked(self, job: Job[Any], options: dict[str, Any]) -> JobHandle[OutT]:
        absent = f"task {self.name!r} ignores results (ignore_result=True): nobody records how job {job.id} ends"
        warnings.warn(
            f"{absent}; call delay() or apply_async() where no handle is needed",
            RuntimeWarning,
            stacklevel=caller_level(),
        )
        self.apply_async((job,), **options)
        return JobHandle(job.id, ResultStore(None, absent=absent))

    def _held_until(self, moment: datetime, priority: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that have the broker hold a job back: who receives it early could only keep others from it."""
        seconds = (moment - datetime.now(UTC)).total_seconds()
        held: dict[str, Any] = {"eta": moment}
        if seconds <= 0 or options.get("exchange"):
            return held
        target = options.get("queue") or self.queue_name
        route = self._orchestrator.client.delay_route(str(getattr(target, "name", target)), seconds, priority or 0)
        if route is None:
            return {**held, DELAY_PROPERTY: seconds}
        exchange, routing_key = route
        return {**held, "exchange": exchange, "routing_key": routing_key, "declare": []}

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
            ConfigurationError: the app accepts signed messages only, and this one cannot be signed.
        """
        made = options.pop(JOB_OPTION, None)
        sent: tuple[Any, ...] = tuple(args or ()) if made is None else (made,)
        named = dict(kwargs or {})
        queued_at = datetime.now(UTC)
        try:
            job = job_from(sent, named, self.schema, task_id)
        except InvalidInputError:
            if not holds_output(sent):
                raise
        else:
            sent, named, task_id, queued_at = (job,), {}, job.id, job.created_at
            options["argsrepr"] = f"(<{self.schema.__name__} job {job.id}>,)"
            options["kwargsrepr"] = "{}"
            if job.priority is not None:
                options.setdefault("priority", job.priority)
        headers = {
            name: value
            for name, value in (options.get("headers") or {}).items()
            if name not in wire.OF_DELIVERY or name == wire.LOSSES
        }
        headers.setdefault(wire.QUEUED_AT, queued_at.isoformat())
        expires = options.get("expires", self.expires)
        options["expires"] = None
        if expires is not None:
            # Not as Celery's option, which has RabbitMQ delete the job without a word when its time is over. Celery takes
            # naive times as UTC.
            expires = aware(expires) if isinstance(expires, datetime) else expires
            headers["expires"] = expires if isinstance(expires, str) else iso_moment("expires", expires)
        options["headers"] = headers
        options.setdefault("delivery_mode", 2)
        signing = Signing(self.app)
        if signing.required:
            options["serializer"] = signing.serializer(options.get("serializer"))
        with ExitStack() as stack:
            if producer is None and options.get("connection") is None and not self.app.conf.task_always_eager:
                producer = stack.enter_context(confirming_producer(self.app))
                if producer is not None:
                    options.setdefault("confirm_timeout", CONFIRM_TIMEOUT)
            # By keyword: a class behind this one may take its own way with them.
            return super().apply_async(
                args=sent,
                kwargs=named,
                task_id=task_id,
                producer=producer,
                link=link,
                link_error=link_error,
                shadow=shadow,
                **options,
            )

    # --- running

    def __call__(self, *args: Any, **kwargs: Any) -> OutT:
        """Run: with a message's arguments in a worker, with the function's own when called directly."""
        request = self.request
        if request.called_directly or request.get(ENTERED):
            return cast("OutT", self._call(*args, **kwargs))
        setattr(request, ENTERED, True)
        if request.is_eager:
            return cast("OutT", run_eagerly(self, request, args, kwargs))
        lifecycle = self._lifecycle(request.hostname)
        records = self.keeps_record(request) and lifecycle.results.configured
        running = RunningJob(self, request, lifecycle, records=records, starts=records and self.tracks_start(request))
        return cast("OutT", running.work(args[0]))

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        parameters = self._parameters
        missing = {name for name in (parameters.job, parameters.context) if name} - kwargs.keys()
        if missing and len(args) == 1 and isinstance(args[0], JobInput):
            job = job_from(args, {}, self.schema, None)
            filled = parameters.extras(job, JobContext(job))
            kwargs = {**{name: filled[name] for name in missing}, **kwargs}
        if self._coroutine_function is not None and self.request.called_directly:
            return self._coroutine_function(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def call(self, job: Job[Any], context: JobContext) -> Any:
        """Call the job function with what its parameters ask for."""
        extras = self._parameters.extras(job, context)
        if self._own_call is not None:
            return self._own_call(self, job.payload.input, **extras)
        return self.run(job.payload.input, **extras)

    def shown(self, job: Job[Any]) -> list[Any]:
        """The arguments of a job as hooks such as ``on_success`` see them: the job, or what ``apply_async`` saw."""
        return plain_data(job) if self.shows_plain_data else [job]

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
        running: RunningJob | None = request.get(RUNNING)
        if args is None and kwargs is None and running is not None and running.context is not None:
            args, kwargs = (running.context.job,), {}
        if request.called_directly or request.is_eager or not throw or not self.keeps_record(request):
            return super().retry(args, kwargs, exc, throw, **options)
        self.backend.store_result(request.id, exc or Retry(), "RETRY", request=request)
        try:
            return super().retry(args, kwargs, exc, throw, **options)
        except Retry:
            setattr(request, RECORDED, True)
            raise
        except Reject as error:
            # The copy could not be published; Celery would drop the job now.
            raise Reject(error.reason, requeue=True) from error
        except Exception:
            setattr(request, EXHAUSTED, True)
            raise

    @property
    def policy(self) -> RetryPolicy:
        """How its jobs are retried."""
        if self.job_retry is not None:
            return self.job_retry
        return policy_from(self.job_retry_options, _default_policy(installation.of(self.app).max_worker_losses))

    @property
    def _parameters(self) -> Parameters:
        if self._read_parameters is None:
            function: Any = self._coroutine_function or self.run
            self._read_parameters = parameters_of(function, self.schema)
        return self._read_parameters

    # --- records

    @property
    def backend(self) -> Any:
        """The result backend, in which its jobs have their records."""
        return task_backend(self._backend or self.app.backend)

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    def keeps_record(self, request: Any) -> bool:
        """Whether the end of this run is recorded, if the app keeps results."""
        return not (request.ignore_result or self.ignore_result)

    def tracks_start(self, request: Any) -> bool:
        """Whether the start of this run is recorded, if its end is."""
        if request.get(wire.TRACKED):
            return True
        installed = installation.find(self.app)
        chosen = self.job_track_started
        return bool(
            (installed is not None and installed.track)
            or (self.app.conf.task_track_started if chosen is None else chosen)
        )

    def _lifecycle(self, worker: str) -> Lifecycle:
        """What records and settles its jobs in this process: made once, since a worker's settings do not change."""
        made: tuple[tuple[int, str], Lifecycle] | None = self.__dict__.get("_made_lifecycle")
        if made is None or made[0] != (os.getpid(), worker):
            made = ((os.getpid(), worker), installation.of(self.app).lifecycle(worker, reported=True))
            self.__dict__["_made_lifecycle"] = made
        return made[1]

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
        from mindtrace_jobs.celery.worker.messages import undecoded

        if self._coroutine_function is not None and getattr(consumer.pool, "is_green", False):
            raise ConfigurationError(
                f"task {self.name!r} is a coroutine function, whose event loop needs a thread; greenlets have none: use "
                "the pool threads, prefork or solo"
            )
        base = symbol_by_name(type(self).Request)
        self.Request = type(base.__name__, (base,), {"consumer": consumer})
        return undecoded(super().start_strategy(app, consumer, **kwargs), consumer.may_start)


@cache
def _default_policy(max_worker_losses: int) -> RetryPolicy:
    """The policy of tasks that name none; each job asks for it several times."""
    return RetryPolicy(max_worker_losses=max_worker_losses)


class _AnsweredError(Exception):
    """A task's own ``apply_async`` published nothing, and answered with another job, or with none."""

    def __init__(self, text: str, job_id: str | None) -> None:
        super().__init__(text)
        self.job_id = job_id


def _waiting(function: Any) -> Callable[..., Any]:
    """A method ``run`` that runs a coroutine function to its end."""

    @wraps(getattr(function, "__func__", function))
    def run(self: JobTask[Any, Any], *args: Any, **kwargs: Any) -> Any:
        assert self._coroutine_function is not None
        running: RunningJob | None = self.request.get(RUNNING)
        context = None if running is None else running.context
        stop = None if context is None else context.raise_if_cancelled
        return event_loop().run(self._coroutine_function(*args, **kwargs), stop)

    return run


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
