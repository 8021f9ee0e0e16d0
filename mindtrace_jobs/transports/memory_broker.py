"""The broker behind the memory transport: queues, what is being held, and who waits for messages.

A :class:`Broker` stands for a server, a :class:`Link` for a connection to it and a :class:`Session` for a channel.
Waiting is without polling. Each waiting connection sleeps on a lock of its own until a message for one of its queues
arrives, a delayed one becomes due, or its time is up. One message wakes one of them: waking all would make a publish
the dearer the more consumers idle. Whoever was woken wakes the next one if it leaves a message behind.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from itertools import count, islice
from time import monotonic
from typing import Any
from weakref import WeakSet

from kombu.transport import virtual

from mindtrace_jobs.transports.amqp_errors import RecoverableConnectionError
from mindtrace_jobs.transports.memory_delivery import (
    Consumer,
    Delivery,
    Link,
    Session,
    Waiter,
    copied,
    given_back,
)
from mindtrace_jobs.transports.memory_queue import MemoryQueue
from mindtrace_jobs.transports.protocol import FIFO, Payload


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
        self._waiters: dict[Waiter, None] = {}
        self._sessions: WeakSet[Session] = WeakSet()
        self._abandoned: deque[Session] = deque()
        self._tags = count(1)

    # --- queues

    def declare(self, name: str, kind: str, auto_delete: bool = False) -> MemoryQueue:
        """The queue of this name, made if there is none."""
        with self.lock:
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = MemoryQueue(name, kind, auto_delete)
            return queue

    def queue_type(self, name: str) -> str | None:
        """The type it was declared with; None if there is no such queue."""
        queue = self._queues.get(name)
        return None if queue is None else queue.kind

    def stats(self, name: str) -> dict[str, int]:
        """Counts by the keys ready, unacknowledged, delayed, consumers; all zero for an unknown queue."""
        with self.lock:
            self._collect_abandoned()
            queue = self._queues.get(name)
            ready, unacknowledged, delayed = (
                (queue.ready(), queue.unacknowledged, queue.delayed()) if queue is not None else (0, 0, 0)
            )
            consumers = self._consumers[name]
        return {"ready": ready, "unacknowledged": unacknowledged, "delayed": delayed, "consumers": consumers}

    def peek(self, name: str, limit: int) -> list[Payload]:
        """Copies of the next ``limit`` ready messages."""
        with self.lock:
            self._collect_abandoned()
            queue = self._queues.get(name)
            return [copied(payload, "") for payload in islice(queue, max(limit, 0))] if queue is not None else []

    def purge(self, name: str) -> int:
        """Remove ready and delayed messages; returns how many."""
        with self.lock:
            self._collect_abandoned()
            queue = self._queues.get(name)
            return 0 if queue is None else queue.clear()

    def delete(self, name: str) -> None:
        """Forget a queue, its messages and bindings. Held messages point to the forgotten queue: they do not return."""
        with self.lock:
            self._queues.pop(name, None)
            # Kombu's state forgets the bindings but leaves them in the tables by which exchanges route.
            for binding in self.state.queue_index.get(name, ()):
                exchange = self.state.exchanges.get(binding.exchange)
                if exchange is not None:
                    exchange["table"] = [entry for entry in exchange["table"] if entry[2] != name]
            self.state.queue_bindings_delete(name)

    def delete_exchange(self, name: str) -> None:
        """Forget an exchange and its bindings."""
        with self.lock:
            self.state.exchanges.pop(name, None)
            for binding in [key for key in self.state.bindings if key.exchange == name]:
                self.state.binding_delete(*binding)

    # --- messages in

    def put(self, names: Iterable[str], payload: Payload, delay: float = 0.0) -> None:
        """Add one message to each queue, making those that do not exist, and wake whoever waits for it.

        Args:
            names: The queues.
            payload: The message; it belongs to the broker from now on.
            delay: Seconds during which it is held back.
        """
        with self.lock:
            for name in names:
                queue = self._queues.get(name)
                if queue is None:
                    queue = self.declare(name, FIFO)
                if delay <= 0:
                    queue.put(payload)
                    if self._waiters:
                        self._wake_one(name)
                elif queue.put_delayed(payload, monotonic() + delay):
                    # Each of them must look at its clock again: the one that is woken may be busy at that time.
                    self._wake_all(name)

    # --- messages out

    def take(self, session: Session, name: str, no_ack: bool) -> Payload | None:
        """The next message of a queue, held by ``session`` unless ``no_ack``; None if none is ready."""
        with self.lock:
            self._collect_abandoned()
            queue = self._queues.get(name)
            payload = queue.take() if queue is not None else None
            if queue is None or payload is None:
                return None
            return self._hand_over(session, queue, payload, no_ack, prefetched=False)

    def wait(self, link: Link, timeout: float | None) -> tuple[Consumer, Payload] | None:
        """The next message for any consumer of a connection, waiting for it; None when there was none in time.

        Args:
            link: The connection.
            timeout: Seconds; None waits for ever, and 0 takes what is ready.

        Raises:
            RecoverableConnectionError: the connection was closed meanwhile.
        """
        deadline = None if timeout is None else monotonic() + timeout
        epoch = link.epoch
        waiter: Waiter | None = None
        while True:
            with self.lock:
                found = self._claim(link)
                if waiter is not None:
                    self._leave(waiter)
                if found is not None:
                    return found
                if link.epoch != epoch:
                    raise RecoverableConnectionError("the connection was closed while it waited for messages")
                now = monotonic()
                if deadline is not None and now >= deadline:
                    return None
                waiter = Waiter(link)
                self._waiters[waiter] = None
                wake_at = self._next_due(waiter, deadline)
            try:
                waiter.sleep(None if wake_at is None else wake_at - now)
            except BaseException:
                with self.lock:
                    self._leave(waiter)
                raise

    def acknowledge(self, session: Session, tag: str, multiple: bool = False) -> bool:
        """Forget a held message, with ``multiple`` also those handed out before it; False if it was taken back."""
        with self.lock:
            if tag not in session.held:
                return tag not in session.taken_back
            for each in session.up_to(tag) if multiple else (tag,):
                self._settle(session, each)
            return True

    def reject(self, session: Session, tag: str, requeue: bool) -> None:
        """Forget a held message, or put it back to the front of its queue. One that is not held is ignored."""
        with self.lock:
            delivery = self._settle(session, tag)
            if delivery is not None and requeue:
                self._put_back(delivery)

    def recover(self, session: Session) -> None:
        """Put back everything a session holds, as if each were rejected with requeue, in the original order."""
        with self.lock:
            self._put_back_all(session)

    # --- sessions

    def open(self, link: Link) -> Session:
        """Begin a session on a connection."""
        session = Session(link)
        with self.lock:
            self._sessions.add(session)
        return session

    def consume(self, consumer: Consumer) -> None:
        """Let ``wait`` return messages for this consumer."""
        link = consumer.session.link
        with self.lock:
            consumer.session.consumers.add(consumer)
            link.consumers = (*link.consumers, consumer)
            self._consumers[consumer.queue] += 1
            self._wake_link(link)

    def cancel(self, consumer: Consumer) -> None:
        """Undo ``consume``; an auto-delete queue goes with its last consumer."""
        session, name = consumer.session, consumer.queue
        with self.lock:
            if consumer not in session.consumers:
                return
            session.consumers.remove(consumer)
            session.link.consumers = tuple(other for other in session.link.consumers if other is not consumer)
            self._consumers[name] -= 1
            if self._consumers[name] > 0:
                return
            del self._consumers[name]
            queue = self._queues.get(name)
            if queue is not None and queue.auto_delete:
                self.delete(name)

    def set_prefetch(self, session: Session, limit: int) -> None:
        """Limit how many consumed messages the session holds; 0 means no limit."""
        with self.lock:
            session.prefetch = limit
            self._wake_link(session.link)

    def close(self, session: Session) -> None:
        """End a session: its holder is gone, and what it held goes back to the front in the original order."""
        with self.lock:
            for consumer in list(session.consumers):
                self.cancel(consumer)
            session.taken_back.update(session.held)
            self._put_back_all(session, vanished=True)

    def abandon(self, session: Session) -> None:
        """End the session of a channel that was dropped without being closed.

        Called by the garbage collector, possibly in a thread that is in the middle of using this broker: it only leaves
        a note, and the next one to take a message acts on it.
        """
        self._abandoned.append(session)
        for waiter in list(self._waiters):
            waiter.wake()

    def disconnect(self, link: Link) -> None:
        """Make every ``wait`` on this connection raise."""
        with self.lock:
            link.epoch += 1
            self._wake_link(link)

    def after_fork_in_child(self) -> None:
        """Forget the messages, which are the parent's, and the parent's threads."""
        self.lock = threading.RLock()
        self._waiters.clear()
        self._abandoned.clear()
        for session in self._sessions:
            session.held.clear()
            session.prefetched = 0
        for queue in self._queues.values():
            queue.clear()
            queue.unacknowledged = 0

    # --- the rest is called with the lock held

    def _claim(self, link: Link) -> tuple[Consumer, Payload] | None:
        """A ready message for the consumer whose turn it is."""
        if self._abandoned:
            self._collect_abandoned()
        consumers = link.consumers
        for step in range(len(consumers)):
            turn = (link.turn + step) % len(consumers)
            consumer = consumers[turn]
            if not consumer.has_room():
                continue
            queue = self._queues.get(consumer.queue)
            payload = queue.take() if queue is not None else None
            if queue is not None and payload is not None:
                link.turn = turn + 1
                held = self._hand_over(consumer.session, queue, payload, consumer.no_ack, prefetched=True)
                return consumer, held
        return None

    def _hand_over(
        self, session: Session, queue: MemoryQueue, payload: Payload, no_ack: bool, prefetched: bool
    ) -> Payload:
        tag = str(next(self._tags))
        if not no_ack:
            session.hold(tag, Delivery(queue, payload, prefetched))
            queue.unacknowledged += 1
        # The holder gets a copy: what it does to it must not show when the message comes back.
        return copied(payload, tag)

    def _settle(self, session: Session, tag: str) -> Delivery | None:
        full = not session.has_room()
        delivery = session.release(tag)
        if delivery is not None:
            delivery.queue.unacknowledged -= 1
            if full and self._waiters:
                self._wake_link(session.link)
        return delivery

    def _put_back_all(self, session: Session, vanished: bool = False) -> None:
        for tag in reversed(list(session.held)):
            delivery = self._settle(session, tag)
            if delivery is not None:
                self._put_back(delivery, vanished)

    def _put_back(self, delivery: Delivery, vanished: bool = False) -> None:
        queue = delivery.queue
        if self._queues.get(queue.name) is queue:
            queue.put_front(given_back(delivery, vanished))
            self._wake_one(queue.name)

    def _collect_abandoned(self) -> None:
        while self._abandoned:
            session = self._abandoned.popleft()
            for consumer in list(session.consumers):
                self.cancel(consumer)
            self._put_back_all(session, vanished=True)

    def _next_due(self, waiter: Waiter, deadline: float | None) -> float | None:
        times = [] if deadline is None else [deadline]
        for name in waiter.queues:
            queue = self._queues.get(name)
            due = queue.next_due() if queue is not None else None
            if due is not None:
                times.append(due)
        return min(times, default=None)

    def _leave(self, waiter: Waiter) -> None:
        """Stop waiting; if this one was woken, what it left behind is for somebody else."""
        self._waiters.pop(waiter, None)
        if waiter.woken and self._waiters:
            for name in waiter.queues:
                queue = self._queues.get(name)
                if queue is not None and queue.ready():
                    self._wake_one(name)

    def _wake_one(self, name: str) -> None:
        for waiter in self._waiters:
            if not waiter.woken and name in waiter.queues:
                waiter.wake()
                return

    def _wake_all(self, name: str) -> None:
        for waiter in self._waiters:
            if name in waiter.queues:
                waiter.wake()

    def _wake_link(self, link: Link) -> None:
        for waiter in self._waiters:
            if waiter.link is link:
                waiter.wake()
