"""The app of the Celery workers; the environment variable LOSS_OPTIONS says, as JSON, where and how they work."""

from __future__ import annotations

import json
import os
from functools import cache

from celery import Celery

from mindtrace_jobs.celery import install
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
    install(app, lease=_options["lease"])
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
