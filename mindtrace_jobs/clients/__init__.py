"""Clients: one class per broker, each a handful of verbs over Kombu."""

from __future__ import annotations

from mindtrace_jobs.clients.app_client import broker_scheme, client_for, speaks_amqp
from mindtrace_jobs.clients.base import Client
from mindtrace_jobs.clients.delivery import Delivery, RecordWrite
from mindtrace_jobs.clients.local import LocalClient
from mindtrace_jobs.clients.rabbitmq import RabbitMQClient
from mindtrace_jobs.clients.redis import RedisClient
from mindtrace_jobs.clients.source import Source
from mindtrace_jobs.clients.types import (
    Capability,
    ExchangeType,
    QueueInfo,
    QueueType,
    dead_letter_queue,
    is_dead_letter_queue,
    origin_queue,
)

__all__ = [
    "Capability",
    "Client",
    "Delivery",
    "ExchangeType",
    "LocalClient",
    "QueueInfo",
    "QueueType",
    "RabbitMQClient",
    "RecordWrite",
    "RedisClient",
    "Source",
    "broker_scheme",
    "client_for",
    "dead_letter_queue",
    "is_dead_letter_queue",
    "origin_queue",
    "speaks_amqp",
]
