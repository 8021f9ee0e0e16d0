"""The workers' ``app.py``. pytest-celery copies this text and fills in the name and the settings of the app."""

from __future__ import annotations

from celery import Celery

from mindtrace_jobs.celery import install, job_task
from tests.jobs.nodes.jobs import MeasureSchema, ShipmentSchema, add, measure, ship

app = Celery("celery_test_app")
config = None

if config:
    app.config_from_object(config)

install(app, lease=1.0)
app.task(name="nodes.add")(add)
job_task(app, MeasureSchema)(measure)
job_task(app, ShipmentSchema)(ship)
