"""A Consumer of the conformance tests as a process: ``python -m mindtrace_jobs.testing.runners``."""

from __future__ import annotations

import logging
import sys

from mindtrace_jobs.testing.runners.consumer import READY, make_consumer
from mindtrace_jobs.testing.runners.options import RunnerOptions
from mindtrace_jobs.testing.runners.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    options = RunnerOptions.from_environment()
    with options.orchestrator() as orchestrator:
        consumer = make_consumer(orchestrator, options)
        logging.getLogger(__name__).info(READY)
        consumer.run_forever()
