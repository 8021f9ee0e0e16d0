"""What a schema's name and a model's tag promise the reader."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import Field

from mindtrace_jobs.errors import EncodeError, InvalidPayloadError, UnknownTypeError
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.registry import register_model
from mindtrace_jobs.serializer import decode_job, dumps, encode_job, loads, parse, to_json
from tests.jobs.everything import Circle, Mood, Shape, account

TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))


class Holder(JobInput):
    number: int = 1
    shape: Shape = Shape()


class Sub(str):  # noqa: SLOT000
    pass


class Animal(JobInput):
    name: str


class Bird(Animal):
    wings: int = 2


class Seen(JobOutput):
    place: str


class AnimalSchema(JobSchema[Animal, Seen]):
    name: str = "serializer_contract_animal"


def test_a_subclass_that_the_reader_does_not_know_is_not_read_as_its_base() -> None:
    tree = encode_job(Job(payload=AnimalSchema(input=Bird(name="owl"))))
    text = to_json(tree).replace(b":Bird", b":Raven")
    with pytest.raises(UnknownTypeError, match="Raven"):
        loads(text)


def test_the_declared_class_is_found_by_the_schemas_name_wherever_it_was_defined() -> None:
    job = Job(payload=AnimalSchema(input=Animal(name="owl"), output=Seen(place="barn")))
    text = to_json(encode_job(job)).replace(b'"tests.jobs.test_serializer_contract:', b'"__main__:')
    assert loads(text) == job


def test_a_tag_of_an_unrelated_class_is_not_taken_for_the_declared_one() -> None:
    text = to_json(encode_job(Job(payload=AnimalSchema(input=Bird(name="owl"))))).replace(b":Bird", b":Holder")
    with pytest.raises(InvalidPayloadError, match="not a Animal"):
        loads(text)


def test_a_bare_schema_whose_name_promises_another_input_is_refused() -> None:
    with pytest.raises(EncodeError, match="takes Animal"):
        encode_job(Job(payload=JobSchema(name="serializer_contract_animal", input=Holder())))
    with pytest.raises(EncodeError, match="takes Seen"):
        encode_job(Job(payload=JobSchema(name="serializer_contract_animal", input=Bird(name="a"), output=Other())))


class Other(JobOutput):
    pass


def test_a_registered_schema_under_a_strange_name_is_refused() -> None:
    with pytest.raises(EncodeError, match="registered as"):
        encode_job(Job(payload=AnimalSchema(name="something_else", input=Animal(name="owl"))))


class Wide(JobSchema[Animal, Seen]):
    name: str = "serializer_contract_wide"
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    shape: Shape = Shape()
    hidden: Any = Field(default=None, exclude=True)


def test_the_fields_a_schema_adds_come_back_too() -> None:
    job = Job(payload=Wide(input=Bird(name="owl"), since=TWICE, shape=Circle(raw=b"\xff"), hidden={1: b"\xfe"}))
    back = decode_job(parse(to_json(encode_job(job)))["__value__"])
    assert account(back) == account(job)


def test_what_a_schema_adds_is_refused_if_it_would_change() -> None:
    with pytest.raises(EncodeError):
        encode_job(Job(payload=Wide(input=Animal(name="owl"), hidden=Mood.GOOD)))


def test_a_class_defined_again_is_not_taken_for_the_old_one() -> None:
    def define() -> type[JobInput]:
        class Cell(JobInput):
            x: int = 1

        return Cell

    old, new = define(), define()
    assert type(loads(dumps({"v": new()}))["v"]) is new
    with pytest.raises(EncodeError, match="defined again"):
        dumps({"v": old()})


def test_a_job_made_without_validation_is_refused() -> None:
    whole = Job(payload=AnimalSchema(input=Animal(name="owl")))
    for update in (
        {"id": 5},
        {"priority": 12},
        {"name": ""},
        {"status": "queued"},
        {"created_at": "now"},
        {"payload": 1},
    ):
        with pytest.raises(EncodeError, match="job"):
            encode_job(whole.model_copy(update=update))
    with pytest.raises(EncodeError, match="lacks fields"):
        encode_job(Job.model_construct(id="a"))


@pytest.mark.parametrize("value", [datetime(2026, 1, 1, tzinfo=UTC), (1,), b"x", {1: 2}, Mood.GOOD, Sub("x"), Circle()])
def test_metadata_that_was_changed_into_something_not_json_is_refused(value: Any) -> None:
    job = Job(payload=AnimalSchema(input=Animal(name="owl")))
    job.metadata["value"] = value
    with pytest.raises(EncodeError, match="metadata"):
        encode_job(job)


def test_a_subclass_of_job_is_refused_with_the_remedy() -> None:
    class MyJob(Job[AnimalSchema]):
        more: int = 1

    with pytest.raises(EncodeError, match="metadata"):
        encode_job(MyJob(payload=AnimalSchema(input=Animal(name="owl"))))


def test_registering_a_model_is_all_it_takes_for_a_field_of_its_base() -> None:
    class Square(Shape):
        side: float = 1.0

    value = Holder(shape=Square(side=2))
    with pytest.raises(EncodeError):
        dumps(value)
    register_model(Square, "serializer-types-square")
    assert account(loads(dumps({"v": value}))) == account({"v": value})
