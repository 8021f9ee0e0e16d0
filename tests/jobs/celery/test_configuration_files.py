"""celeryconfig.py and docker/: complete, consistent, and accepted by the programs that read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery import Celery
from celery.app.defaults import NAMESPACES, flatten

from mindtrace_jobs import Job
from mindtrace_jobs.celery import install
from tests.jobs.celery.models import DetectionInput, DetectionSchema
from tests.jobs.celery.workers import ROOT, Broker, Worker
from tests.jobs.servers import RabbitMQServer

DOCKER = ROOT / "docker"


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text())
    return loaded


def test_every_setting_in_celeryconfig_is_one_that_celery_knows() -> None:
    text = (ROOT / "celeryconfig.py").read_text()
    names = re.findall(r"^(\w+) = ", text, re.MULTILINE)
    known = {name for name, _ in flatten(NAMESPACES)}
    assert len(names) > 20
    assert set(names) <= known


def test_celeryconfig_without_an_environment_is_all_in_memory() -> None:
    code = (
        "from celery import Celery; from mindtrace_jobs.celery import install; app = Celery('x');"
        "app.config_from_object('celeryconfig'); install(app);"
        "print(app.connection_for_write().transport.__class__.__module__, type(app.backend).__module__)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["mindtrace_jobs.transports.memory.transport", "mindtrace_jobs.results.memory"]


def test_a_worker_runs_with_celeryconfig(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", broker.url)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", broker.results)
    worker = Worker(broker, tmp_path / "worker", pool="prefork", app="tests.jobs.celery.configured").wait_ready()
    try:
        handle = broker.orchestrator.submit(Job(payload=DetectionSchema(input=DetectionInput(image="x"))))
        record = handle.wait(30)
        assert record.output is not None
        assert record.name == "stack_detection"
        assert record.worker == worker.name
    finally:
        worker.close()


def test_the_worker_warns_of_rabbitmqs_consumer_timeout(broker: Broker, tmp_path: Path) -> None:
    worker = Worker(broker, tmp_path / "worker").wait_ready()
    try:
        warned = "task stack_detection may run for any time, but RabbitMQ by default"
        assert worker.logged(warned) == (broker.kind == "rabbitmq")
        assert not worker.logged("task stack_deed_detection may run")  # its time limit is short
    finally:
        worker.close()


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKER / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [
        source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for source in line.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.removeprefix("./") in kept, source
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert not re.search(r"^FROM \S+(:latest)?$(?<!\d)", text.replace("-slim-bookworm", "1"), re.MULTILINE)


def test_the_compose_file_refers_only_to_what_it_defines() -> None:
    loaded = compose()
    services = loaded["services"]
    assert {"redis", "rabbitmq", "worker1", "worker2", "flower"} == set(services)
    for name, service in services.items():
        for wanted, condition in service.get("depends_on", {}).items():
            assert wanted in services, name
            assert condition["condition"] == "service_healthy"
            assert "healthcheck" in services[wanted]
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in loaded["volumes"], volume
        assert "build" in service or re.search(r":\d+\.\d+", service["image"]), name
    assert (ROOT / services["worker1"]["build"]["dockerfile"]).exists()
    assert services["worker1"]["build"]["context"] == ".."


@pytest.fixture(scope="module")
def configured_node() -> Iterator[RabbitMQServer]:
    settings = [
        line for line in (DOCKER / "rabbitmq.conf").read_text().splitlines() if line.startswith("consumer_timeout")
    ]
    with RabbitMQServer(config="\n".join(settings) + "\n") as server:
        yield server


def test_rabbitmq_takes_the_configuration_and_the_definitions(configured_node: RabbitMQServer) -> None:
    configured_node.rabbitmqctl("import_definitions", str(DOCKER / "definitions.json"))
    environment = configured_node.rabbitmqctl("environment")
    assert re.search(r"consumer_timeout,\s*86400000", environment)
    user, password = "jobs", "jobs"
    url = configured_node.url("jobs", user=user, password=password)
    app = Celery("compose", broker=url, set_as_current=False)
    install(app)
    with app.connection_for_write() as connection:
        for queue in json.loads((DOCKER / "definitions.json").read_text())["queues"]:
            # As a worker declares it: other arguments would be an error.
            app.amqp.queues[queue["name"]](connection.default_channel).declare()
    worker = compose()["services"]["worker1"]
    assert f"{user}:{password}@rabbitmq:5672/jobs" in worker["environment"]["CELERY_BROKER_URL"]
    app.close()
