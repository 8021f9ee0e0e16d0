"""The steps in docs/celery.md are a project that works, and prints what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.jobs.celery.workers import ROOT, Broker
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
    (command,) = [text for kind, text in blocks if kind == "console"]
    worker = ServerProcess(
        "documented worker",
        [sys.executable, "-m", *shlex.split(command)],
        folder=tmp_path,
        log=tmp_path / "worker.log",
        env=environment,
    )
    try:
        worker.wait_for_log(" ready.", timeout=60)
        for script in ("produce.py", "test_detection.py"):
            promised = re.findall(r"^\s*print\(.*\)  # (.+)$", (tmp_path / script).read_text(), re.MULTILINE)
            assert promised
            assert run(script, tmp_path, environment) == promised
    finally:
        worker.kill()
