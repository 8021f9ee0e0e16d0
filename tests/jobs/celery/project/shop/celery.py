"""The shop's Celery app."""

from celery import Celery

from shop.settings import INSTALLED_APPS

app = Celery("shop", task_cls="shop.ledger:NotedTask")
app.config_from_object("shop.settings", namespace="CELERY")
app.autodiscover_tasks(INSTALLED_APPS)
app.steps["worker"].add("shop.worker:Opening")
