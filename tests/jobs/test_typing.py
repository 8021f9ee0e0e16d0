"""What mypy --strict and pyright make of typed jobs: good uses pass, and each bad one is found where it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = Path(__file__).parents[2]
FILES = [HERE / "good.py", HERE / "bad.py"]

Offences = dict[str, set[int]]


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True, timeout=240)
    # 1 is what both say when they found errors; anything beyond is a failure of the checker itself.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(cache: Path) -> Offences:
    output = run(*(sys.executable, "-m", "mypy", "--strict", "--output=json", f"--cache-dir={cache}", *map(str, FILES)))
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return group((item["file"], item["line"]) for item in found if item["severity"] == "error")


def pyright(_cache: Path) -> Offences:
    output = run(sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *map(str, FILES))
    found = json.loads(output)["generalDiagnostics"]
    # A bare expression is a warning only; a wrong attribute in it is an error.
    return group((item["file"], item["range"]["start"]["line"] + 1) for item in found if item["severity"] == "error")


def group(places: object) -> Offences:
    offences: Offences = {path.name: set() for path in FILES}
    for file, line in places:  # type: ignore[attr-defined]
        offences.setdefault(Path(file).name, set()).add(line)
    return offences


def marked(path: Path) -> set[int]:
    lines = path.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("  # error")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_type_checker_accepts_the_good_uses_and_finds_each_bad_one(
    check: Callable[[Path], Offences], tmp_path: Path
) -> None:
    assert len(marked(HERE / "bad.py")) > 30
    assert check(tmp_path) == {"good.py": set(), "bad.py": marked(HERE / "bad.py")}


def test_a_project_that_imports_the_installed_package_by_its_documented_path_is_checked_too(tmp_path: Path) -> None:
    project = tmp_path / "project.py"
    project.write_text(
        """from typing import assert_type
import mindtrace.jobs
from mindtrace.jobs import ExecutionStatus
assert_type(ExecutionStatus.QUEUED.final, bool)
mindtrace.jobs.Job(id=1)
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--output=json", "--cache-dir=cache", project.name],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=240,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(item["line"], item["code"]) for item in found} == {(5, "call-arg"), (5, "arg-type")}, done
