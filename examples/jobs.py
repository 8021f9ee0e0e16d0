"""The schemas that the producer and the worker examples share: the contract between the two."""

from __future__ import annotations

from mindtrace.jobs import JobInput, JobOutput, JobSchema


class TrainingInput(JobInput):
    model_path: str
    epochs: int
    batch_size: int = 32


class TrainingOutput(JobOutput):
    accuracy: float
    model_url: str


class TrainingSchema(JobSchema[TrainingInput, TrainingOutput]):
    name: str = "vbrain_training"
