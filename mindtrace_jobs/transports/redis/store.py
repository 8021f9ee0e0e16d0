"""Every operation of the transport on a Redis server, as a typed call. Knows nothing of channels."""

from __future__ import annotations

import json
import logging
import re
import time
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from uuid import uuid4

from mindtrace_jobs._serializer_entry import CONTENT_TYPE
from mindtrace_jobs.transports.contract import DELAY_PROPERTY, RECORD_PROPERTY, Payload, Record
from mindtrace_jobs.transports.redis import messages
from mindtrace_jobs.transports.redis.keys import (
    BINDING_DEADLINES,
    BINDINGS,
    BINDINGS_PERMANENT,
    CONSUMERS,
    EXCHANGES,
    LEASES,
    QUEUES,
    Keys,
)
from mindtrace_jobs.transports.redis.scripts import Script, scripts
from mindtrace_jobs.transports.redis.wire import Posted, Wire, raise_first

logger = logging.getLogger(__name__)

#: Tags in one call of a script: bounds how long the server is busy with it.
_CHUNK = 500
#: Messages in one call of a script, and bytes after which no more are added: a server takes a gigabyte at a time.
PORTION, PORTION_SIZE = 100, 1 << 20


#: Arguments of the script ``requeue`` for each delivery.
_REQUEUE_ARGS = 5
#: Seconds between two reports of a queue that cannot be used.
_REPORT_EVERY = 60.0


@dataclass(slots=True)
class Held:
    """A delivery that this process has received and not yet settled."""

    tag: str
    queue: str
    payload: Payload
    #: Came to a consumer, which may have received it ahead of time.
    consumed: bool = False
    #: Work on it has started.
    started: bool = False
    #: It is being acknowledged or requeued.
    settling: bool = False
    #: By ``clock``: until then its lease has surely not run out.
    sure_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim.

    Attributes:
        deliveries: What was received, in order.
        short: Whether less was there than asked for.
        due: Seconds until the next delayed message is due, if less was there and one is known.
    """

    deliveries: list[Held]
    short: bool
    due: float | None


class Store:
    """The server's side of one channel, which it knows by a name of its own.

    Args:
        wire: The connection for commands.
        keys: The names of the keys.
        lease: Seconds a delivery stays with a holder that does not renew it.
        expires: Milliseconds after which a queue vanishes unless it is used, for those that do.
    """

    def __init__(self, wire: Wire, keys: Keys, lease: float, expires: Mapping[str, int]) -> None:
        self.wire = wire
        self._expires = expires
        self.keys = keys
        self.lease = lease
        self.scripts: dict[str, Script] = scripts(keys)
        #: The channel's name on the server: the prefix of its delivery tags and of its consumers.
        self.identity = uuid4().hex
        #: This name and those before a fork.
        self._names: tuple[str, ...] = (self.identity,)
        #: The number in the next delivery tag.
        self._number = 0
        #: What claims are told of each queue.
        self._names_known: dict[str, tuple[list[str], str]] = {}
        #: When it was last said of a queue that it cannot be used.
        self._reported: dict[str, float] = {}

    def rename(self) -> None:
        """In a forked child: take another name, for the parent goes on under this one."""
        self.identity = uuid4().hex
        self._names += (self.identity,)

    def claimed(self, tag: str) -> bool:
        """Tell whether a delivery tag was made by a claim of this channel."""
        return tag.startswith(self._names)

    # --- publishing

    def publish_args(self, queue: str, payload: Payload, *, declare: bool) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Make the arguments of the script ``publish``: those of the call and those of this message.

        What the transport is told in the message's properties stays with this call.
        """
        payload, delay, record = _told(payload)
        call = (queue, "1" if declare else "", self._expires.get(queue, 0), *(record or ("",)))
        return call, (self._step(payload), delay, messages.dump(payload))

    def publish(self, queue: str, payload: Payload, *, declare: bool = False) -> None:
        """Add a message to a queue.

        Args:
            queue: The queue.
            payload: The message; a property ``delay`` is the seconds for which it is held back.
            declare: Record the queue as a fifo queue if it is unknown and empty.
        """
        call, message = self.publish_args(queue, payload, declare=declare)
        self.wire.script(self.scripts["publish"], args=(*call, *message))

    def route_args(self, exchange: str, kind: str, routing_key: str, payload: Payload) -> tuple[Any, ...]:
        """Make the arguments of the script ``route``.

        Raises:
            NotImplementedError: the message comes with a record, which only goes to a queue.
        """
        payload, delay, record = _told(payload)
        if record is not None:
            raise NotImplementedError("a record is kept together with a message to a queue, not to an exchange")
        return exchange, kind, routing_key, self._step(payload), delay, messages.dump(payload)

    def route(self, exchange: str, kind: str, routing_key: str, payload: Payload) -> int:
        """Add a message to every queue that an exchange delivers to; returns how many these are.

        Args:
            exchange: The exchange.
            kind: Its type, if the server has no record of it.
            routing_key: What it routes by.
            payload: The message.
        """
        return int(self.wire.script(self.scripts["route"], args=self.route_args(exchange, kind, routing_key, payload)))

    # --- receiving and settling

    def claim(
        self,
        queues: Sequence[tuple[str, bool]],
        wanted: int,
        share: int,
        wire: Wire | None = None,
        first: Posted | None = None,
    ) -> Claim:
        """Take up to ``wanted`` messages.

        Args:
            queues: Each queue in turn, and whether its deliveries need no acknowledgement: they are gone at once.
            wanted: The most to take.
            share: The most to take from one queue while others have any.
            wire: The connection to use, if not this store's: the one that waits.
            first: What is done before, in the same round trip.
        """
        keys: list[str] = []
        args: list[Any] = [wanted, share, self.identity, self._number, self.lease]
        for queue, no_ack in queues:
            names, quoted = self._names_of(queue)
            keys += names
            args += (queue, quoted, "gone" if no_ack else self._expires.get(queue, ""))
        begin = self._number
        sure_until = clock() + self.lease
        # Whatever becomes of the reply, these numbers may be in use.
        self._number += wanted
        taken, due, left_out = (wire or self.wire).script(self.scripts["claim"], keys, args, first=first)
        for number in left_out:
            self._left_out(queues[number - 1][0])
        deliveries = []
        for offset in range(0, len(taken), 2):
            queue = queues[taken[offset] - 1][0]
            tag = f"{self.identity}:{begin + offset // 2:012d}:{queue}"
            payload = messages.load(taken[offset + 1], tag, queue)
            deliveries.append(Held(tag, queue, payload, sure_until=sure_until))
        return Claim(deliveries, len(deliveries) < wanted, None if due is None else float(due))

    def _names_of(self, queue: str) -> tuple[list[str], str]:
        """The keys of a queue that a claim takes, and its name in JSON; the same at each claim."""
        found = self._names_known.get(queue)
        if found is None:
            found = [self.keys.delayed(queue), *self.keys.lists(queue)], json.dumps(queue)
            self._names_known[queue] = found
        return found

    def _left_out(self, queue: str) -> None:
        """Log, now and then, that a queue cannot be used; the others are."""
        if self._reported.get(queue, -_REPORT_EVERY) + _REPORT_EVERY <= clock():
            self._reported[queue] = clock()
            logger.error("queue %r is left out: a key of its holds something else than messages", queue)

    def replace(self, tag: str, queue: str, payload: Payload) -> bool:
        """Add a message to a queue, declared if need be, in the place of a delivery; False if that was lost before.

        Raises:
            NotImplementedError: the message comes with a record, which only a new one has.
        """
        payload, delay, record = _told(payload)
        if record is not None:
            raise NotImplementedError("a record is kept together with a new message, not with one in another's place")
        args = (tag, queue, self._expires.get(queue, 0), self._step(payload), delay, messages.dump(payload))
        return bool(self.wire.script(self.scripts["replace"], args=args))

    def requeue(self, deliveries: Sequence[Held], *, vanished: bool = False, front: bool = True) -> set[str]:
        """Put deliveries back into their queues, in their order; returns those that were lost before.

        Args:
            deliveries: In the order in which they were received.
            vanished: Their holder goes away without a word about them; else it requeues them by itself.
            front: They are the next ones of their priority; else they are behind all that wait.
        """
        kinds = self.kinds({held.queue for held in deliveries})
        lost: set[str] = set()

        def send(args: list[str]) -> None:
            gone, _ = self.wire.script(self.scripts["requeue"], args=["", *args])
            lost.update(tag.decode() for tag in gone)

        args: list[str] = []
        size = 0
        for held in reversed(deliveries) if front else deliveries:
            # A consumer takes ahead; what it requeues untouched was not really delivered.
            delivered = held.started or not held.consumed
            text = messages.requeued(held.payload, delivered=delivered, lost=held.started and vanished)
            args += self._requeue_args(held.tag, held.queue, kinds[held.queue], held.payload, text, front=front)
            size += len(text)
            if size >= PORTION_SIZE or len(args) >= _REQUEUE_ARGS * PORTION:
                send(args)
                args, size = [], 0
        if args:
            send(args)
        return lost

    # --- leases

    def renew(self, wire: Wire, tags: Sequence[str], consumers: Sequence[str]) -> set[str]:
        """Renew leases; returns the tags whose lease was lost. ``consumers`` are the queues it consumes."""
        portions = chunks(tags) or [()]
        calls = [(self.scripts["renew"], [self.lease, len(portion), *portion]) for portion in portions]
        calls[0][1].extend(self._consumer(queue) for queue in consumers)
        replies = wire.scripts(calls)
        raise_first(replies)
        return {tag.decode() for reply in replies for tag in reply}

    def leased(self, tag: str | bytes) -> bool:
        """Tell whether a delivery has a lease, expired or not: those of stock consumers have none."""
        return self.wire.call("ZSCORE", self.keys.named(LEASES), tag) is not None

    def restore_expired(self, wire: Wire) -> int:
        """Requeue what holders held whose lease expired; returns how many messages.

        They are the next ones. But a message that is no job, whose losses nobody counts, goes behind all that wait when it
        was requeued before: one that ends every process that receives it would keep the others from being received.
        """
        count = 0
        while True:
            found = wire.script(self.scripts["expired"], args=[PORTION, PORTION_SIZE])
            if not found:
                return count
            front: list[Any] = []
            back: list[list[Any]] = []
            for offset in range(0, len(found), 4):
                tag, record, started, kind = found[offset : offset + 4]
                name = tag.decode()
                queue = name.split(":", 2)[2]
                # The record is the message between a bracket and the queue's name, see claim.lua.
                raw = record[1 : -len(f', "", {json.dumps(queue)}]')]
                payload = messages.load(raw, name, queue)
                text = messages.requeued(payload, delivered=True, lost=bool(started))
                counted = started or payload.get("content-type") == CONTENT_TYPE
                is_next = bool(counted or not messages.deliveries(payload))
                found_args = self._requeue_args(name, queue, kind.decode(), payload, text, front=is_next)
                if is_next:
                    front += found_args
                else:
                    back.append(found_args)
            # They come latest first.
            args = ["1", *front, *chain.from_iterable(reversed(back))]
            gone, stay = (set(map(bytes.decode, tags)) for tags in wire.script(self.scripts["requeue"], args=args))
            for name in args[1::_REQUEUE_ARGS]:
                queue = name.split(":", 2)[2]
                if name in stay:
                    self._left_out(queue)
                elif name not in gone:
                    count += 1
                    logger.warning("restored a message to queue %r: the lease of its holder expired", queue)

    def register(self, queue: str) -> None:
        """Be counted as a consumer of a queue until ``unregister``, or until the lease ends without renewal."""
        self.wire.script(self.scripts["register"], args=(self.lease, self._consumer(queue)))

    def unregister(self, queues: Iterable[str]) -> None:
        """Be no longer counted as a consumer of these queues."""
        names = [self._consumer(queue) for queue in queues]
        if names:
            self.wire.call("ZREM", self.keys.named(CONSUMERS), *names)

    def _consumer(self, queue: str) -> str:
        """The name under which this channel's consumer of a queue is counted."""
        return f"{self.identity}:{queue}"

    # --- queues

    def declare(self, queue: str, kind: str, *, record: bool) -> tuple[str | None, int, int]:
        """Record a queue's type unless it has one; returns its type, ready and delayed messages."""
        found, ready, delayed = self.wire.script(self.scripts["declare"], args=[queue, kind, "1" if record else ""])
        return (None if found is None else found.decode()), int(ready), int(delayed)

    def kind(self, queue: str) -> str | None:
        """A queue's type; None if there is no such queue. One that only a stock publisher knows is plain: ``""``."""
        kind, ready, delayed = self.declare(queue, "", record=False)
        return "" if kind is None and ready + delayed else kind

    def kinds(self, queues: Iterable[str]) -> dict[str, str]:
        """The recorded types of queues; ``""`` for those that have none."""
        names = list(queues)
        if not names:
            return {}
        found = self.wire.call("HMGET", self.keys.named(QUEUES), *names)
        return {name: (kind or b"").decode() for name, kind in zip(names, found, strict=True)}

    def stats(self, queue: str) -> dict[str, int]:
        """Counts of a queue by the keys ready, unacknowledged, delayed and consumers."""
        ready, delayed, moment = self.wire.script(self.scripts["stats"], args=[queue])
        # Deliveries and consumers of all queues are looked through, so a few at a time, with others served in between.
        held = self._scan(LEASES, f"{_ANY_IDENTITY}:{_ANY_NUMBER}:{_literally(queue)}")
        consumers = self._scan(CONSUMERS, f"{_ANY_IDENTITY}:{_literally(queue)}")
        alive = sum(until >= float(moment) for until in consumers.values())
        return {"ready": ready, "unacknowledged": len(held), "delayed": delayed, "consumers": alive}

    def _scan(self, name: str, pattern: str) -> dict[bytes, float]:
        """The members of a sorted set that fit a pattern, and their scores."""
        found: dict[bytes, float] = {}
        cursor = b"0"
        while True:
            cursor, pairs = self.wire.call("ZSCAN", self.keys.named(name), cursor, "MATCH", pattern, "COUNT", 1000)
            found.update(zip(pairs[::2], map(float, pairs[1::2]), strict=True))
            if int(cursor) == 0:
                return found

    def peek(self, queue: str, limit: int, offset: int, *, bodies: bool) -> list[Payload]:
        """See ``JobsChannel.peek``."""
        if limit < 1:
            return []
        found = self.wire.script(self.scripts["peek"], args=[queue, limit, offset, "" if bodies else "1"])
        return [messages.load(raw, f"peek:{number}", queue) for number, raw in enumerate(found)]

    def purge(self, queue: str) -> int:
        """Remove the ready and delayed messages; returns how many."""
        return int(self.wire.script(self.scripts["purge"], args=[queue]))

    def delete(self, queue: str) -> int:
        """Remove a queue with everything that is known of it; returns how many messages were ready or delayed."""
        ending = f', "", {json.dumps(queue)}]'
        return int(self.wire.script(self.scripts["delete"], args=[queue, ending]))

    # --- exchanges

    def declare_exchange(self, exchange: str, kind: str, *, lists: bool) -> tuple[str, bool]:
        """Record an exchange's type unless it has one; returns the recorded one as ``exchange`` does."""
        name = self.keys.named(EXCHANGES)
        record = f"{kind}/lists" if lists else kind
        made, found = self.wire.pipeline([("HSETNX", name, exchange, record), ("HGET", name, exchange)])
        raise_first((made, found))
        return _exchange(found or record.encode())

    def bind(self, exchange: str, member: str) -> None:
        """Add a binding to Kombu's table of an exchange, and to the one that keeps Kombu from ever sweeping the first."""
        self._all([("SADD", self.keys.named(table + exchange), member) for table in (BINDINGS, BINDINGS_PERMANENT)])

    def unbind(self, exchange: str, member: str) -> None:
        """Remove a binding."""
        self._all([("SREM", self.keys.named(table + exchange), member) for table in (BINDINGS, BINDINGS_PERMANENT)])

    def exchange(self, exchange: str) -> tuple[str, bool] | None:
        """An exchange's type, and whether each queue bound to it keeps a copy; None if it has no record."""
        record = self.wire.call("HGET", self.keys.named(EXCHANGES), exchange)
        return None if record is None else _exchange(record)

    def delete_exchange(self, exchange: str) -> None:
        """Remove an exchange and its bindings. One that is not there is no error."""
        bindings = [self.keys.named(table + exchange) for table in (BINDINGS, BINDINGS_PERMANENT)]
        self._all(
            [
                ("HDEL", self.keys.named(EXCHANGES), exchange),
                ("DEL", *bindings),
                ("ZREM", self.keys.named(BINDING_DEADLINES), exchange),
            ]
        )

    # --- details

    def _all(self, commands: Sequence[Sequence[Any]]) -> None:
        raise_first(self.wire.pipeline(commands))

    def _step(self, payload: Payload) -> int:
        return bisect(self.keys.steps, messages.priority(payload))

    def _requeue_args(self, tag: str, queue: str, kind: str, payload: Payload, text: str, *, front: bool) -> list[Any]:
        """The arguments of the script ``requeue`` for one delivery."""
        step = 0 if kind in ("fifo", "stack") else self._step(payload) - 1
        return [tag, queue, self.keys.list(queue, self.keys.steps[step]), text, "RPUSH" if front else "LPUSH"]


#: Patterns for the parts of a delivery tag and of a consumer's name.
_ANY_IDENTITY, _ANY_NUMBER = "?" * 32, "?" * 12


def _literally(text: str) -> str:
    """A pattern that fits nothing but this text."""
    return re.sub(r"([][*?\\^-])", r"\\\1", text)


def clock() -> float:
    """Seconds that pass also while the machine sleeps, where the system tells; else monotonic ones."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def _exchange(record: bytes) -> tuple[str, bool]:
    kind, _, lists = record.decode().partition("/")
    return kind, bool(lists)


def _told(payload: Payload) -> tuple[Payload, float | str, Record | None]:
    """A message without what only the transport is told in its properties: the delay, and the record of its job.

    The caller's own properties are left as they are: Kombu publishes with them again after a lost connection.
    """
    properties = payload["properties"]
    if DELAY_PROPERTY not in properties and RECORD_PROPERTY not in properties:
        return payload, "0", None
    properties = {**properties}
    delay, record = properties.pop(DELAY_PROPERTY, None), properties.pop(RECORD_PROPERTY, None)
    return {**payload, "properties": properties}, (float(delay) if delay and float(delay) > 0 else "0"), record


def chunks(items: Sequence[Any]) -> list[Sequence[Any]]:
    """What goes into one call of a script each."""
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
