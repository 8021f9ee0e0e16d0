"""The cluster pattern: one class chooses the backend by environment, users only create jobs.

Run it: python examples/cluster.py               (development: in memory)
        ENVIRONMENT=production REDIS_HOST=localhost python examples/cluster.py
"""

from __future__ import annotations

import os

from jobs import TrainingInput, TrainingSchema

from mindtrace.jobs import Client, Job, LocalClient, Orchestrator, RabbitMQClient, RedisClient


class ClusterJobManager:
    def __init__(self, environment: str) -> None:
        client: Client
        if environment == "development":
            client = LocalClient()
        elif environment == "production":
            client = RedisClient(host=os.environ["REDIS_HOST"], port=int(os.environ.get("REDIS_PORT", "6379")))
        else:
            client = RabbitMQClient(
                host=os.environ["RABBITMQ_HOST"],
                username=os.environ["RABBITMQ_USER"],
                password=os.environ["RABBITMQ_PASS"],
            )
        self.orchestrator = Orchestrator(client)

    def submit_job(self, job: Job) -> str:
        return self.orchestrator.submit(job).id


def main() -> None:
    manager = ClusterJobManager(os.environ.get("ENVIRONMENT", "development"))
    manager.submit_job(Job(payload=TrainingSchema(input=TrainingInput(model_path="/models/v1", epochs=100))))
    print("waiting in vbrain_jobs:", manager.orchestrator.queue_status("vbrain_jobs"))
    manager.orchestrator.clean_queue("vbrain_jobs")
    manager.orchestrator.close()


if __name__ == "__main__":
    main()
