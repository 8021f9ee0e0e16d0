"""Job, JobSchema, JobInput and JobOutput: what can be constructed, assigned and compared."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from mindtrace_jobs import errors
from mindtrace_jobs.jobs import RECEIVING, BackendType, ExecutionStatus, Job, JobInput, JobOutput, JobSchema


class Train(JobInput):
    model_path: str
    epochs: int = 1


class FineTune(Train):
    frozen_layers: int = 0


class Trained(JobOutput):
    accuracy: float


class Detected(JobOutput):
    objects: list[str]


class TrainSchema(JobSchema[Train, Trained]):
    name: str = "models_train"


class TagsSchema(JobSchema[Train, Trained]):
    name: str = "models_tags"
    tags: list[str] = []  # noqa: RUF012


class Forbidding(JobInput):
    model_config = ConfigDict(extra="forbid")
    x: int = 1


class Ignoring(JobInput):
    model_config = ConfigDict(extra="ignore")
    x: int = 1


def make_job(**fields: Any) -> Job[TrainSchema]:
    return Job(payload=TrainSchema(input=Train(model_path="/m")), **fields)


def bare_job() -> Job[Any]:
    return Job(payload=JobSchema(name="bare", input=Train(model_path="/m")))


def offences(error: pytest.ExceptionInfo[ValidationError]) -> list[tuple[str, str]]:
    return [(".".join(map(str, item["loc"])), item["type"]) for item in error.value.errors()]


def test_payload_and_entrypoint_are_enough() -> None:
    before = datetime.now(UTC)
    job = Job(payload=TrainSchema(input=Train(model_path="/m")), entrypoint="train.py")
    assert UUID(job.id).version == 4
    assert job.name == "models_train"
    assert job.status is ExecutionStatus.QUEUED
    assert before <= job.created_at <= datetime.now(UTC)
    assert job.created_at.utcoffset() == timedelta(0)
    assert (job.priority, job.metadata, job.error, job.started_at, job.completed_at) == (None, {}, None, None, None)
    assert Job(payload=job.payload).id != job.id
    assert Job(payload=job.payload).entrypoint is None


def test_the_name_given_wins_over_the_schemas() -> None:
    assert make_job(name="nightly").name == "nightly"


@pytest.mark.parametrize(
    ("fields", "offence"),
    [
        ({"priority": 10}, "less_than_equal"),
        ({"priority": -1}, "greater_than_equal"),
        ({"id": ""}, "string_too_short"),
        ({"id": "x" * 256}, "string_too_long"),
        ({"name": ""}, "string_too_short"),
        ({"metadata": {"when": datetime.now(UTC)}}, "invalid-json-value"),
        ({"status": "done"}, "enum"),
        ({"created_at": datetime(2026, 1, 1)}, "timezone_aware"),  # noqa: DTZ001
        ({"bogus": 1}, "extra_forbidden"),
    ],
)
def test_a_wrong_field_of_a_job_is_refused(fields: dict[str, Any], offence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_job(**fields)
    assert offences(caught)[0][1] == offence


def test_priorities_run_from_zero_to_nine() -> None:
    assert [make_job(priority=priority).priority for priority in (0, 9, None)] == [0, 9, None]


def test_the_lists_of_statuses_and_backends_are_the_documented_ones() -> None:
    assert [*ExecutionStatus] == ["queued", "running", "completed", "failed", "cancelled"]
    assert [status for status in ExecutionStatus if status.final] == ["completed", "failed", "cancelled"]
    assert [*BackendType] == ["local", "redis", "rabbitmq"]


def test_a_typed_output_can_be_assigned() -> None:
    job = make_job()
    job.payload.output = Trained(accuracy=0.9)
    job.status = ExecutionStatus.COMPLETED
    assert (job.payload.output.accuracy, job.status) == (0.9, "completed")


@pytest.mark.parametrize("output", [Detected(objects=[]), {"accuracy": "high"}, 5, "done", Train(model_path="/m")])
def test_a_wrong_output_is_refused_when_it_is_assigned(output: Any) -> None:
    job = make_job()
    with pytest.raises(ValidationError):
        job.payload.output = output
    assert job.payload.output is None


@pytest.mark.parametrize("output", [{"accuracy": 0.9}, {}, 5, Train(model_path="/m")])
def test_a_bare_schema_takes_instances_only(output: Any) -> None:
    job = bare_job()
    with pytest.raises(ValidationError):
        job.payload.output = output
    with pytest.raises(ValidationError):
        JobSchema.model_validate({"name": "bare", "input": output if isinstance(output, dict) else 5})
    job.payload.output = Trained(accuracy=0.5)
    assert type(job.payload.output) is Trained


@pytest.mark.parametrize(
    ("name", "value"),
    [("status", "done"), ("priority", 11), ("id", ""), ("payload", None), ("metadata", [1]), ("created_at", "soon")],
)
def test_a_wrong_assignment_to_a_job_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    job = make_job()
    before = getattr(job, name)
    with pytest.raises(ValidationError):
        setattr(job, name, value)
    assert getattr(job, name) == before


def test_assigning_to_a_field_that_does_not_exist_is_refused() -> None:
    job = make_job()
    models: list[Any] = [job, job.payload, job.payload.input]
    for model in models:
        with pytest.raises(ValueError, match="has no field 'bogus'"):
            model.bogus = 1


def test_assigning_to_an_input_is_validated() -> None:
    job = make_job()
    job.payload.input.epochs = 7
    with pytest.raises(ValidationError):
        job.payload.input.epochs = "many"  # type: ignore[assignment]
    assert job.payload.input.epochs == 7


def test_a_subclass_of_the_declared_input_keeps_its_own_fields() -> None:
    job = Job(payload=TrainSchema(input=FineTune(model_path="/m", frozen_layers=3)))
    assert type(job.payload.input) is FineTune
    assert job.model_dump()["payload"]["input"] == {"model_path": "/m", "epochs": 1, "frozen_layers": 3}
    assert bare_job().model_dump()["payload"]["input"] == {"model_path": "/m", "epochs": 1}


def test_an_input_of_the_wrong_class_is_refused() -> None:
    with pytest.raises(ValidationError):
        TrainSchema(input=Forbidding())  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        TrainSchema(input=Trained(accuracy=1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build", [lambda raw: Train(**raw), Train.model_validate, lambda raw: TrainSchema(input=raw).input]
)
def test_an_unknown_field_is_refused_when_constructed(build: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        build({"model_path": "/m", "epoch": 3})
    (place, kind), *more = offences(caught)
    assert (place.rpartition(".")[2], kind, more) == ("epoch", "extra_forbidden", [])


def test_an_unknown_field_is_kept_when_received() -> None:
    kept = Train.model_validate({"model_path": "/m", "invented_later": 3}, context=RECEIVING)
    assert kept.model_extra == {"invented_later": 3}
    assert kept.model_dump() == {"model_path": "/m", "epochs": 1, "invented_later": 3}


def test_a_schema_that_says_what_happens_to_unknown_fields_is_obeyed() -> None:
    with pytest.raises(ValidationError):
        Forbidding.model_validate({"y": 1}, context=RECEIVING)
    assert Ignoring.model_validate({"y": 1}, context=RECEIVING).model_dump() == {"x": 1}
    assert Ignoring(y=1).model_dump() == {"x": 1}  # type: ignore[call-arg]


def test_the_legacy_fields_are_refused_with_their_replacements() -> None:
    payload = TrainSchema(input=Train(model_path="/m"))
    with pytest.raises(ValidationError) as caught:
        Job(job_schema=payload, backend_type="redis", queue_name="vbrain_jobs", routing_key="training")  # type: ignore[call-arg]
    text = str(caught.value)
    for word in (
        "job_schema",
        "payload=",
        "backend_type",
        "RedisClient",
        "queue_name",
        "publish_message",
        "routing_key",
    ):
        assert word in text
    assert "JobRouter" in text
    assert "from_legacy" in text


def test_one_legacy_field_beside_a_payload_is_refused_too() -> None:
    with pytest.raises(ValidationError, match="queue_name"):
        make_job(queue_name="q")


def test_a_legacy_job_is_converted_with_a_warning() -> None:
    legacy = {
        "id": "old",
        "job_schema": {"name": "models_train", "input": {"model_path": "/m"}},
        "backend_type": "redis",
        "queue_name": "vbrain_jobs",
        "routing_key": "training",
        "created_at": "2026-01-02T03:04:05",
    }
    with pytest.warns(DeprecationWarning, match="legacy"):
        job = Job[TrainSchema].from_legacy(legacy)
    assert (job.id, job.payload.input.model_path) == ("old", "/m")
    assert job.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with pytest.warns(DeprecationWarning, match="legacy"):
        assert Job.from_legacy(legacy).payload == job.payload
    with pytest.warns(DeprecationWarning, match="legacy"):
        same = Job.from_legacy({"job_schema": TrainSchema(input=Train(model_path="/m"))})
    assert same.payload.input == Train(model_path="/m")


def test_a_legacy_job_with_a_time_that_is_none_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="legacy"), pytest.raises(ValidationError, match="created_at"):
        Job.from_legacy({"job_schema": TrainSchema(input=Train(model_path="/m")), "created_at": "yesterday"})


def test_the_types_of_a_schema_can_be_asked_for() -> None:
    assert (TrainSchema.input_type(), TrainSchema.output_type()) == (Train, Trained)
    assert (JobSchema.input_type(), JobSchema.output_type()) == (JobInput, JobOutput)
    assert JobSchema[Train, Trained].output_type() is Trained


def test_a_typed_job_and_an_untyped_one_of_the_same_payload_are_equal() -> None:
    job = make_job()
    assert Job[TrainSchema].model_validate(dict(job)) == job


def test_jobs_can_be_copied_and_pickled() -> None:
    job = make_job(metadata={"a": [1]})
    for twin in (job.model_copy(deep=True), copy.deepcopy(job), pickle.loads(pickle.dumps(job))):
        assert twin == job
        assert type(twin.payload.input) is Train


def test_a_job_survives_pydantics_own_json() -> None:
    job = make_job(priority=2)
    assert Job[TrainSchema].model_validate_json(job.model_dump_json()) == job


def test_pydantics_own_dump_leaves_out_no_field_of_any_subclass() -> None:
    payload = TagsSchema(input=FineTune(model_path="/m", frozen_layers=2), tags=["a"])
    for job in (Job(payload=payload), Job[TagsSchema](payload=payload)):
        assert job.model_dump()["payload"] == {
            "name": "models_tags",
            "input": {"model_path": "/m", "epochs": 1, "frozen_layers": 2},
            "output": None,
            "tags": ["a"],
        }


def test_every_error_is_in_one_tree_and_survives_pickling() -> None:
    found = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    classes: list[type[errors.JobsError]] = [cls for cls in found if issubclass(cls, errors.JobsError)]
    assert classes == found
    for cls in classes:
        twin = pickle.loads(pickle.dumps(cls("what and what to do")))
        assert (type(twin), str(twin), twin.retryable) == (cls, "what and what to do", cls.retryable)
    rich = errors.InvalidPayloadError("bad", [{"field": "x", "message": "no", "type": "t"}])
    assert pickle.loads(pickle.dumps(rich)).errors == rich.errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.QueueNotFoundError, KeyError),
        (errors.JobNotFoundError, KeyError),
        (errors.BrokerUnavailableError, ConnectionError),
        (errors.AccessDeniedError, PermissionError),
        (errors.ResultTimeoutError, TimeoutError),
        (errors.ConfigurationError, ValueError),
        (errors.DecodeError, ValueError),
        (errors.UnknownTypeError, LookupError),
        (errors.RegistrationError, TypeError),
        (errors.UnsupportedError, NotImplementedError),
    ],
)
def test_an_error_is_also_the_builtin_that_fits(error: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match=r"^no such thing$"):
        raise error("no such thing")


def test_models_that_are_no_job_models_are_left_alone() -> None:
    class Theirs(BaseModel):
        x: int

    assert Theirs.model_validate({"x": 1, "y": 2}).model_dump() == {"x": 1}
