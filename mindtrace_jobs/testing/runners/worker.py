"""What a Celery worker of the conformance tests is started on: ``celery -A mindtrace_jobs.testing.runners.worker``."""

from __future__ import annotations

from mindtrace_jobs.testing.runners.celery_app import make_app
from mindtrace_jobs.testing.runners.options import RunnerOptions
from mindtrace_jobs.testing.runners.parent import end_with_parent

end_with_parent()
app = make_app(RunnerOptions.from_environment())
