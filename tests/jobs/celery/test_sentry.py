"""Sentry's integration with Celery gets one event for a failing job, as for a failing plain task."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.jobs.celery.workers import ROOT

#: In a process of its own: the integration changes Celery for good.
SCRIPT = """
import json, sys
import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration

events = []

class Collected(sentry_sdk.transport.Transport):
    def capture_envelope(self, envelope):
        events.extend(item.payload.json for item in envelope.items if item.type == "event")

sentry_sdk.init(dsn="http://key@localhost/1", transport=Collected, integrations=[CeleryIntegration()])

from celery import Celery
from celery.contrib.testing.worker import start_worker
from mindtrace_jobs import RejectJob
from mindtrace_jobs.celery import install, job_task
from tests.jobs.celery.models import DetectionInput, DetectionOutput, DetectionSchema

app = Celery("sentry", broker="memory://sentry", backend="cache+memory://", set_as_current=False)
app.conf.task_routes = {"*": {"queue": "celery"}}
install(app)

@app.task(name="plain")
def plain(what):
    raise ValueError(what)

@job_task(app, DetectionSchema, max_retries=0)
def detect(input: DetectionInput) -> DetectionOutput:
    raise (RejectJob if input.image == "rejected" else ValueError)(input.image)

def publish(what):
    if what == "plain":
        return plain.delay(what)
    if what == "invalid":
        return app.send_task("stack_detection", kwargs={"image": []})
    return detect.delay(DetectionInput(image=what))

with start_worker(app, pool=sys.argv[1], perform_ping_check=False, shutdown_timeout=60):
    for what in ("plain", "failed", "rejected", "invalid"):
        try:
            publish(what).get(timeout=60)
        except Exception:
            pass
        sentry_sdk.flush()
kinds = [[value["type"] for value in (event.get("exception") or {}).get("values", [])][-1:] for event in events]
print(json.dumps([kinds, [event.get("transaction") for event in events]]))
"""


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_each_failure_is_one_event(pool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, pool],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kinds, names = json.loads(done.stdout.splitlines()[-1])
    assert kinds == [["ValueError"], ["ValueError"], ["RejectJob"], ["InvalidInputError"]]
    assert names == ["plain", *["stack_detection"] * 3]
