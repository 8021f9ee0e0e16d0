"""Real servers for the tests: Redis and RabbitMQ processes of our own, and a proxy that breaks connections."""

from __future__ import annotations

from tests.jobs.servers.base import Server, free_port
from tests.jobs.servers.errors import MissingProgramError, ServerError
from tests.jobs.servers.rabbitmq import RabbitMQServer
from tests.jobs.servers.redis import RedisServer
from tests.jobs.servers.tcp_proxy import TcpProxy
from tests.jobs.servers.waiting import wait_until

__all__ = [
    "MissingProgramError",
    "RabbitMQServer",
    "RedisServer",
    "Server",
    "ServerError",
    "TcpProxy",
    "free_port",
    "wait_until",
]
