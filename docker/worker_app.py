# ruff: noqa: INP001 - it is copied into the image by itself
"""The app of the worker image. Mount or copy your own modules beside it and name them in JOBS_IMPORTS."""

from __future__ import annotations

import os

from celery import Celery

from mindtrace_jobs.celery import install

app = Celery("worker_app")
app.config_from_object("celeryconfig")
app.conf.imports = tuple(filter(None, os.environ.get("JOBS_IMPORTS", "").split(",")))
install(app)
