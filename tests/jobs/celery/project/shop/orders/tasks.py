"""Work on orders."""

import time
from pathlib import Path

from shop.celery import app
from shop.ledger import note


class RefusedError(Exception):
    """The bank says no, for now."""


@app.task
def total(prices: list[float]) -> float:
    return sum(prices)


@app.task
def discount(price: float, percent: float) -> float:
    return price * (100 - percent) / 100


@app.task(bind=True, max_retries=3)
def charge(self, amount: float, refusals: int) -> dict[str, float]:
    """Is refused some times, and then goes through."""
    if self.request.retries < refusals:
        raise self.retry(exc=RefusedError(amount), countdown=0)
    return {"amount": amount, "retries": self.request.retries}


@app.task(autoretry_for=(RefusedError,), max_retries=1, retry_backoff=False, default_retry_delay=0)
def refund(amount: float) -> None:
    note(f"refund {amount}")
    raise RefusedError(amount)


@app.task(ignore_result=True)
def remind(customer: str) -> None:
    note(f"remind {customer}")


@app.task(bind=True, acks_late=True, ignore_result=True)
def fulfil(self, number: int, seconds: float = 0.0) -> None:
    time.sleep(seconds)  # the packing
    note(f"fulfil {number} {self.request.hostname}")


@app.task(ignore_result=True)
def wait_at(gate: str) -> None:
    """Until somebody opens it."""
    while not Path(gate).exists():
        time.sleep(0.01)


@app.task(bind=True)
def ship(self, *, country: str) -> str:
    """In which queue it was."""
    return str(self.request.delivery_info["routing_key"])


@app.task(bind=True)
def bundle(self, prices: list[float]) -> None:
    """Is as good as the total of what it bundles."""
    raise self.replace(total.s(prices))


@app.task
def note_error(request, exc, _traceback) -> None:
    note(f"error {request.id} {type(exc).__name__}")
