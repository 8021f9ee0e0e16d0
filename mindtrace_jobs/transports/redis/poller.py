"""The loop of all channels of one connection, under ``drain_events`` and in Celery's event loop."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from queue import Empty
from typing import Any, Protocol

from kombu.transport import redis as kombu_redis
from kombu.utils.eventio import ERR, READ, poll

from mindtrace_jobs.transports.redis.consumers import Consumers
from mindtrace_jobs.transports.redis.deliveries import Deliveries, Turn
from mindtrace_jobs.transports.redis.waiter import Waiter

#: Seconds within which the event loop takes a turn whatever happens: Kombu has a timer of that period.
_TURN = 1.0
#: Seconds by which a timer may be off.
_TIMER_TOLERANCE = 0.002


class Polled(Protocol):
    """What is needed of a channel here, beside what Kombu's own poller needs."""

    consumers: Consumers
    deliveries: Deliveries
    waiter: Waiter
    puts_off: bool


class Poller(kombu_redis.MultiChannelPoller):
    """Waits for messages of every channel at once; what Kombu does with BRPOP is done by claims here.

    Kombu's part stays: PUB/SUB for broadcast, the registration of sockets, and the timers of its event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Celery's event loop, once it runs this.
        self.loop: Any = None
        #: Whether it delivers messages in its turn, some of which run then and there.
        self._delivering = False
        self._thread = 0
        self._turn = 0
        self._restore_at = 0.0
        self._timer: Any = None
        self._timer_at = 0.0
        #: Its wake-up pipe: reading and writing end.
        self._wakeup_pipe: tuple[int, ...] = ()
        #: Whether ``get`` waits, so that credit which another thread returns has to wake it up.
        self._awaits_credit = False

    # --- drain_events

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Deliver one message, waiting for it at most ``timeout`` seconds; raises Empty if there was none.

        May raise Empty earlier, to be called again.
        """
        self._in_protected_read = True
        try:
            self.maybe_refresh_binding_expiry()
            if self._deliver_one():
                return
            self._restore_stock()
            for channel in list(self._channels):
                # No claim has taken it along, and none may come for long.
                channel.deliveries.send_put_off()
            self._awaits_credit = True  # before it is looked whether there is any
            pause = self._watch_all(timeout)
            ready = self.poller.poll(pause) or ()
            self._awaits_credit = False
            for fileno, event in ready:
                if self._handle(fileno, event):
                    return
            if self._deliver_one():
                return
            raise Empty
        finally:
            self._awaits_credit = self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()

    def _deliver_one(self) -> bool:
        channels = list(self._channels)
        if len(channels) > 1:
            # Each channel in turn, so that none starves.
            channels.sort(key=lambda channel: channel.channel_id)
            self._turn += 1
            turn = self._turn % len(channels)
            channels = channels[turn:] + channels[:turn]
        for channel in channels:
            if channel.consumers.deliver_one():
                return True
        return any(channel.consumers.claim() and channel.consumers.deliver_one() for channel in channels)

    def _watch_all(self, timeout: float | None) -> float:
        """Register every socket to wait for; returns the seconds to wait at most."""
        pause = kombu_redis.DEFAULT_HEALTH_CHECK_INTERVAL if timeout is None else timeout
        for channel in list(self._channels):
            if channel.active_queues:
                # Watching may read what there is to know; so look after it.
                self._watch(channel)
                if channel.consumers.has_credit():
                    pause = min(pause, channel.waiter.left)
                elif not self._wakeup_pipe:
                    self._open_wakeup_pipe()
                    self.poller.register(self._wakeup_pipe[0], READ | ERR)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
        return max(0.0, float(pause))

    def _handle(self, fileno: int, event: int) -> bool:
        """Handle a readable socket; returns whether a message was delivered."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if channel is None:
            if fileno in self._wakeup_pipe:
                self._empty_wakeup_pipe()
            return False
        if kind == "CLAIM":
            channel.waiter.wake()
            return False
        if event & READ:
            try:
                return bool(channel.handlers[kind]())
            except Empty:
                return False
        if event & ERR:
            channel._poll_error(kind)
        return False

    def _restore_stock(self) -> None:
        """Now and then requeue what stock consumers received and let time out, by Kombu's own rule."""
        if self._restore_at <= time.monotonic():
            for channel in list(self._channels):
                if channel.active_queues:
                    pause = channel.unacked_restore_interval * channel.unacked_restore_throttle
                    self._restore_at = time.monotonic() + max(pause, 1)
                    channel.qos.restore_visible(num=channel.unacked_restore_limit, interval=1)
                    return

    # --- the event loop

    def on_poll_start(self) -> None:
        """At each turn of the event loop: claim and deliver what credit allows, then watch the sockets."""
        pauses: list[float] = []
        for channel in list(self._channels):
            if channel.active_queues and self._deliver_available(channel):
                # Consumers put off what they have to do, such as to acknowledge, to the next turn.
                pauses.append(0)
            channel.deliveries.send_put_off()
            # A callback may have cancelled or closed it.
            if channel.active_queues:
                # Watching may read what there is to know; so look after it.
                self._watch(channel)
                if channel.consumers.has_credit():
                    pauses.append(channel.waiter.left)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
        self._come_back(min(pauses, default=None))

    def _deliver_available(self, channel: Polled) -> bool:
        self._delivering = True
        try:
            return channel.consumers.deliver_available()
        finally:
            self._delivering = False

    def turn(self, channel: Polled) -> Turn:
        """Who does something next with a channel, and sends what it has put off."""
        if self.loop is None:
            return Turn.DELIVERY if channel.consumers.claims_next else Turn.CALLER
        if self._delivering and threading.get_ident() == self._thread:
            return Turn.DELIVERY
        return Turn.LOOP if channel.puts_off else Turn.CALLER

    def _come_back(self, seconds: float | None) -> None:
        """Have the next turn of the event loop in so many seconds at the latest."""
        if self.loop is None or seconds is None:
            return
        at = time.monotonic() + seconds
        # Every turn comes here, so a timer that fits is kept. Later than in a second there is a turn anyway.
        if seconds > 0:
            if abs(at - self._timer_at) < _TIMER_TOLERANCE or seconds > _TURN:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self.loop.call_later(seconds, _nothing), at
        # The loop has already decided how long it is going to wait in this turn.
        self._wake_up()

    def join_loop(self, loop: Any) -> None:
        """Become a part of an event loop, which other threads can wake up from now on."""
        self.loop = loop
        self._thread = threading.get_ident()
        if not self._wakeup_pipe:
            self._open_wakeup_pipe()
        loop.add_reader(self._wakeup_pipe[0], self._empty_wakeup_pipe)

    def _open_wakeup_pipe(self) -> None:
        self._wakeup_pipe = os.pipe()
        for descriptor in self._wakeup_pipe:
            os.set_blocking(descriptor, False)

    def _wake_up(self) -> None:
        if self._wakeup_pipe:
            # A full pipe wakes it up as well; nobody waits at one that another thread has just closed.
            with contextlib.suppress(OSError, IndexError):
                os.write(self._wakeup_pipe[1], b"x")

    def _empty_wakeup_pipe(self, *_: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup_pipe[0], 4096)

    def close(self) -> None:
        """Forget every channel."""
        super().close()
        if self._wakeup_pipe:
            if self.loop is not None:
                self.loop.remove(self._wakeup_pipe[0])
            with contextlib.suppress(KeyError, ValueError):
                self.poller.unregister(self._wakeup_pipe[0])
        self._close_wakeup_pipe()

    def on_readable(self, fileno: int) -> None:
        """A socket of the event loop is readable."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "CLAIM":
            # The next turn, which follows at once, claims.
            channel.waiter.wake()
        elif channel is not None:
            super().on_readable(fileno)

    def credit_returned(self) -> None:
        """Have whoever waits claim anew if this is another thread: it has acknowledged, so there is credit."""
        if self._awaits_credit or (self.loop is not None and threading.get_ident() != self._thread):
            self._wake_up()

    def after_fork_in_child(self) -> None:
        """Leave the parent's poller alone: unregistering here would unregister there."""
        self._fd_to_chan.clear()
        self._chan_to_sock.clear()
        self.poller = poll()
        self.loop = None
        self._close_wakeup_pipe()

    def _close_wakeup_pipe(self) -> None:
        descriptors, self._wakeup_pipe = self._wakeup_pipe, ()
        for descriptor in descriptors:
            os.close(descriptor)

    # --- sockets

    def _watch(self, channel: Polled) -> None:
        connection = channel.waiter.connection
        # Kombu looks at the connection of what is registered while one is being closed, when a waiter's would open another.
        wire = channel.waiter.wire
        ident = (channel, wire, "CLAIM")
        if self._chan_to_sock.get(ident) is not connection._sock:
            self._chan_to_sock.pop(ident, None)
            for fileno, owner in list(self._fd_to_chan.items()):
                if owner == (channel, "CLAIM"):
                    del self._fd_to_chan[fileno]
            self._register(channel, wire, "CLAIM")

    def forget(self, channel: Polled) -> None:
        """Watch a channel's sockets no longer."""
        for ident, sock in list(self._chan_to_sock.items()):
            if ident[0] is channel:
                with contextlib.suppress(AttributeError, KeyError, OSError, ValueError):
                    self._unregister_from_poll(sock.fileno())
                del self._chan_to_sock[ident]
        for fileno, (owner, _) in list(self._fd_to_chan.items()):
            if owner is channel:
                del self._fd_to_chan[fileno]


def _nothing() -> None:
    """Something for a timer to call: its turn of the event loop is what matters."""
