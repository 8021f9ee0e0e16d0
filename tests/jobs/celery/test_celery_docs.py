"""The steps in docs/celery.md are a project that works, and prints what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from tests.jobs.celery.signed_jobs import make_keys
from tests.jobs.celery.workers import ROOT, Broker
from tests.jobs.servers import RedisServer
from tests.jobs.servers.process import ServerProcess

TEXT = (ROOT / "docs" / "celery.md").read_text()
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def run(script: str, folder: Path, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_project_in_the_documentation_works_step_by_step(broker: Broker, tmp_path: Path) -> None:
    blocks = _BLOCK.findall(TEXT)
    for kind, text in blocks:
        if kind == "python":
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    environment = {**os.environ, "PROJ_BROKER": broker.url, "PROJ_RESULTS": broker.results, "PYTHONPATH": str(tmp_path)}
    worker, beat = [
        ServerProcess(
            command,
            [sys.executable, "-m", *shlex.split(command)],
            folder=tmp_path,
            log=tmp_path / f"{number}.log",
            env=environment,
        )
        for number, command in enumerate(text for kind, text in blocks if kind == "console")
    ]
    try:
        worker.wait_for_log(" ready.", timeout=60)
        beat.wait_for_log("Sending due task watch the gate", timeout=60)
        worker.wait_for_log("looking at gate.png", timeout=60)
        for script in ("tracing.py", "logformat.py"):
            assert run(script, tmp_path, environment) == []
        for script in ("produce.py", "test_detection.py"):
            promised = re.findall(r"^\s*print\(.*\)  # (.+)$", (tmp_path / script).read_text(), re.MULTILINE)
            assert promised
            assert run(script, tmp_path, environment) == promised
    finally:
        beat.kill()
        worker.kill()


def test_the_app_factory_of_the_documentation_prints_what_is_shown(tmp_path: Path) -> None:
    blocks = _BLOCK.findall(TEXT)
    for kind, text in blocks:
        if kind == "python" and text.startswith(("# factory.py", "# schemas.py")):
            (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    (shown,) = [after for (_, before), (_, after) in pairwise(blocks) if before.startswith("# factory.py")]
    assert run("factory.py", tmp_path, {**os.environ, "PYTHONPATH": str(tmp_path)}) == shown.splitlines()


def test_the_signed_app_of_the_documentation_accepts_signed_messages_only(tmp_path: Path) -> None:
    (text,) = (text for kind, text in _BLOCK.findall(TEXT) if kind == "python" and text.startswith("# signed.py"))
    (tmp_path / "signed.py").write_text(text + "print(app.conf.accept_content)\n")
    (tmp_path / "keys").mkdir()
    make_keys(tmp_path / "keys", "worker")
    environment = {**os.environ, "PROJ_BROKER": "memory://", "PROJ_RESULTS": "cache+memory://"}
    assert run("signed.py", tmp_path, environment) == ["['auth']"]


def test_the_jobs_in_the_picture_of_flower_come_to_their_different_ends(own_redis: RedisServer, tmp_path: Path) -> None:
    examples = ROOT / "examples"
    environment = {**os.environ, "BROKER": own_redis.url(4), "PYTHONPATH": str(examples)}
    text = (examples / "celery_flower.py").read_text()
    (command,) = re.findall(r"^    (celery .* worker .*)$", text, re.MULTILINE)
    assert command in TEXT
    worker = ServerProcess(
        "worker of the picture",
        [sys.executable, "-m", *shlex.split(command), "--loglevel=INFO"],
        folder=tmp_path,
        log=tmp_path / "worker.log",
        env=environment,
    )
    try:
        worker.wait_for_log(" ready.", timeout=60)
        assert run("celery_flower.py", examples, environment) == []
        for end in (
            "<DetectionOutput>",
            "<TrainingOutput>",
            "dead-lettered",
            "retry: Retry in 600",
        ):
            worker.wait_for_log(end, timeout=60)
    finally:
        worker.kill()
