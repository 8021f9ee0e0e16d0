"""This package, through its public interface."""

from __future__ import annotations

from _sides import DetectionInput, DetectionOutput, DetectionSchema

from _peers.place import WARM_UP, Place, Verb
from mindtrace.jobs import Consumer, Job, Orchestrator


def _orchestrator(place: Place) -> Orchestrator:
    return Orchestrator.from_url(place.url, client_options={"result_backend": place.results})


def _job(detection: dict[str, object]) -> Job[DetectionSchema]:
    return Job(payload=DetectionSchema(input=DetectionInput(**detection)))  # type: ignore[arg-type]


def publish(place: Place) -> None:
    with _orchestrator(place) as orchestrator:
        for detection in place.detections:
            orchestrator.publish_message(place.queue, _job(detection))
            place.watch.tick()


def submit(place: Place) -> None:
    with _orchestrator(place) as orchestrator:
        for detection in place.detections:
            orchestrator.submit(_job(detection), queue=place.queue)
            place.watch.tick()


def _consume(prefetch: int, *, tracked: bool) -> Verb:
    def consume(place: Place) -> None:
        def handle(_job: Job[DetectionSchema]) -> DetectionOutput:
            place.watch.tick()
            return DetectionOutput(objects=[])

        with _orchestrator(place) as orchestrator:
            jobs = [_job(detection) for detection in place.detections]
            if tracked:
                for job in jobs:
                    orchestrator.submit(job, queue=place.queue)
            else:
                orchestrator.publish_many(place.queue, jobs)
            consumer = Consumer(orchestrator, place.queue, handle, prefetch=prefetch)
            consumer.consume(num_messages=WARM_UP + place.jobs)

    return consume


VERBS: dict[str, Verb] = {
    "publish": publish,
    "submit": submit,
    "consume": _consume(1, tracked=False),
    "consume, 50 ready": _consume(50, tracked=False),
    "tracked": _consume(1, tracked=True),
    "tracked, 50 ready": _consume(50, tracked=True),
}
