"""Reports. They import no app: whichever is current has them."""

import time

from celery import shared_task
from celery.utils.log import get_task_logger

from shop.ledger import note

logger = get_task_logger(__name__)


@shared_task(bind=True)
def daily(self, day: str, *, title: str = "") -> dict[str, str]:
    logger.info("report of %s", day)
    return {"day": day, "title": title, "key": self.request.delivery_info["routing_key"]}


@shared_task
def urgent(name: str) -> None:
    note(f"urgent {name}")


@shared_task
def tick(word: str) -> None:
    note(f"tick {word}")


@shared_task
def started_at() -> float:
    return time.time()
