"""A channel's connections to its server: one for commands, one that claims and waits."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

from kombu.transport import redis as kombu_redis
from redis.exceptions import ResponseError

from mindtrace_jobs.errors import ConfigurationError
from mindtrace_jobs.transports.redis_scripts import Keys
from mindtrace_jobs.transports.redis_store import Store
from mindtrace_jobs.transports.redis_waiter import SAFETY_POLL, Waiter
from mindtrace_jobs.transports.redis_wire import Wire

#: Transport options that Kombu does not have.
OPTIONS = ("lease", "safety_poll", "protocol")

_checked_servers: set[Hashable] = set()


class CommandWire(Wire):
    """The wire for commands, in the place of Kombu's client."""

    def ping(self) -> bool:
        """Connect."""
        self.connect()
        return True


class ConnectedChannel(kombu_redis.Channel):
    """Kombu's channel with connections that are kept, have timeouts, and never repeat a command by themselves."""

    lease: Any = 60.0
    safety_poll: Any = SAFETY_POLL
    protocol: Any = None
    socket_timeout: Any = 30.0
    socket_connect_timeout: Any = 5.0
    socket_keepalive: Any = True
    from_transport_options: Any = (*kombu_redis.Channel.from_transport_options, *OPTIONS)

    @cached_property
    def store(self) -> Store:
        """What this channel does on the server."""
        keys = Keys(
            prefix=self.global_keyprefix,
            sep=self.sep,
            steps=tuple(sorted(self.priority_steps)),
            unacked=self.unacked_key,
            unacked_index=self.unacked_index_key,
        )
        return Store(self.client, keys, float(self.lease))

    @cached_property
    def client(self) -> CommandWire:
        """The connection for commands."""
        return CommandWire(self.connector())

    @cached_property
    def waiter(self) -> Waiter:
        """The connection that claims and waits."""
        pool = self.async_pool
        return Waiter(
            self.store,
            lambda protocol: pool.connection_class(**{**pool.connection_kwargs, "protocol": protocol}),
            float(self.safety_poll),
            tracking=self.protocol != 2,
        )

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)
        if self.protocol is not None:
            params["protocol"] = self.protocol
        return params

    def connector(self, timeout: float | None = None) -> Callable[[], Any]:
        """A function that makes connections to this channel's server; it outlives the channel.

        Args:
            timeout: Seconds after which connecting and an answer are given up, if the options allow more.
        """
        pool = self.pool
        kwargs = dict(pool.connection_kwargs)
        if timeout is not None:
            for name in ("socket_timeout", "socket_connect_timeout"):
                kwargs[name] = min(kwargs.get(name) or timeout, timeout)
        return lambda: pool.connection_class(**kwargs)

    @cached_property
    def _commands(self) -> Any:
        """Kombu's client, for the few commands that are left to Kombu's own code."""
        return super()._create_client()

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self._commands

    @cached_property
    def server(self) -> Hashable:
        """Tells servers, and key prefixes on them, apart."""
        kwargs = self.pool.connection_kwargs
        names = ("host", "port", "path", "db", "username")
        master = getattr(self, "master_name", None)
        alternatives = tuple(self.connection.client.alt or ()) if master else ()
        return (*(kwargs.get(name) for name in names), master, alternatives, self.store.keys)

    def _refuse_cluster(self) -> None:
        if self.server not in _checked_servers:
            try:
                info = self.client.call("INFO", "cluster")
            except ResponseError:
                return  # this user may not ask
            # RESP3 gives a verbatim string, RESP2 a bulk string: both arrive as bytes.
            if b"cluster_enabled:1" in (info if isinstance(info, bytes) else str(info).encode()):
                raise ConfigurationError(
                    "this is a Redis Cluster node; queues need one server that holds all their keys: use a Redis "
                    "server without cluster mode, with Sentinel for failover"
                )
            _checked_servers.add(self.server)

    # --- ending

    def _disconnect(self) -> None:
        self._registered = False
        for name in ("waiter", "client"):
            ours = self.__dict__.get(name)
            if ours is not None:
                ours.close()
        subclient = self.__dict__.get("subclient")
        if subclient is not None:
            subclient.close()
        self._disconnect_pools()

    def _drop(self) -> None:
        """In a forked child: close descriptors, say nothing."""
        self._registered = False
        for name in ("waiter", "client"):
            ours = self.__dict__.get(name)
            if ours is not None:
                ours.drop()
        subclient = self.__dict__.pop("subclient", None)
        if subclient is not None and subclient.connection is not None:
            subclient.connection.disconnect()
