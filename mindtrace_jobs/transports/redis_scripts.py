"""The Lua scripts: each is one atomic step on the server.

Names of keys are written into a script's text, so that a call carries only what changes. That makes one text, and one
SHA, per combination of key prefix, separator and priority steps; a program has one or two of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

#: For each script the fragments it is made of, in order. See the files of these names under ``lua/``.
_PARTS = {
    "advance": ("advance",),
    "arrive": ("now", "arrive"),
    "claim": ("now", "place", "promote", "claim"),
    "declare": ("now", "place", "promote", "declare"),
    "delete": ("place", "purge", "delete"),
    "expired": ("now", "expired"),
    "give_back": ("now", "give_back"),
    "peek": ("now", "place", "promote", "peek"),
    "publish": ("now", "place", "publish"),
    "purge": ("place", "purge", "purge_queue"),
    "renew": ("now", "renew"),
    "route": ("now", "place", "route"),
    "stats": ("now", "place", "promote", "stats"),
}


@dataclass(frozen=True)
class Script:
    """A Lua script and the SHA-1 the server knows it by."""

    text: str
    sha: str


@dataclass(frozen=True)
class Keys:
    """The names of the keys on the server. ``queue``, ``queue + sep + step``, unacked and bindings are Kombu's.

    Attributes:
        prefix: Prepended to every key.
        sep: Between the parts of a name.
        steps: Kombu's priority steps, ascending; step 0 is the list named like the queue.
        unacked: Hash: delivery tag -> JSON ``[message, exchange, routing key]``.
        unacked_index: Sorted set: delivery tag -> the time it was taken or last renewed.
    """

    prefix: str = ""
    sep: str = "\x06\x16"
    steps: tuple[int, ...] = (0, 3, 6, 9)
    unacked: str = "unacked"
    unacked_index: str = "unacked_index"

    def taken(self, queue: str) -> bool:
        """Whether a queue of that name would be a key that is something else."""
        return queue in _OURS or queue in (self.unacked, self.unacked_index) or queue.startswith(_KOMBU)

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
            "UNACKED": self.prefix + self.unacked,
            "UNACKED_INDEX": self.prefix + self.unacked_index,
            "QUEUES": self.prefix + QUEUES,
            "EXCHANGES": self.prefix + EXCHANGES,
            "LEASES": self.prefix + LEASES,
            "STARTED": self.prefix + STARTED,
            "CONSUMERS": self.prefix + CONSUMERS,
            "BINDINGS": BINDINGS,
            "BINDINGS_PERMANENT": BINDINGS_PERMANENT,
        }


#: Suffix of a queue's sorted set of delayed messages.
DELAYED = "delayed"
#: Hash: queue -> its type (``fifo``, ``priority``, ``stack`` or empty: a plain queue).
QUEUES = "mindtrace.queues"
#: Hash: exchange -> its type, followed by ``/lists`` if a fanout exchange keeps a copy for each bound queue.
EXCHANGES = "mindtrace.exchanges"
#: Sorted set: delivery tag -> the time its lease expires.
LEASES = "mindtrace.leases"
#: Hash: delivery tag -> 1 for each delivery that is being worked on.
STARTED = "mindtrace.started"
#: Sorted set: ``channel:queue`` -> the time a consumer is taken for gone.
CONSUMERS = "mindtrace.consumers"
_OURS = frozenset({QUEUES, EXCHANGES, LEASES, STARTED, CONSUMERS})
#: Prefix of what Kombu keeps about exchanges.
_KOMBU = "_kombu."
#: Prefixes of Kombu's sets of bindings, one per exchange.
BINDINGS = "_kombu.binding."
BINDINGS_PERMANENT = "_kombu.binding_permanent."


@cache
def scripts(keys: Keys) -> dict[str, Script]:
    """Every script for these keys, by name."""
    constants = "".join(f"local {name} = {_quoted(value)}\n" for name, value in keys.constants().items())
    steps = ", ".join(_quoted(str(step)) for step in keys.steps)
    header = f"{constants}local STEPS = {{{steps}}}\n"
    return {name: _script(header, parts) for name, parts in _PARTS.items()}


def _script(header: str, parts: Sequence[str]) -> Script:
    folder = files(__package__) / "lua"
    body = "".join((folder / f"{part}.lua").read_text() for part in parts)
    text = header + body
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _quoted(text: str) -> str:
    """A Lua string literal; every byte escaped, whatever it is."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'
