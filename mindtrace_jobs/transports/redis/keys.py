"""The names of all keys on the server."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from mindtrace_jobs.errors import ConfigurationError

#: Suffix of a queue's sorted set of delayed messages.
DELAYED: Final = "delayed"
#: Hash: queue -> its type (``fifo``, ``priority``, ``stack`` or empty: a plain queue).
QUEUES: Final = "mindtrace.queues"
#: Hash: exchange -> its type, followed by ``/lists`` if a fanout exchange keeps a copy for each bound queue.
EXCHANGES: Final = "mindtrace.exchanges"
#: Sorted set: delivery tag -> the time its lease expires.
LEASES: Final = "mindtrace.leases"
#: Hash: delivery tag -> 1 for each delivery that is being worked on.
STARTED: Final = "mindtrace.started"
#: Sorted set: ``channel:queue`` -> the time a consumer is taken for gone.
CONSUMERS: Final = "mindtrace.consumers"
#: Prefix of strings: queue -> milliseconds after which it vanishes unless it is used. Kept while something of it is held.
EXPIRES: Final = "mindtrace.expires:"
_RESERVED: Final = frozenset({QUEUES, EXCHANGES, LEASES, STARTED, CONSUMERS})
#: Prefix of what Kombu keeps about exchanges.
_KOMBU: Final = "_kombu."
#: Prefixes of what Celery's result backend keeps, often on the same server. A queue of such a name would only keep one
#: result from being written.
RESULTS: Final = ("celery-task-meta-", "celery-taskset-meta-", "chord-unlock-")
#: Prefixes of Kombu's sets of bindings, one per exchange.
BINDINGS: Final = "_kombu.binding."
BINDINGS_PERMANENT: Final = "_kombu.binding_permanent."
#: Kombu's sorted set: exchange -> the time its bindings expire.
BINDING_DEADLINES: Final = "_kombu.binding_deadlines"


@dataclass(frozen=True)
class Keys:
    """The names of the keys on the server. ``queue``, ``queue + sep + step``, unacked and bindings are Kombu's.

    Attributes:
        prefix: Prepended to every key.
        sep: Between the parts of a name.
        steps: Kombu's priority steps, ascending; step 0 is the list named like the queue.
        unacked: Hash: delivery tag -> JSON ``[message, exchange, routing key]``.
        unacked_index: Sorted set: delivery tag -> the time it was received or last renewed.
        unacked_mutex: Kombu's lock for restoring what stock consumers took.
    """

    prefix: str = ""
    sep: str = "\x06\x16"
    steps: tuple[int, ...] = (0, 3, 6, 9)
    unacked: str = "unacked"
    unacked_index: str = "unacked_index"
    unacked_mutex: str = "unacked_mutex"

    def reserved(self, queue: str) -> bool:
        """Tell whether a queue of that name would be a key that is something else."""
        own = (self.unacked, self.unacked_index, self.unacked_mutex)
        return queue in _RESERVED or queue in own or queue.startswith((_KOMBU, EXPIRES))

    def lists(self, queue: str) -> list[str]:
        """The lists of a queue, one per priority step, ascending."""
        return [self.list(queue, step) for step in self.steps]

    def list(self, queue: str, step: int) -> str:
        """The list that holds a queue's messages of one priority step."""
        return f"{self.prefix}{queue}{self.sep}{step}" if step else f"{self.prefix}{queue}"

    def delayed(self, queue: str) -> str:
        """The sorted set of a queue's delayed messages: ``step number:message`` -> the time it is due."""
        return f"{self.prefix}{queue}{self.sep}{DELAYED}"

    def named(self, name: str) -> str:
        """A key that belongs to no queue."""
        return self.prefix + name

    def constants(self) -> dict[str, str]:
        """The names as the scripts call them."""
        return {
            "PREFIX": self.prefix,
            "SEP": self.sep,
            "DELAYED": self.sep + DELAYED,
            "UNACKED": self.named(self.unacked),
            "UNACKED_INDEX": self.named(self.unacked_index),
            "QUEUES": self.named(QUEUES),
            "EXCHANGES": self.named(EXCHANGES),
            "LEASES": self.named(LEASES),
            "STARTED": self.named(STARTED),
            "CONSUMERS": self.named(CONSUMERS),
            "EXPIRES": self.named(EXPIRES),
            "BINDINGS": BINDINGS,
            "BINDINGS_PERMANENT": BINDINGS_PERMANENT,
        }


def checked_steps(steps: object) -> tuple[int, ...]:
    """Kombu's transport option ``priority_steps``, ascending, and 0 among them: every message has a step then.

    Raises:
        ConfigurationError: it is no collection of whole numbers from 0 on.
    """
    found = tuple(steps) if isinstance(steps, Collection) else (None,)
    if not all(type(step) is int and step >= 0 for step in found):
        raise ConfigurationError(
            f"the transport option priority_steps is {steps!r:.80}: it must be whole numbers from 0 on, as [0, 3, 6, 9]"
        )
    return tuple(sorted({0, *found}))
