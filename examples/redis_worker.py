"""Run training jobs from Redis until SIGTERM or Ctrl-C. Kill it at any instant: no job is lost.

Run it: python examples/redis_worker.py redis://localhost:6379/0
"""

from __future__ import annotations

import logging
import sys

from jobs import TrainingOutput, TrainingSchema

from mindtrace.jobs import Consumer, Job, Orchestrator, RetryPolicy


class Trainer(Consumer[TrainingSchema]):
    schema = TrainingSchema

    def run(self, job: Job[TrainingSchema]) -> TrainingOutput:
        training = job.payload.input
        print(f"training {training.model_path} for {training.epochs} epochs", flush=True)
        return TrainingOutput(accuracy=0.97, model_url=f"s3://trained{training.model_path}")


def main(url: str = "redis://localhost:6379/0") -> None:
    logging.basicConfig(level=logging.INFO)
    with Orchestrator.from_url(url) as orchestrator:
        orchestrator.declare_queue("vbrain_jobs", "priority")
        Trainer(orchestrator, "vbrain_jobs", retry=RetryPolicy(max_retries=5)).run_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
