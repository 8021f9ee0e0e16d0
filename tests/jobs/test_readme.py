"""What the README and the examples show is run, and prints what they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _blocks(language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall((ROOT / "README.md").read_text()) if kind == language]


def _run(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_blocks_of_the_readme_run_in_order_and_print_what_their_comments_say(tmp_path: Path) -> None:
    # given: each `print(...)  # text` promises its output
    program = "".join(_blocks("python"))
    promised = re.findall(r"^\s*print\(.*\)  # (.+)$", program, re.MULTILINE)
    assert promised
    script = tmp_path / "readme.py"
    script.write_text(program)

    # when
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)

    # then
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == promised


def test_the_quickstart_prints_what_the_readme_shows() -> None:
    shown = _blocks("console")[0]

    printed = _run("quickstart.py")

    assert printed.strip() in textwrap.dedent(shown)


def test_the_cluster_example_chooses_its_backend_by_environment(redis_url: str) -> None:
    host, port = re.search(r"@?([\w.]+):(\d+)", redis_url.partition("://")[2]).groups()  # type: ignore[union-attr]

    assert _run("cluster.py", ENVIRONMENT="development") == "waiting in vbrain_jobs: 1\n"
    assert _run("cluster.py", ENVIRONMENT="production", REDIS_HOST=host, REDIS_PORT=port).startswith("waiting in")


def test_the_redis_examples_meet_over_a_server(redis_url: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, ROOT / "examples" / "redis_worker.py", redis_url], stdout=subprocess.PIPE, text=True
    )
    try:
        printed = _run("redis_producer.py", redis_url)
    finally:
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=30)

    assert printed.splitlines() == [f"s3://trained/models/v{version}" for version in (1, 2, 3)]
    assert worker.returncode == 0
    assert output.count("training /models/") == 3


def test_the_topic_example_routes_images_by_camera(backend_url: str) -> None:
    printed = _run("rabbitmq_topics.py", backend_url)

    assert printed.splitlines() == ["all_images: door.left, hall.one, door.right", "door_images: door.left, door.right"]


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / "README.md").read_text()))
def test_the_links_of_the_readme_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
