"""What was done, one line each."""

import os

from celery import Task

from shop.settings import LEDGER


def note(line: str) -> None:
    descriptor = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def noted() -> list[str]:
    """All complete lines."""
    return LEDGER.read_text().rpartition("\n")[0].splitlines() if LEDGER.exists() else []


class NotedTask(Task):
    """Every task of the shop notes its failures."""

    def on_failure(self, exc: Exception, task_id: str, *_: object) -> None:
        note(f"failed {self.name} {task_id}")
