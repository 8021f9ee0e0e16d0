"""Importing the package loads neither a driver nor Celery, and every public name is where it is promised."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mindtrace_jobs

HEAVY = ("kombu", "celery", "redis", "amqp", "billiard", "vine")


def loaded_after(statement: str) -> list[str]:
    code = f"import sys\n{statement}\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import mindtrace_jobs",
        "from mindtrace_jobs import Job, JobInput, JobOutput, JobSchema, ExecutionStatus, BackendType, register_model",
        "from mindtrace_jobs import DecodeError, JobRouter, RetryPolicy",
        "import mindtrace_jobs.serializer, mindtrace_jobs.wire.message",
        "import mindtrace.jobs",
        "from mindtrace.jobs import Job",
        "import mindtrace_jobs; dir(mindtrace_jobs); mindtrace_jobs.__all__; mindtrace_jobs.__version__",
    ],
)
def test_an_import_loads_no_driver_and_no_celery(statement: str) -> None:
    assert [name for name in loaded_after(statement) if name in HEAVY] == []


def test_the_package_alone_and_the_serializers_entry_point_load_no_pydantic_either() -> None:
    assert "pydantic" not in loaded_after("import mindtrace_jobs, mindtrace_jobs._serializer_entry")


def test_the_entry_point_can_be_loaded_while_kombu_is_half_imported() -> None:
    names = loaded_after("import kombu.serialization")
    assert "mindtrace_jobs" in names
    assert "pydantic" not in names


@pytest.mark.parametrize("name", mindtrace_jobs.__all__)
def test_every_public_name_can_be_imported_and_is_the_same_under_both_paths(name: str) -> None:
    value = getattr(mindtrace_jobs, name)
    assert getattr(importlib.import_module("mindtrace.jobs"), name) is value
    assert name in dir(mindtrace_jobs)
    if isinstance(value, type):
        assert value.__module__.startswith("mindtrace_jobs.")


def test_the_list_of_public_names_is_whole_sorted_and_without_doubles() -> None:
    names = mindtrace_jobs.__all__
    assert names == sorted(set(names))
    assert "__version__" in names
    public = {name for name in dir(mindtrace_jobs) if not name.startswith("_")}
    leaves = {name for name in public if not isinstance(getattr(mindtrace_jobs, name), type(sys))}
    assert leaves - {"TYPE_CHECKING", "Any", "import_module", "annotations"} == set(names) - {"__version__"}


def test_star_import_brings_exactly_the_public_names() -> None:
    scope: dict[str, object] = {}
    exec("from mindtrace_jobs import *", scope)
    assert scope.keys() - {"__builtins__"} == set(mindtrace_jobs.__all__)


@pytest.mark.parametrize("module", ["mindtrace_jobs", "mindtrace.jobs"])
def test_a_name_that_does_not_exist_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match="Jobb"):
        importlib.import_module(module).Jobb  # noqa: B018
    with pytest.raises(ImportError):
        exec(f"from {module} import Jobb")


def test_an_upstream_package_that_claims_the_same_path_is_pointed_out(tmp_path: Path) -> None:
    installed = tmp_path / "mindtrace_jobs-0.16.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mindtrace-jobs\nVersion: 0.16.0\n")
    done = subprocess.run(
        [sys.executable, "-c", "import mindtrace.jobs"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "mindtrace-jobs 0.16.0" in done.stderr
    assert "pip uninstall mindtrace-jobs" in done.stderr


@pytest.mark.parametrize("module", ["mindtrace_jobs.clients", "mindtrace_jobs.celery.installing"])
def test_the_serializer_is_registered_by_import_where_no_entry_point_tells_of_it(module: str) -> None:
    code = f"""
import importlib.metadata
importlib.metadata.entry_points = lambda **_: []
from kombu.serialization import registry
assert "pydantic" not in registry._encoders
import {module}
assert "pydantic" in registry._encoders
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
