"""A channel's connections to its server: one for commands, and others for the threads that wait and renew."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from redis.exceptions import ResponseError

from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.transports.redis.keys import Keys
from mindtrace_jobs.transports.redis.wire import Wire

_checked_servers: set[Hashable] = set()


class CommandWire(Wire):
    """The wire for commands, in the place of Kombu's client."""

    def ping(self) -> bool:
        """Connect."""
        self.connect()
        return True


class Connections:
    """Makes connections that are kept, have timeouts, and never repeat a command by themselves.

    Args:
        pool: Kombu's pool: it knows how to reach the server.
        watched_pool: Returns Kombu's pool of connections that leave the poller when they are closed.
        keys: The names of the channel's keys.
        master: Tells which server is meant where Sentinel names it.

    Attributes:
        commands: The connection for commands.
        server: Tells servers, and key prefixes on them, apart.
    """

    def __init__(self, pool: Any, watched_pool: Callable[[], Any], keys: Keys, master: Hashable = None) -> None:
        self._pool = pool
        self._watched_pool = watched_pool
        self.commands = CommandWire(self.connector())
        where = (pool.connection_kwargs.get(name) for name in ("host", "port", "path", "db", "username"))
        self.server: Hashable = (*where, master, keys)

    def connector(self, timeout: float | None = None) -> Callable[[], Any]:
        """Return a function that makes connections to this channel's server; it outlives the channel.

        Args:
            timeout: Seconds after which connecting and an answer are given up, if the options allow more.
        """
        make = self._pool.connection_class
        kwargs = dict(self._pool.connection_kwargs)
        if timeout is not None:
            for name in ("socket_timeout", "socket_connect_timeout"):
                kwargs[name] = min(kwargs.get(name) or timeout, timeout)
        return lambda: make(**kwargs)

    def answer_within(self, seconds: float) -> None:
        """See ``JobsChannel.answer_within``."""
        self.commands.answer_within(seconds, self.connector(seconds))

    def watched(self, protocol: int) -> Any:
        """Make a connection, of a version of RESP, that the poller may watch."""
        pool = self._watched_pool()
        return pool.connection_class(**{**pool.connection_kwargs, "protocol": protocol})

    def refuse_cluster(self) -> None:
        """Ask the server, once in this process, whether it is a node of a cluster.

        Raises:
            ConfigurationError: it is.
        """
        if self.server in _checked_servers:
            return
        try:
            info = self.commands.call("INFO", "cluster")
        except ResponseError:
            return  # this user may not ask
        # RESP3 gives a verbatim string, RESP2 a bulk string: both arrive as bytes.
        if b"cluster_enabled:1" in (info if isinstance(info, bytes) else str(info).encode()):
            raise ConfigurationError(
                "this is a Redis Cluster node; queues need one server that holds all their keys: use a Redis "
                "server without cluster mode, with Sentinel for failover"
            )
        _checked_servers.add(self.server)
