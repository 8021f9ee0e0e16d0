"""What is the shop's own in its workers."""

from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from celery.worker.control import inspect_command

from shop.ledger import note


class AuditingConsumer(Consumer):
    """Counts the messages that it is given, and notes those that nobody knows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen = 0
        super().__init__(*args, **kwargs)

    def create_task_handler(self) -> Any:
        handle = super().create_task_handler()

        def on_task_received(message: Any) -> None:
            self.seen += 1
            handle(message)

        return on_task_received

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        note(f"unknown {message.headers['task']}")
        super().on_unknown_task(body, message, exc)


class Opening(bootsteps.StartStopStep):
    """Notes that a worker opens."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        note(f"open {worker.hostname}")


@inspect_command()
def audit(state: Any) -> dict[str, Any]:
    """How many messages this worker was given."""
    return {"seen": state.consumer.seen}
