"""The worker itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import tell, wait_for, wait_noted
from shop.celery import app
from shop.ledger import noted
from shop.orders.tasks import total, wait_at
from shop.reports.tasks import urgent
from shop.settings import CELERY_BROKER_URL as BROKER


def waiting(queue: str) -> int:
    """How many messages the broker has that no worker was given."""
    with app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Callable[[], object]]:
    """Keeps the worker busy, and what it has taken waiting, until it is called: then one process goes on, in order."""
    first, second = tmp_path / "first", tmp_path / "second"
    for gate in (first, second):
        wait_at.delay(str(gate))
    wait_for(lambda: len(tell("active")) == 2, "both processes wait")
    for _ in range(2):
        total.delay([])
    wait_for(lambda: len(tell("reserved")) == 2, "the worker takes no more")
    yield first.touch
    first.touch()
    second.touch()


def test_it_answers() -> None:
    assert tell("ping") == {"ok": "pong"}
    assert {"shop.orders.tasks.total", "shop.reports.tasks.daily"} <= set(tell("registered"))


def test_its_queues_are_the_declared_ones() -> None:
    queues = {queue["name"]: queue for queue in tell("active_queues")}
    assert queues["reports"]["queue_arguments"] == {"x-max-priority": 9}
    assert queues["reports"]["exchange"]["type"] == "topic"
    assert "celery" in queues


def test_the_shops_consumer_sees_every_message() -> None:
    before = tell("audit")["seen"]
    total.delay([]).get(timeout=30)
    assert tell("audit")["seen"] > before


def test_the_shops_consumer_is_asked_what_to_do_with_a_task_that_nobody_knows() -> None:
    app.send_task("shop.nobody")
    wait_noted("unknown shop.nobody")
    assert total.delay([1]).get(timeout=30) == 1


def test_beat_ticks() -> None:
    wait_noted("tick tock", times=2)


def test_priorities_are_the_brokers(closed: Callable[[], object]) -> None:
    for priority in (3, 0, 9, 6):
        urgent.apply_async((str(priority),), priority=priority)
    wait_for(lambda: waiting("reports") >= 4, "all wait")
    closed()
    for priority in (3, 0, 9, 6):
        wait_noted(f"urgent {priority}")
    order = [line for line in noted() if line.startswith("urgent")]
    assert order == [f"urgent {priority}" for priority in ((9, 6, 3, 0) if BROKER.startswith("amqp") else (0, 3, 6, 9))]


def test_a_task_that_waits_may_be_revoked(closed: Callable[[], object]) -> None:
    sent = urgent.delay("revoked")
    tell("revoke", task_id=sent.id)
    closed()
    wait_for(lambda: sent.state == "REVOKED", "revoked")
    assert "urgent revoked" not in noted()
