"""Typed jobs as Celery tasks, a dozen of them in as many states as there are, to be looked at in Flower.

Run it, in three terminals, in this folder:

    celery -A celery_flower worker -E --concurrency 2 -Q vbrain_jobs,detection_jobs
    celery -A celery_flower flower --tasks_columns=name,args,state,result,exception,runtime
    python celery_flower.py                                 (then open http://localhost:5555/tasks)

The environment variable BROKER names the broker, by default redis://localhost:6379/0.
"""

from __future__ import annotations

import os
import time

from celery import Celery
from jobs import TrainingInput, TrainingOutput, TrainingSchema

from mindtrace.jobs import Job, JobInput, JobOutput, JobSchema, Orchestrator, RejectJob, RetryJob
from mindtrace_jobs.celery import cancel, install, job_task

BROKER = os.environ.get("BROKER", "redis://localhost:6379/0")

app = Celery("celery_flower", broker=BROKER, backend=os.environ.get("RESULTS", BROKER))
app.conf.broker_connection_retry_on_startup = True
install(app)


class DetectionInput(JobInput):
    image: str


class DetectionOutput(JobOutput):
    labels: list[str]


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    name: str = "object_detection"


@job_task(app, DetectionSchema)
def detect(detection: DetectionInput) -> DetectionOutput:
    if not detection.image.endswith(".png"):
        raise RejectJob("only PNG images")
    if detection.image == "missing.png":
        raise RetryJob("the image is not there yet", delay=600)
    time.sleep(0.5)
    return DetectionOutput(labels=["cat"])


@job_task(app, TrainingSchema)
def train(training: TrainingInput) -> TrainingOutput:
    time.sleep(training.epochs)
    return TrainingOutput(accuracy=0.97, model_url="s3://trained")


def main() -> None:
    with Orchestrator.from_celery(app) as orchestrator:

        def submit_training(seconds: int) -> None:
            training = TrainingInput(model_path="/models/v1", epochs=seconds)
            orchestrator.submit(Job(payload=TrainingSchema(input=training)))

        # Both processes of the worker are busy while the next job waits, and is cancelled.
        submit_training(3)
        submit_training(4)
        cancel(app, detect.submit(DetectionInput(image="cancelled.png")).id)
        app.send_task("object_detection", kwargs={"image": "from-plain-celery.png"})
        handles = [detect.submit(DetectionInput(image=image)) for image in ("d.gif", "missing.png", "a.png", "b.png")]
        for handle in handles[2:]:
            handle.wait(timeout=60)
        # Nothing gets past these: they keep both processes, and the last two wait.
        for seconds in (600, 600, 1, 1):
            submit_training(seconds)


if __name__ == "__main__":
    main()
