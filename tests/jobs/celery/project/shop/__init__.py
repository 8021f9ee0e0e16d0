"""A shop, and the work that it does in the background."""

from shop.celery import app as celery_app

__all__ = ["celery_app"]
