"""An app made of the repository's celeryconfig.py, as its docker image makes one."""

from __future__ import annotations

from celery import Celery

from mindtrace_jobs.celery import install, job_task
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema

app = Celery("configured", set_as_current=False)
app.config_from_object("celeryconfig")
install(app)


@job_task(app, DetectionSchema)
def detect(input: DetectionInput) -> DetectionOutput:  # noqa: A002 - what it is
    return DetectionOutput(labels=[input.image])
