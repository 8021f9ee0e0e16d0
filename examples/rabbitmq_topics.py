"""Route jobs by topic over RabbitMQ: every camera's images to one queue, those of the door to a second one as well.

Run it: python examples/rabbitmq_topics.py amqp://guest:guest@localhost:5672//
"""

from __future__ import annotations

import sys

from mindtrace.jobs import Job, JobInput, JobSchema, Orchestrator


class ImageInput(JobInput):
    camera: str


def main(url: str = "amqp://guest:guest@localhost:5672//") -> None:
    with Orchestrator.from_url(url) as orchestrator:
        orchestrator.declare_exchange("images", "topic")
        for queue, pattern in (("all_images", "camera.#"), ("door_images", "camera.door.*")):
            orchestrator.declare_queue(queue)
            orchestrator.bind_queue(queue, "images", pattern)

        for camera in ("door.left", "hall.one", "door.right"):
            job = Job(payload=JobSchema(name="index_image", input=ImageInput(camera=camera)))
            orchestrator.publish_message("", job, exchange="images", routing_key=f"camera.{camera}")

        for queue in ("all_images", "door_images"):
            cameras = []
            while (received := orchestrator.receive_message(queue, timeout=0.5)) is not None:
                cameras.append(received.payload.input.camera)
            print(f"{queue}: {', '.join(cameras)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
