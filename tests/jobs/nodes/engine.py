"""``--nodes=docker``: the same tests on pytest-celery's own containers. **Not run so far, for want of a Docker engine.**

::

    python -m pytest -p docker_tools --nodes=docker tests/jobs/nodes

Only this was checked: its linter passes the Dockerfile, and a run ends at once where no engine answers.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_docker_tools import build

from tests.jobs.servers import ServerError

ROOT = Path(__file__).parents[3]

#: In place of the library's image, whose Python is too old for this package.
celery_base_worker_image = build(
    path=str(ROOT), dockerfile="tests/jobs/nodes/Dockerfile", tag="mindtrace-jobs/nodes-worker:default"
)


def check_engine(config: pytest.Config) -> None:
    """Make sure that containers can be started.

    Raises:
        ServerError: No Docker engine answers, or the plug-in that talks to it is not loaded.
    """
    from docker.client import from_env
    from docker.errors import DockerException

    if not config.pluginmanager.hasplugin("docker_tools"):
        raise ServerError("--nodes=docker: the plug-in of pytest-docker-tools is not loaded; add -p docker_tools")
    try:
        client = from_env()
        client.ping()
    except DockerException as error:
        raise ServerError(
            f"--nodes=docker: no Docker engine answers ({error}). Start one or name it in DOCKER_HOST; without the"
            " option the tests run on processes"
        ) from error
    client.close()
