"""The broker behind the memory transport: queues, who holds what, and who waits for messages.

Waiting is without polling. A connection that finds nothing sleeps on its own condition, all of which share the broker's
one lock, until a message for one of its queues arrives, a delayed one becomes due, or its time is up. One message wakes
one connection, the one that has waited longest: waking all would make a publish the dearer the more consumers idle.
So whoever was woken wakes the next one if it leaves a message behind.
"""

from __future__ import annotations

import threading
from _thread import start_new_thread
from collections import Counter
from collections.abc import Iterable
from itertools import count, islice, takewhile
from time import monotonic
from typing import Any

from kombu.transport import virtual

from mindtrace_jobs import _forks
from mindtrace_jobs.transports.amqp_errors import RecoverableConnectionError
from mindtrace_jobs.transports.contract import FIFO, PLAIN, PRIORITY, Payload
from mindtrace_jobs.transports.memory.queue import MemoryQueue
from mindtrace_jobs.transports.memory.sessions import Connection, Consumer, Delivery, Session, copied


class Broker:
    """Queues and exchanges shared by the connections of one broker id. Safe for threads.

    ``lock`` guards everything, ``state`` (Kombu's table of exchanges and bindings) included. It is never held while a
    caller's code runs.
    """

    def __init__(self, broker_id: str) -> None:
        self.broker_id = broker_id
        self.lock = threading.RLock()
        self.state: Any = virtual.BrokerState()
        self._queues: dict[str, MemoryQueue] = {}
        self._consumers: Counter[str] = Counter()
        #: The sleeping threads by the queues they wait for, the one that has slept longest first.
        self._sleeping: dict[str, dict[object, Connection]] = {}
        self._tags = count(1)

    def __str__(self) -> str:
        return f"memory broker {self.broker_id!r}"

    # --- queues

    def declare(self, name: str, kind: str, auto_delete: bool = False) -> MemoryQueue:
        """The queue of this name, made if there is none. A plain one becomes a priority queue if it is declared so."""
        with self.lock:
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = MemoryQueue(name, kind, auto_delete)
            elif queue.kind == PLAIN and kind == PRIORITY:
                queue.prioritize()
            return queue

    def queue_type(self, name: str) -> str | None:
        """The type it was declared with; None if there is no such queue."""
        queue = self._queues.get(name)
        return None if queue is None else queue.kind

    def stats(self, name: str) -> dict[str, int]:
        """Counts by the keys ready, unacknowledged, delayed and consumers."""
        with self.lock:
            queue = self._queues.get(name) or MemoryQueue(name, FIFO)
            counts = {"ready": queue.ready(), "unacknowledged": queue.unacknowledged, "delayed": queue.delayed()}
            return {**counts, "consumers": self._consumers[name]}

    def peek(self, name: str, limit: int, offset: int) -> list[Payload]:
        """Copies of ``limit`` ready messages behind the next ``offset``."""
        with self.lock:
            found = islice(self._queues.get(name, ()), offset, offset + max(limit, 0))
            return [copied(payload, "") for payload in found]

    def purge(self, name: str) -> int:
        """Remove ready and delayed messages; returns how many."""
        with self.lock:
            queue = self._queues.get(name)
            return 0 if queue is None else queue.clear()

    def delete(self, name: str) -> None:
        """Forget a queue, its messages and bindings. Held messages belong to the forgotten queue: they do not return."""
        with self.lock:
            self._queues.pop(name, None)
            # Kombu's state forgets the bindings but leaves them in the tables by which exchanges route.
            for binding in self.state.queue_index.get(name, ()):
                exchange = self.state.exchanges.get(binding.exchange)
                if exchange is not None:
                    exchange["table"] = [entry for entry in exchange["table"] if entry[2] != name]
            self.state.queue_bindings_delete(name)

    # --- messages

    def put(self, names: Iterable[str], payload: Payload, delay: float = 0.0) -> None:
        """Add a message, the broker's own from now on, to each queue, held back for ``delay`` seconds.

        Queues that do not exist are made.
        """
        with self.lock:
            for name in names:
                queue = self._queues.get(name) or self.declare(name, FIFO)
                if delay <= 0:
                    queue.put(payload)
                    if self._sleeping:
                        self._wake(name)
                elif queue.put_delayed(payload, monotonic() + delay):
                    # Each must look at its clock again: a single one may be busy when the message is due.
                    self._wake(name, limit=None)

    def take(self, session: Session, name: str, no_ack: bool) -> Payload | None:
        """The next message of a queue, held by ``session`` unless ``no_ack``; None if none is ready."""
        with self.lock:
            return self._take(session, name, no_ack, prefetched=False)

    def wait(self, connection: Connection, deadline: float | None) -> tuple[Consumer, Payload] | None:
        """The next message for any consumer of a connection, waiting for it; None when there was none in time.

        Args:
            connection: The connection.
            deadline: In monotonic seconds; None waits for ever, and one that has passed takes what is ready.

        Raises:
            RecoverableConnectionError: the connection was closed meanwhile.
        """
        closings = connection.closings
        names: set[str] = set()
        with self.lock:
            try:
                while (found := self._take_turn(connection)) is None:
                    if connection.closings != closings:
                        raise RecoverableConnectionError("the connection was closed while it waited for messages")
                    if deadline is not None and monotonic() >= deadline:
                        return None
                    self._pass_on(names)
                    names = {consumer.queue for consumer in connection.consumers if consumer.has_room()}
                    self._sleep(connection, names, deadline)
                return found
            finally:
                self._pass_on(names)

    def acknowledge(self, session: Session, tag: str, multiple: bool = False) -> bool:
        """Forget a held message, with ``multiple`` also those delivered before it; False if it was requeued before."""
        with self.lock:
            if tag not in session.held:
                return tag not in session.taken_back
            if multiple:
                for earlier in list(takewhile(lambda each: each != tag, session.held)):
                    self._settle(session, earlier)
            self._settle(session, tag)
            return True

    def reject(self, session: Session, tag: str) -> None:
        """Forget a held message. One that is not held is ignored."""
        with self.lock:
            self._settle(session, tag)

    def requeue(self, session: Session, tag: str, *, front: bool = True) -> None:
        """Requeue a held message: it is the next one of its priority, or the last one. One not held is ignored."""
        with self.lock:
            delivery = self._settle(session, tag)
            if delivery is not None:
                self._requeue(delivery, vanished=False, front=front)

    def take_back(self, session: Session, tags: Iterable[str]) -> None:
        """Put messages whose holder is gone back to the front of their queues, in the original order."""
        with self.lock:
            for tag in reversed(list(tags)):
                delivery = self._settle(session, tag)
                if delivery is not None:
                    session.taken_back.add(tag)
                    self._requeue(delivery, vanished=True)

    # --- consumers, sessions and connections

    def register(self, consumer: Consumer) -> None:
        """Let ``wait`` return messages for this consumer."""
        connection = consumer.session.connection
        with self.lock:
            connection.consumers.append(consumer)
            self._consumers[consumer.queue] += 1
            connection.wake_up.notify_all()

    def unregister(self, consumer: Consumer) -> None:
        """Undo ``register``; an auto-delete queue goes with its last consumer."""
        consumers, name = consumer.session.connection.consumers, consumer.queue
        with self.lock:
            if consumer not in consumers:
                return
            consumers.remove(consumer)
            self._consumers[name] -= 1
            if not self._consumers[name]:
                del self._consumers[name]
                queue = self._queues.get(name)
                if queue is not None and queue.auto_delete:
                    self.delete(name)

    def set_prefetch(self, session: Session, limit: int) -> None:
        """Limit how many consumed messages the session holds; 0 means no limit."""
        with self.lock:
            session.prefetch = limit
            session.connection.wake_up.notify_all()

    def close(self, session: Session) -> None:
        """End a session with its consumers: what it held goes back to its queues."""
        with self.lock:
            for consumer in session.consumers():
                self.unregister(consumer)
            self.take_back(session, session.held)

    def abandon(self, session: Session) -> None:
        """End the session of a channel that was dropped without being closed.

        Called by the garbage collector, in any thread and at any instant, also while that thread or another one is in
        the middle of a change. It must not wait for a lock, so a thread of its own does the work.
        """
        if session.held or session.consumers():
            start_new_thread(self.close, (session,))  # threading.Thread takes a lock to start

    def disconnect(self, connection: Connection) -> None:
        """Make every ``wait`` on this connection raise."""
        with self.lock:
            connection.closings += 1
            connection.wake_up.notify_all()

    def after_fork_in_child(self) -> None:
        """Forget the messages, which are the parent's, as if their queues were deleted, and the parent's threads."""
        self._sleeping.clear()
        for name, queue in self._queues.items():
            self._queues[name] = MemoryQueue(name, queue.kind, queue.auto_delete)

    # --- the rest is called with the lock held

    def _take_turn(self, connection: Connection) -> tuple[Consumer, Payload] | None:
        """A ready message for one of the consumers, beginning with the one whose turn it is."""
        consumers = connection.consumers
        for step in range(len(consumers)):
            turn = (connection.turn + step) % len(consumers)
            consumer = consumers[turn]
            if consumer.has_room():
                payload = self._take(consumer.session, consumer.queue, consumer.no_ack, prefetched=True)
                if payload is not None:
                    connection.turn = turn + 1
                    return consumer, payload
        return None

    def _take(self, session: Session, name: str, no_ack: bool, prefetched: bool) -> Payload | None:
        queue = self._queues.get(name)
        payload = queue.take() if queue is not None else None
        if queue is None or payload is None:
            return None
        tag = str(next(self._tags))
        if not no_ack:
            session.held[tag] = Delivery(queue, payload, prefetched)
            session.prefetched += prefetched
            queue.unacknowledged += 1
        # The holder gets a copy: what it does to it must not show when the message comes back.
        return copied(payload, tag)

    def _settle(self, session: Session, tag: str) -> Delivery | None:
        """Hold a message no longer; None if it is not held."""
        delivery = session.held.pop(tag, None)
        if delivery is not None:
            delivery.queue.unacknowledged -= 1
            if delivery.prefetched:
                if not session.has_room():
                    session.connection.wake_up.notify_all()
                session.prefetched -= 1
        return delivery

    def _requeue(self, delivery: Delivery, vanished: bool, *, front: bool = True) -> None:
        queue = delivery.queue
        if self._queues.get(queue.name) is queue:
            queue.requeue(delivery.to_requeue(vanished), front=front)
            self._wake(queue.name)

    def _sleep(self, connection: Connection, names: Iterable[str], deadline: float | None) -> None:
        """Give up the lock until woken, until the deadline, or until a delayed message of these queues is due."""
        sleeper = object()
        until = deadline
        for name in names:
            self._sleeping.setdefault(name, {})[sleeper] = connection
            queue = self._queues.get(name)
            due = queue.next_due() if queue is not None else None
            if due is not None and (until is None or due < until):
                until = due
        try:
            connection.wake_up.wait(None if until is None else min(until - monotonic(), threading.TIMEOUT_MAX))
        finally:
            for name in names:
                sleepers = self._sleeping.get(name)
                if sleepers is not None:
                    sleepers.pop(sleeper, None)
                    if not sleepers:
                        del self._sleeping[name]

    def _wake(self, name: str, limit: int | None = 1) -> None:
        """Wake so many of the connections that wait for a queue, those that have waited longest; None wakes all."""
        sleepers = self._sleeping.get(name)
        if sleepers:
            for sleeper in list(islice(sleepers, limit)):
                sleepers.pop(sleeper).wake_up.notify_all()

    def _pass_on(self, names: Iterable[str]) -> None:
        """Wake the next connection for what is left in the queues for which this thread may have been woken."""
        for name in names:
            queue = self._queues.get(name) if name in self._sleeping else None
            if queue is not None and queue.ready():
                self._wake(name)


# The brokers of this process, which outlive their connections. After a fork the child's keep their queues, exchanges and
# bindings, for Kombu remembers what it has declared, but no message: each stays in the parent, so that none runs twice.
_brokers: dict[str, Broker] = {}
_lock = threading.RLock()


def get_broker(broker_id: str) -> Broker:
    """The broker of that id, made if there is none."""
    with _lock:
        return _brokers.get(broker_id) or _brokers.setdefault(broker_id, Broker(broker_id))


def _before_fork() -> None:
    # With every lock held no other thread is in the middle of a change, so the child gets whole tables.
    _lock.acquire()
    for broker in _brokers.values():
        broker.lock.acquire()


def _after_fork_in_parent() -> None:
    for broker in _brokers.values():
        broker.lock.release()
    _lock.release()


def _after_fork_in_child() -> None:
    for broker in _brokers.values():
        broker.after_fork_in_child()
    _after_fork_in_parent()  # the child's only thread is the one that took the locks


_forks.register(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
