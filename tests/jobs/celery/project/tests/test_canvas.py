"""Tasks made of tasks."""

import pytest
from celery import chain, chord, group
from conftest import wait_noted
from shop.orders.tasks import RefusedError, bundle, discount, note_error, refund, remind, total


def test_a_chain_passes_results_on() -> None:
    assert chain(total.s([10, 10]), discount.s(10), discount.s(50)).delay().get(timeout=30) == 9.0


def test_a_group_gives_results_in_order() -> None:
    assert group(discount.s(100, percent) for percent in (10, 20, 30)).delay().get(timeout=30) == [90, 80, 70]


def test_a_chord_gives_all_results_to_one() -> None:
    assert chord([discount.s(100, percent) for percent in (10, 20)], total.s()).delay().get(timeout=30) == 170


def test_chunks_run() -> None:
    assert discount.chunks([(100, 10), (100, 20), (100, 30)], 2).delay().get(timeout=30) == [[90, 80], [70]]


def test_a_task_may_put_another_in_its_place() -> None:
    assert bundle.delay([1, 2]).get(timeout=30) == 3


def test_what_is_linked_is_called() -> None:
    total.apply_async(([1],), link=remind.si("bob"))
    wait_noted("remind bob")


def test_an_error_calls_what_is_linked_to_errors() -> None:
    sent = refund.apply_async((3.0,), link_error=note_error.s())
    with pytest.raises(RefusedError):
        sent.get(timeout=30)
    wait_noted(f"error {sent.id} RefusedError")
