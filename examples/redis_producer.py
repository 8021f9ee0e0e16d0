"""Submit training jobs over Redis and wait for their typed results.

Run it: python examples/redis_producer.py redis://localhost:6379/0   (and redis_worker.py in another terminal)
"""

from __future__ import annotations

import sys

from jobs import TrainingInput, TrainingSchema

from mindtrace.jobs import Job, Orchestrator


def main(url: str = "redis://localhost:6379/0") -> None:
    with Orchestrator.from_url(url) as orchestrator:
        orchestrator.declare_queue("vbrain_jobs", "priority")
        handles = [
            orchestrator.submit(
                Job(
                    payload=TrainingSchema(input=TrainingInput(model_path=f"/models/v{version}", epochs=10)),
                    priority=version,
                )
            )
            for version in (1, 2, 3)
        ]
        for handle in handles:
            output = handle.result(timeout=30)
            print(output.model_url if output else "no output")


if __name__ == "__main__":
    main(*sys.argv[1:])
