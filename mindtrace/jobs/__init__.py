"""``mindtrace.jobs``: the names of ``mindtrace_jobs``, under the documented import path."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import mindtrace_jobs

if TYPE_CHECKING:
    from mindtrace_jobs import *  # noqa: F403

__all__ = mindtrace_jobs.__all__

try:
    _upstream = version("mindtrace-jobs")
except PackageNotFoundError:
    pass
else:
    import warnings

    warnings.warn(
        f"the upstream package mindtrace-jobs {_upstream} is installed too and brings its own mindtrace/jobs: which of "
        "the two `import mindtrace.jobs` finds depends on the order of installation. Run `pip uninstall mindtrace-jobs` "
        "and reinstall this package, or import mindtrace_jobs instead.",
        RuntimeWarning,  # an ImportWarning is not shown
        stacklevel=2,
    )


def __getattr__(name: str) -> Any:
    return getattr(mindtrace_jobs, name)


def __dir__() -> list[str]:
    return dir(mindtrace_jobs)
