"""Who took a job last, as told by the server's append-only file.

A consumer of this package takes a message and records it in one step, so both stand in one transaction of the file. A
stock one pops, which stands alone there, and records what it got in a later step; when it dies in between, the message is
nowhere. So the history of a job that is gone says whose loss it is.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

_OURS = re.compile(rb"[0-9a-f]{32}:\d{12,}:")
_UNACKED = b"unacked"

Command = list[bytes]


class Last(Enum):
    """What was done last with a job."""

    QUEUED = "queued"
    CLAIMED = "taken and recorded in one step"
    POPPED = "popped by stock, and recorded nowhere since"
    RECORDED = "popped by stock, and recorded"
    SETTLED = "settled by us"
    SETTLED_BY_STOCK = "settled by stock"


def gone_with_stock(folder: Path, numbers: Callable[[dict[str, Any]], list[int]]) -> set[int]:
    """The jobs that stock consumers had last and that are nowhere on the server.

    Args:
        folder: The server's.
        numbers: The numbers of the jobs in a message.
    """
    history = _History(numbers)
    for transaction in _transactions(folder):
        history.add(transaction)
    return {number for number, last in history.last.items() if last in (Last.POPPED, Last.SETTLED_BY_STOCK)}


class _History:
    def __init__(self, numbers: Callable[[dict[str, Any]], list[int]]) -> None:
        self._numbers = numbers
        self._lists: defaultdict[bytes, deque[bytes]] = defaultdict(deque)
        self._held: dict[bytes, bytes] = {}
        self.last: dict[int, Last] = {}

    def add(self, transaction: list[Command]) -> None:
        claimed = any(command[:2] == [b"HSET", _UNACKED] for command in transaction)
        for name, *args in transaction:
            if name in (b"LPUSH", b"RPUSH"):
                key, *values = args
                add = self._lists[key].appendleft if name == b"LPUSH" else self._lists[key].append
                for value in values:
                    add(value)
                    self._note(value, Last.QUEUED)
            elif name == b"RPOP":
                for _ in range(int(args[1]) if args[1:] else 1):
                    if self._lists[args[0]]:
                        self._note(self._lists[args[0]].pop(), Last.CLAIMED if claimed else Last.POPPED)
            elif name == b"HSET" and args[0] == _UNACKED:
                for tag, record in zip(args[1::2], args[2::2], strict=True):
                    self._held[tag] = json.dumps(json.loads(record)[0]).encode()
                    self._note(self._held[tag], Last.CLAIMED if _OURS.match(tag) else Last.RECORDED)
            elif name == b"HDEL" and args[0] == _UNACKED:
                for tag in args[1:]:
                    if tag in self._held:
                        last = Last.SETTLED if _OURS.match(tag) else Last.SETTLED_BY_STOCK
                        self._note(self._held.pop(tag), last)
            elif name in (b"DEL", b"UNLINK"):
                for key in args:
                    self._lists.pop(key, None)

    def _note(self, message: bytes, last: Last) -> None:
        try:
            found = self._numbers(json.loads(message))
        except (ValueError, TypeError, KeyError):
            return  # a list of something else
        self.last.update(dict.fromkeys(found, last))


def _transactions(folder: Path) -> Iterator[list[Command]]:
    """What the server did, one step at a time."""
    step: list[Command] | None = None
    for command in _commands(folder):
        name = command[0] = command[0].upper()
        if name == b"MULTI":
            step = []
        elif name == b"EXEC":
            yield step or []
            step = None
        elif step is not None:
            step.append(command)
        else:
            yield [command]


def _commands(folder: Path) -> Iterator[Command]:
    # Redis 7 has a folder of them, older ones one file.
    files = sorted(folder.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))
    for path in files or [folder / "appendonly.aof"]:
        with path.open("rb") as file:
            while (head := file.readline()).startswith(b"*"):
                command = []
                for _ in range(int(head[1:])):
                    size = int(file.readline()[1:])
                    command.append(file.read(size))
                    file.readline()
                yield command
