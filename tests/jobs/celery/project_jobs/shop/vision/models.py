"""What jobs on pictures of shelves take and give."""

from mindtrace.jobs import JobInput, JobOutput, JobSchema


class ShelfInput(JobInput):
    image: str
    number: int = 0
    seconds: float = 0.0


class ShelfOutput(JobOutput):
    labels: list[str]


class ShelfSchema(JobSchema[ShelfInput, ShelfOutput]):
    name: str = "shelf_detection"
