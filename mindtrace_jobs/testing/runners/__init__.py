"""What holds runners of jobs, a Consumer or a Celery worker, to one lifecycle: see ``RunnerConformance``.

Loaded on first use: a runner's process needs neither pytest nor the tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindtrace_jobs.testing.runners.harness import RunnerKind as RunnerKind
    from mindtrace_jobs.testing.runners.harness import Runners as Runners
    from mindtrace_jobs.testing.runners.running import Runner as Runner

_HOME_OF = {"Runner": "running", "RunnerKind": "harness", "Runners": "harness"}

__all__ = ["Runner", "RunnerKind", "Runners"]


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(f"{__name__}.{home}"), name)
