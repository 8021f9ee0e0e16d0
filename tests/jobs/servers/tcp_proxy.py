"""A TCP proxy whose connections can be cut, refused and frozen."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from tests.jobs.servers.base import HOST, free_port
from tests.jobs.servers.errors import ServerError
from tests.jobs.servers.waiting import wait_until

#: Bytes held for one direction of one connection before its source is no longer read.
_LIMIT = 1 << 16
_CONNECT_TIMEOUT = 5.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER without time left: close() sends RST instead of FIN


class _Flow:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, target: socket.socket, *, replies: bool) -> None:
        self.source = source
        self.target = target
        self.replies = replies
        self.held = bytearray()
        self.ended = False

    def read(self) -> None:
        try:
            data = self.source.recv(_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.held += data
        self.ended = not data

    def write(self) -> None:
        try:
            del self.held[: self.target.send(self.held)]
        except BlockingIOError:
            return
        except OSError:
            self.held.clear()
            self.ended = True


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to ``(host, port)``, byte for byte.

    One thread does all the work, so that what the methods promise is true when they return. As a context manager:
    listening on entry, everything closed on exit.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.port = free_port()
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._links: list[tuple[_Flow, _Flow]] = []
        self._frozen: set[bool] = set()  # of _Flow.replies
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._calls: list[tuple[Callable[[], None], threading.Event]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=f"tcp-proxy-{self.port}", daemon=True)

    def url(self, url: str) -> str:
        """``url`` with this proxy's host and port in place of the server's."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        netloc = f"{credentials}@{HOST}:{self.port}" if credentials else f"{HOST}:{self.port}"
        return urlunsplit(parts._replace(netloc=netloc))

    def start(self) -> Self:
        """Listen, and pass on what comes."""
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread.start()
        self.allow()
        return self

    def close(self) -> None:
        """Close every connection and stop listening. Safe to call twice."""
        if self._closed or not self._thread.is_alive():
            return
        self._run(self._shut)
        self._thread.join()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def wait_for_connections(self, count: int, *, timeout: float = 30.0) -> None:
        """Return once at least ``count`` connections are open.

        Raises:
            TimeoutError: They were not within ``timeout`` seconds.
        """
        wait_until(lambda: self.connections >= count, f"{count} connections through the proxy", timeout=timeout)

    def cut(self, *, reset: bool = False) -> int:
        """Close every open connection on both sides and return how many; new ones are taken as before.

        Args:
            reset: End them with RST (as a crashed host's) instead of FIN.
        """
        count = 0

        def cut_all() -> None:
            nonlocal count
            count = len(self._links)
            for link in list(self._links):
                self._end(link, reset=reset)

        self._run(cut_all)
        return count

    def refuse(self) -> None:
        """Refuse new connections from now on (nobody listens); open ones stay."""
        self._run(self._close_listener)

    def allow(self) -> None:
        """Undo :meth:`refuse`."""
        self._run(self._open_listener)

    def freeze(self, *, requests: bool = True, replies: bool = True) -> None:
        """Pass nothing on and close nothing: a network that swallows, ends that cannot tell (half-open).

        New connections are made and not answered. What is read before :meth:`thaw` is passed on then.

        Args:
            requests: Hold what clients send.
            replies: Hold what the server sends. Alone, followed by :meth:`cut`: work done, its reply lost.
        """

        def freeze() -> None:
            self._frozen |= {kind for kind, chosen in ((False, requests), (True, replies)) if chosen}
            self._watch_all()

        self._run(freeze)

    def thaw(self) -> None:
        """Undo :meth:`freeze`."""

        def thaw() -> None:
            self._frozen.clear()
            self._watch_all()

        self._run(thaw)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What follows runs in the proxy's thread, except _run.

    def _run(self, call: Callable[[], None]) -> None:
        done = threading.Event()
        with self._lock:
            self._calls.append((call, done))
        self._wake_write.send(b"x")
        if not done.wait(_CONNECT_TIMEOUT + 25):
            raise ServerError(f"the proxy on port {self.port} does not answer")

    def _loop(self) -> None:
        while not self._closed:
            for key, events in self._selector.select():
                if key.fileobj is self._wake_read:
                    self._wake_read.recv(_LIMIT)
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    self._move(key.data, events)
            with self._lock:
                calls, self._calls = self._calls, []
            for call, done in calls:
                call()
                done.set()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # gone again, or refused in the meantime
        try:
            server = socket.create_connection(self._server, timeout=_CONNECT_TIMEOUT)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = (_Flow(client, server, replies=False), _Flow(server, client, replies=True))
        self._links.append(link)
        self._watch(link)

    def _move(self, link: tuple[_Flow, _Flow], events: int) -> None:
        if link not in self._links:
            return  # ended by an earlier event of the same round
        for flow in link:
            if flow.replies in self._frozen:
                continue
            # Trying costs little and says "would block" where there is nothing to do.
            if events & selectors.EVENT_READ and len(flow.held) < _LIMIT and not flow.ended:
                flow.read()
            if flow.held:
                flow.write()
        if any(flow.ended and not flow.held for flow in link):
            self._end(link, reset=False)
        else:
            self._watch(link)

    def _watch(self, link: tuple[_Flow, _Flow]) -> None:
        for flow, back in (link, link[::-1]):
            events = 0
            if flow.replies not in self._frozen and len(flow.held) < _LIMIT and not flow.ended:
                events |= selectors.EVENT_READ
            if back.replies not in self._frozen and back.held:
                events |= selectors.EVENT_WRITE
            watched = flow.source in self._selector.get_map()
            if events and watched:
                self._selector.modify(flow.source, events, link)
            elif events:
                self._selector.register(flow.source, events, link)
            elif watched:
                self._selector.unregister(flow.source)

    def _watch_all(self) -> None:
        for link in self._links:
            self._watch(link)

    def _end(self, link: tuple[_Flow, _Flow], *, reset: bool) -> None:
        self._links.remove(link)
        for flow in link:
            with suppress(KeyError):
                self._selector.unregister(flow.source)
            if reset:
                with suppress(OSError):
                    flow.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            flow.source.close()

    def _open_listener(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=128)
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _shut(self) -> None:
        self._closed = True
        self._close_listener()
        for link in list(self._links):
            self._end(link, reset=False)
