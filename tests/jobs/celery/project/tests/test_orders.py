"""Single tasks."""

from datetime import UTC, datetime, timedelta

import pytest
from conftest import tell, wait_noted
from shop.ledger import noted
from shop.orders.tasks import RefusedError, charge, refund, remind, ship, total
from shop.reports.tasks import daily, started_at


def test_a_result_comes_back() -> None:
    assert total.delay([1.5, 2.5]).get(timeout=30) == 4.0


def test_the_queue_is_the_routes() -> None:
    report = daily.apply_async(("monday",), {"title": "Ümläut"})
    assert report.get(timeout=30) == {"day": "monday", "title": "Ümläut", "key": "report.daily"}


def test_a_queue_that_no_setting_names_is_made_when_needed() -> None:
    sent = ship.apply_async(kwargs={"country": "nz"})
    tell("add_consumer", queue="orders_nz")
    assert sent.get(timeout=30) == "orders_nz"


def test_a_refused_charge_is_tried_again() -> None:
    assert charge.delay(9.0, refusals=2).get(timeout=30) == {"amount": 9.0, "retries": 2}


def test_a_failure_comes_back_and_is_noted() -> None:
    sent = refund.delay(7.0)
    with pytest.raises(RefusedError):
        sent.get(timeout=30)
    wait_noted(f"failed shop.orders.tasks.refund {sent.id}")
    assert noted().count("refund 7.0") == 2


def test_a_task_waits_for_its_time() -> None:
    eta = datetime.now(UTC) + timedelta(seconds=0.5)
    assert started_at.apply_async(eta=eta).get(timeout=30) >= eta.timestamp()


def test_results_may_be_ignored() -> None:
    remind.delay("ann")
    wait_noted("remind ann")
