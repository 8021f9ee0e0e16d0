"""The app of the Celery workers; the environment variable LOSS_OPTIONS says, as JSON, where and how they work."""

from __future__ import annotations

import json
import os
from functools import cache

from celery import Celery

from mindtrace_jobs.celery import install, job_task
from mindtrace_jobs.testing.models import ImageInput, ImageOutput, ImageSchema
from tests.jobs.loss.plan import QUEUE
from tests.jobs.loss.worker import recorder

_options = json.loads(os.environ["LOSS_OPTIONS"])

app = Celery("loss", broker=_options["url"], set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_default_queue=QUEUE,
    worker_prefetch_multiplier=_options["prefetch"],
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
if not _options["stock"]:
    # A job may be at work at many kills of this test.
    install(app, lease=_options["lease"], max_worker_losses=1_000_000)
elif _options["url"].startswith("redis"):
    app.conf.broker_transport_options = {
        "visibility_timeout": _options["lease"],
        # By default it looks every 100 seconds.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }


# Opened where the work is done: in a prefork child its own.
_recorder = cache(recorder)


@app.task(name="loss.work")  # type: ignore[untyped-decorator]
def work(text: str) -> None:
    _recorder(_options["record"], _options["worker"], _options["work"])(text)


if not _options["stock"]:

    @job_task(app, ImageSchema)
    def work_on_job(input: ImageInput) -> ImageOutput:  # noqa: A002 - what it is
        work.run(input.url)
        return ImageOutput()
