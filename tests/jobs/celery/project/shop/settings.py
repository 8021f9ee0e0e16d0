"""The shop's settings: Celery's begin with CELERY_."""

import os
from pathlib import Path

from kombu import Exchange, Queue

SECRET_KEY = "not Celery's business"
TIME_ZONE = "UTC"
INSTALLED_APPS = ["shop.orders", "shop.reports"]
#: Where the shop writes down what was done.
LEDGER = Path(os.environ["SHOP_LEDGER"])

CELERY_BROKER_URL = os.environ["SHOP_BROKER"]
CELERY_RESULT_BACKEND = os.environ["SHOP_RESULTS"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_CONSUMER = "shop.worker:AuditingConsumer"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_QUEUES = [
    Queue("celery", Exchange("celery"), routing_key="celery"),
    Queue("reports", Exchange("reports", type="topic"), routing_key="report.#", queue_arguments={"x-max-priority": 9}),
]
CELERY_TASK_ROUTES = (
    "shop.routes.by_country",
    {"shop.reports.*": {"queue": "reports", "routing_key": "report.daily"}},
)
CELERY_TASK_ANNOTATIONS = {"shop.orders.tasks.total": {"priority": 3}}
CELERY_BEAT_SCHEDULE = {
    "tick": {"task": "shop.reports.tasks.tick", "schedule": 1.0, "args": ["tock"], "options": {"queue": "celery"}},
}
