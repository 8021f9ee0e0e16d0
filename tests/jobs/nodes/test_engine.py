"""The Docker mode, as far as it can be tried without an engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.nodes.engine import ROOT
from tests.jobs.servers import free_port

DOCKERFILE = Path(__file__).with_name("Dockerfile")


@pytest.mark.parametrize(
    ("options", "answer"),
    [(["-p", "docker_tools"], "no Docker engine answers"), ([], "add -p docker_tools")],
)
def test_a_run_on_containers_that_cannot_be_had_ends_before_the_first_test(options: list[str], answer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "--nodes=docker", *options, "tests/jobs/nodes"],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": f"tcp://127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert answer in done.stderr
    assert "collected" not in done.stdout


def test_the_workers_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_workers_dockerfile_copies_reaches_the_engine() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [
        name for line in re.findall(r"^COPY (.+)$", DOCKERFILE.read_text(), re.MULTILINE) for name in line.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in kept, source
