"""One connection to a Redis server and the commands sent over it.

redis-py's connection does what is hard: addresses, TLS, Sentinel, authentication, the protocol. What is left out is its
client, whose bookkeeping takes longer than the command.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from mindtrace_jobs.transports.redis.scripts import Script


class NotNowError(ResponseError):
    """The server answers, and will serve again: it has too few replicas, cannot write to its disk, runs a script."""

    def __repr__(self) -> str:
        """With the server's reason, which redis-py leaves out: Celery logs no more than this."""
        return f"{type(self).__name__}({str(self)!r})"


#: What a server raises that will serve again; the others are that it is a replica, or has lost its master.
NOT_NOW = (NotNowError, ReadOnlyError, MasterDownError)
_NOT_NOW = re.compile("(NOREPLICAS|MISCONF|BUSY) ")

Command = Sequence[Any]
#: A script that was sent, its arguments, and what is to be told its result, or why there is none.
_Posted = tuple[Script, Sequence[Any], Callable[[Any], None], Callable[[Exception], None]]

#: What a command in a script said, as Redis before 7 wraps it.
_OF_A_SCRIPT = re.compile(r"Error running script .*: -([A-Z]+ .*)", re.DOTALL)
#: Bytes after which a new piece of a pipeline begins.
_PIECE = 1 << 14


class Wire:
    """One connection, connected when it is first used, and again after it broke. Safe for threads, forks and signal handlers.

    Commands raise what redis-py raises: ``ConnectionError`` and ``TimeoutError`` when the connection is lost (a command
    may or may not have been done then; it is never repeated), ``ResponseError`` when the server refuses. A connection
    that was closed while it lay idle, or on which nobody answers any more, is replaced before anything is sent.

    Args:
        make: Makes a redis-py connection; not yet connected.
        connected: Called with each connection once it is established.
        unasked: Called with the connection when there is something to read that no command asked for. Without it, that
            is a reason to connect anew.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        connected: Callable[[Any], None] | None = None,
        unasked: Callable[[Any], None] | None = None,
    ) -> None:
        self._make = make
        self._connected = connected
        self._unasked = unasked
        self._lock: Any = threading.RLock()
        self._pid = os.getpid()
        self._owed: deque[_Posted] = deque()
        self.connection: Any = None
        #: Whether the server said that it is a replica.
        self._elsewhere = False

    def call(self, *command: Any) -> Any:
        """Send one command and wait for its reply."""
        with self._exclusive():
            connection = self._ready()
            self._send(connection, [command])
            return self._read(connection)

    def script(self, script: Script, keys: Sequence[str] = (), args: Sequence[Any] = ()) -> Any:
        """Run a script and wait for its result."""
        with self._exclusive():
            connection = self._ready()
            self._send(connection, [("EVALSHA", script.sha, len(keys), *keys, *args)])
            try:
                return self._read(connection)
            except NoScriptError:
                self._send(connection, [("EVAL", script.text, len(keys), *keys, *args)])
                return self._read(connection)

    def post(
        self, script: Script, args: Sequence[Any], then: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Run a script without keys and without waiting for its result.

        It is sent before this returns, and done before whatever this wire sends later, unless the server has forgotten
        the script: then it is done as soon as that is known. The result is read with the next command, or by
        ``collect``, and passed to ``then``; to ``failed`` goes what the server says if it refuses, or that the connection
        was lost, so that nobody knows whether it was done.
        """
        with self._exclusive():
            connection = self._ready()
            # With the text, since nobody would see that the script was not known.
            known = script.sha in self._known(connection)
            command = ("EVALSHA", script.sha) if known else ("EVAL", script.text)
            self._send(connection, [(*command, 0, *args)])
            self._known(connection).add(script.sha)
            self._owed.append((script, args, then, failed))

    def collect(self) -> None:
        """Read the results of what was posted, if they have arrived; while another thread uses this wire, nothing."""
        lock = self._exclusive()
        if self._owed and lock is self._lock and lock.acquire(blocking=False):
            try:
                if self._owed and self.connection is not None and self._readable(self.connection):
                    self._settle(self.connection)
            finally:
                lock.release()

    def scripts(self, calls: Sequence[tuple[Script, Sequence[Any]]]) -> list[Any]:
        """Run many scripts without keys in one round trip; what one of them raised is its result."""
        with self._exclusive():
            connection = self._ready()
            known = self._known(connection)
            unknown = {script.sha: script.text for script, _ in calls if script.sha not in known}
            commands: list[Command] = [("SCRIPT", "LOAD", text) for text in unknown.values()]
            commands += [("EVALSHA", script.sha, 0, *args) for script, args in calls]
            replies = self._exchange(connection, commands)[len(unknown) :]
            known.update(unknown)
            for i, reply in enumerate(replies):
                if isinstance(reply, NoScriptError):
                    script, args = calls[i]
                    replies[i] = self._exchange(connection, [("EVAL", script.text, 0, *args)])[0]
            return replies

    def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send many commands in one round trip; what one of them raised is its result."""
        with self._exclusive():
            return self._exchange(self._ready(), commands)

    def connect(self) -> Any:
        """Connect now if it is not connected; returns redis-py's connection."""
        with self._exclusive():
            return self._ready()

    def answer_within(self, seconds: float, make: Callable[[], Any]) -> None:
        """From now on wait so many seconds for an answer, also on connections that are made then."""
        # Not under the lock: whoever holds it may be waiting for this very server.
        self._make = make
        connection = self.connection
        if connection is not None and connection._sock is not None:
            connection._sock.settimeout(seconds)

    def close(self) -> None:
        """Close the connection. The next command connects again."""
        with self._exclusive():
            self._part()

    def drop(self) -> None:
        """In a forked child: close the descriptor and tell the server nothing, the parent goes on using it."""
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._owed.clear()
        self._close()

    # --- with the lock held

    def _exclusive(self) -> Any:
        if self._pid != os.getpid():
            self.drop()
        if self._lock._is_owned():
            # Nothing here calls itself, so this is a signal handler that runs in the midst of a command.
            return self._aside()
        return self._lock

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """A connection for what a signal handler has to say: the other's next reply is the interrupted command's."""
        interrupted = self.connection, self._owed
        self.connection, self._owed = None, deque()
        try:
            yield
        finally:
            self._part()
            self.connection, self._owed = interrupted

    def _ready(self) -> Any:
        connection = self.connection
        if connection is not None and connection._sock is not None:
            if self._owed:
                self._settle(connection)
            if connection._sock is not None and (self._stale(connection) or self._dead(connection)):
                self._close()
        if self._elsewhere or self.connection is None or self.connection._sock is None:
            self._close()
            self._elsewhere = False
            connection = self._make()
            connection.connect()
            self.connection = connection
            connection.mindtrace_known = set()
            if self._connected is not None:
                try:
                    self._connected(connection)
                except BaseException:
                    self._close()
                    raise
        return self.connection

    @staticmethod
    def _known(connection: Any) -> set[str]:
        known: set[str] = connection.mindtrace_known
        return known

    def _part(self) -> None:
        if self._owed and self.connection is not None:
            # With replies unread the system resets the connection, and the server may never see what was sent last.
            self._settle(self.connection)
        self._close()

    def _close(self) -> None:
        connection, self.connection = self.connection, None
        owed, self._owed = self._owed, deque()
        if connection is not None:
            connection.disconnect()
        for *_, failed in owed:
            failed(RedisConnectionError("the connection was closed before the answer was read"))

    def _stale(self, connection: Any) -> bool:
        """Tell whether something can be read where nothing is expected: the server closed the connection."""
        if not self._readable(connection):
            return False
        try:
            # TLS has messages of its own, which are no reason to give up the connection.
            if not connection.can_read(timeout=0):
                return False
            if self._unasked is None:
                return True
            self._unasked(connection)
            return connection._sock is None
        except (RedisError, OSError):
            return True

    @staticmethod
    def _dead(connection: Any) -> bool:
        """Tell whether nobody answers on a connection that lay idle: what is in between may have forgotten it."""
        try:
            connection.check_health()
        except (RedisError, OSError):
            return True
        return False

    @staticmethod
    def _readable(connection: Any) -> bool:
        if connection._sock is None:
            return False
        poller = select.poll()
        poller.register(connection._sock, select.POLLIN)
        return bool(poller.poll(0))

    def _settle(self, connection: Any) -> None:
        """Read what is owed. A connection that is lost over it is closed, and no concern of what comes next."""
        owed, self._owed = self._owed, deque()
        try:
            replies = [self._read_or_error(connection) for _ in owed]
            for index, (script, args, *_) in enumerate(owed):
                if isinstance(replies[index], NoScriptError):
                    replies[index] = self._exchange(connection, [("EVAL", script.text, 0, *args)])[0]
        except (RedisError, OSError) as error:
            self._close()
            replies = [error] * len(owed)
        except BaseException:
            self._close()
            for *_, failed in owed:
                failed(RedisConnectionError("interrupted while the answer was read"))
            raise
        for (_, _, then, failed), reply in zip(owed, replies, strict=True):
            if isinstance(reply, Exception):
                failed(reply)
            else:
                then(reply)

    def _send(self, connection: Any, commands: Sequence[Command]) -> None:
        connection.send_packed_command(_packed(commands), check_health=False)

    def _read(self, connection: Any) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except ResponseError as error:
            told = _OF_A_SCRIPT.match(str(error))
            found = error if told is None else connection._parser.parse_error(told[1])
            if isinstance(found, ReadOnlyError):
                # The name may lead to another server by now.
                self._elsewhere = True
            elif _NOT_NOW.match(str(found)):
                raise NotNowError(str(found)) from error
            if found is error:
                raise
            raise found from error

    def _exchange(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        self._send(connection, commands)
        return [self._read_or_error(connection) for _ in commands]

    def _read_or_error(self, connection: Any) -> Any:
        try:
            return self._read(connection)
        except ResponseError as error:
            return error


def _packed(commands: Sequence[Command]) -> list[bytes]:
    """Commands as RESP sends them, in pieces of some ten kilobytes; redis-py's own way takes several times as long."""
    pieces: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for value in command:
            data = value if isinstance(value, bytes) else str(value).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
            size += len(data)
        if size > _PIECE:
            pieces.append(b"".join(parts))
            parts, size = [], 0
    if parts:
        pieces.append(b"".join(parts))
    return pieces


def raise_first(replies: Sequence[Any]) -> None:
    """Raise the first error among the replies of a pipeline."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
