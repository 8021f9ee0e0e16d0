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
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from mindtrace_jobs.transports.redis.resp import Command, packed
from mindtrace_jobs.transports.redis.scripts import Script


class NotNowError(ResponseError):
    """The server answers, and will serve again: it has too few replicas, cannot write to its disk, runs a script."""

    def __repr__(self) -> str:
        """With the server's reason, which redis-py leaves out: Celery logs no more than this."""
        return f"{type(self).__name__}({str(self)!r})"


#: What a server raises that will serve again; the others are that it is a replica, or has lost its master.
NOT_NOW = (NotNowError, ReadOnlyError, MasterDownError)
_NOT_NOW = re.compile("(NOREPLICAS|MISCONF|BUSY) ")


@dataclass(frozen=True, slots=True, eq=False)
class Posted:
    """A script without keys whose result nobody waits for.

    Attributes:
        script, args: The script, and its arguments.
        then: Called with the result when it is read.
        failed: Called with what the server says if it refuses, or with the error if the connection is lost before, so
            that nobody knows whether it was done.
    """

    script: Script
    args: Sequence[Any]
    then: Callable[[Any], None]
    failed: Callable[[BaseException], None]


#: What a command in a script said, as Redis before 7 wraps it.
_OF_A_SCRIPT = re.compile(r"Error running script .*: -([A-Z]+ .*)", re.DOTALL)


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
        self._owed: deque[Posted] = deque()
        self.connection: Any = None
        #: Returns what is to be done before the next command, if there is anything.
        self.put_off: Callable[[], Posted | None] = lambda: None
        #: Whether the server said that it is a replica.
        self._elsewhere = False

    def call(self, *command: Any) -> Any:
        """Send one command and wait for its reply."""
        with self._exclusive():
            connection = self._ready()
            self._send(connection, [command])
            return self._read(connection)

    def script(
        self, script: Script, keys: Sequence[str] = (), args: Sequence[Any] = (), *, first: Posted | None = None
    ) -> Any:
        """Run a script and wait for its result.

        Args:
            script, keys, args: The script, the keys that it uses, and its arguments.
            first: What is done before, in the same round trip. Its ``failed`` is called if it is not even sent.
        """
        with self._exclusive():
            command = ("EVALSHA", script.sha, len(keys), *keys, *args)
            if first is None:
                connection = self._ready()
                self._send(connection, [command])
                try:
                    return self._read(connection)
                except NoScriptError:
                    pass
            else:
                try:
                    connection = self._ready()
                    self._send(connection, [self._of(first, connection), command])
                except BaseException as error:
                    first.failed(error)
                    raise
                self._owed.append(first)
                reply = self._settle(connection, awaited=True)
                if not isinstance(reply, Exception):
                    return reply
                if not isinstance(reply, NoScriptError):
                    raise reply
            self._send(connection, [("EVAL", script.text, len(keys), *keys, *args)])
            return self._read(connection)

    def post(self, posted: Posted) -> None:
        """Run a script without waiting for its result.

        It is sent before this returns, and done before whatever this wire sends later, unless the server has forgotten
        the script: then it is done as soon as that is known. The result is read with the next command, or by ``collect``.
        If it is not even sent, this raises and ``failed`` is not called.
        """
        with self._exclusive():
            connection = self._ready()
            self._send(connection, [self._of(posted, connection)])
            self._owed.append(posted)

    def _of(self, posted: Posted, connection: Any) -> Command:
        """The command of what is posted: with the script's text at first, since nobody would see that it was not known."""
        known, script = self._known(connection), posted.script
        command = ("EVALSHA", script.sha) if script.sha in known else ("EVAL", script.text)
        known.add(script.sha)
        return (*command, 0, *posted.args)

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

    @property
    def connected(self) -> bool:
        """Whether it is connected, as far as is known."""
        return self.connection is not None and self.connection._sock is not None

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
        posted = self.put_off()
        if posted is not None:
            self._send_first(posted)
        return self.connection

    def _send_first(self, posted: Posted) -> None:
        """Send what was put off, and read what comes of it."""
        try:
            self._send(self.connection, [self._of(posted, self.connection)])
        except BaseException as error:
            posted.failed(error)
            raise
        self._owed.append(posted)
        self._settle(self.connection)
        if not self.connected:
            raise RedisConnectionError("the connection was lost")

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
        for posted in owed:
            posted.failed(RedisConnectionError("the connection was closed before the answer was read"))

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

    def _settle(self, connection: Any, *, awaited: bool = False) -> Any:
        """Read what is owed. A connection that is lost over it is closed, and no concern of what comes next.

        Args:
            connection: The connection.
            awaited: The reply to one more command is read behind, and returned: an error if it is one.
        """
        owed, self._owed = self._owed, deque()
        reply: Any = None
        try:
            replies = [self._read_or_error(connection) for _ in owed]
            if awaited:
                reply = self._read_or_error(connection)
            for index, posted in enumerate(owed):
                if isinstance(replies[index], NoScriptError):
                    command = ("EVAL", posted.script.text, 0, *posted.args)
                    replies[index] = self._exchange(connection, [command])[0]
        except (RedisError, OSError) as error:
            self._close()
            replies, reply = [error] * len(owed), error
        except BaseException:
            self._close()
            for posted in owed:
                posted.failed(RedisConnectionError("interrupted while the answer was read"))
            raise
        for posted, found in zip(owed, replies, strict=True):
            if isinstance(found, Exception):
                posted.failed(found)
            else:
                posted.then(found)
        return reply

    def _send(self, connection: Any, commands: Sequence[Command]) -> None:
        connection.send_packed_command(packed(commands), check_health=False)

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


def raise_first(replies: Sequence[Any]) -> None:
    """Raise the first error among the replies of a pipeline."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
