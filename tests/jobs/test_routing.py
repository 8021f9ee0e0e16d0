"""Which queue a job goes to: rules by name, then by input type, then the default; also as Celery's own router."""

from __future__ import annotations

import re
from typing import Any

import celery
import pytest

from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.jobs import Job, JobInput, JobOutput, JobSchema
from mindtrace_jobs.routing import JobRouter


class Image(JobInput):
    url: str = ""


class Tile(Image):
    pass


class Sound(JobInput):
    pass


class Done(JobOutput):
    pass


class ImageSchema(JobSchema[Image, Done]):
    name: str = "routing_image"


class TileSchema(JobSchema[Tile, Done]):
    name: str = "routing_tile"


class VBrainSchema(JobSchema[Sound, Done]):
    name: str = "routing_vbrain_sound"


def job(name: str, value: JobInput | None = None) -> Job[Any]:
    return Job(payload=JobSchema(name=name, input=value or Image()))


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("vbrain_training", "vbrain_jobs"),
        ("my_vbrain", "vbrain_jobs"),
        ("object_detection", "detection_jobs"),
        ("vbrain_detection", "vbrain_jobs"),
        ("VBrain", "default_jobs"),
        ("anything else", "default_jobs"),
    ],
)
def test_the_documented_rules_are_the_defaults(name: str, queue: str) -> None:
    assert JobRouter().route(job(name)) == queue


def test_the_jobs_name_counts_and_not_its_schemas() -> None:
    routed = Job(payload=JobSchema(name="object_detection", input=Image()), name="vbrain_nightly")
    assert JobRouter().route(routed) == "vbrain_jobs"


def test_the_first_rule_that_matches_wins_and_a_name_wins_over_a_type() -> None:
    router = JobRouter([("a*", "first"), ("ab*", "second"), (re.compile(r"z\d"), "digits")], {Image: "images"})
    assert [router.route(job(name)) for name in ("abc", "xz3", "z3x", "zx")] == ["first", "digits", "digits", "images"]
    router.add_rule("zx", "late")
    assert router.route(job("zx")) == "late"


def test_an_input_type_without_a_rule_uses_its_nearest_base() -> None:
    router = JobRouter(types={Image: "images", JobInput: "inputs"})
    assert router.route(job("x", Tile())) == "images"
    assert router.route(job("x", Sound())) == "inputs"
    router.add_type(Tile, "tiles")
    assert (router.route(job("x", Tile())), router.route(job("x", Image()))) == ("tiles", "images")


def test_without_a_default_a_job_nothing_matches_is_an_error_that_names_it() -> None:
    router = JobRouter(default=None)
    with pytest.raises(ConfigurationError, match="'lonely'"):
        router.route(job("lonely"))
    assert router.route(job("vbrain")) == "vbrain_jobs"


def test_a_worker_is_told_every_queue_its_inputs_may_arrive_on() -> None:
    router = JobRouter([("routing_image", "images")], {Tile: "tiles"}, default="rest")
    assert router.queues_for(Image) == ["images", "tiles"]
    assert router.queues_for(Tile) == ["tiles"]
    assert router.queues_for(Sound) == ["rest"]
    assert JobRouter().queues_for(Sound) == ["vbrain_jobs"]


def test_a_worker_of_a_base_is_told_the_queues_of_subclasses_that_have_no_schema() -> None:
    class Frame(Image):
        pass

    assert JobRouter(types={Frame: "frames"}).queues_for(Image) == ["default_jobs", "frames"]


def test_a_worker_of_an_input_without_a_schema_is_told_the_default() -> None:
    class Nobody(JobInput):
        pass

    assert JobRouter().queues_for(Nobody) == ["default_jobs"]
    assert JobRouter(default=None).queues_for(Nobody) == []
    assert JobRouter(types={Nobody: "nobody"}).queues_for(Nobody) == ["nobody"]


@pytest.mark.parametrize("rules", [{"*vbrain*": "q"}, ["*vbrain*"], [("a", "b", "c")], [(None, "q")], 5])
def test_rules_that_are_no_pairs_are_an_error(rules: Any) -> None:
    with pytest.raises(ConfigurationError):
        JobRouter(rules)


def routed(app: celery.Celery, name: str) -> Any:
    return app.amqp.router.route({}, name, args=(), kwargs={})["queue"]


def test_it_is_a_celery_router_for_registered_schemas_only() -> None:
    app = celery.Celery("tests", broker="memory://", set_as_current=False)
    app.conf.task_routes = [JobRouter(types={Image: "images"}), {"their.*": {"queue": "theirs"}}]
    assert routed(app, "routing_image").name == "images"
    assert routed(app, "routing_tile").name == "images"
    assert routed(app, "routing_vbrain_sound").name == "vbrain_jobs"
    assert routed(app, "their.task").name == "theirs"
    assert routed(app, "their_detection").name == app.conf.task_default_queue
