"""Work on pictures of shelves."""

import time

from shop.celery import app
from shop.ledger import note
from shop.vision.models import ShelfInput, ShelfOutput, ShelfSchema

from mindtrace.jobs import RejectJob
from mindtrace_jobs.celery import JobContext, job_task


@job_task(app, ShelfSchema)
def look(input: ShelfInput, context: JobContext) -> ShelfOutput:
    if not input.image:
        raise RejectJob("no picture")
    time.sleep(input.seconds)  # the looking
    note(f"look {input.number} {look.request.hostname}")
    return ShelfOutput(labels=[input.image, "shelf"])


@app.task
def count(outputs: list[ShelfOutput]) -> int:
    return sum(len(output.labels) for output in outputs)
