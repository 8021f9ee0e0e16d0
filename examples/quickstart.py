"""A typed detection job: published, consumed, and its typed output printed. In memory, nothing to install or start.

Run it: make demo, or python examples/quickstart.py
"""

from __future__ import annotations

from mindtrace.jobs import Consumer, Job, JobInput, JobOutput, JobSchema, LocalClient, Orchestrator


class DetectionInput(JobInput):
    image_url: str
    threshold: float = 0.5


class DetectionOutput(JobOutput):
    objects: list[str]
    confidence: float


class DetectionSchema(JobSchema[DetectionInput, DetectionOutput]):
    name: str = "object_detection"


def detect(job: Job[DetectionSchema]) -> DetectionOutput:
    """Stands for the model: job.payload.input is a DetectionInput, and type checkers know it."""
    print(f"detecting in {job.payload.input.image_url} above {job.payload.input.threshold}")
    return DetectionOutput(objects=["cat", "keyboard"], confidence=0.92)


def main() -> None:
    with Orchestrator(LocalClient()) as orchestrator:
        job = Job(
            payload=DetectionSchema(input=DetectionInput(image_url="s3://bucket/desk.jpg")), entrypoint="detect.py"
        )
        handle = orchestrator.submit(job)  # routed by its name, to detection_jobs
        print(f"submitted, status {handle.status()}, waiting: {orchestrator.queue_status('detection_jobs')}")

        Consumer(orchestrator, "detection_jobs", detect).consume_until_empty()

        output = handle.result(timeout=5)
        print(f"{handle.status()}: {output!r}")


if __name__ == "__main__":
    main()
