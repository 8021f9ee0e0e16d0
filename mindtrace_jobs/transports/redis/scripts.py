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

from mindtrace_jobs.transports.redis.keys import Keys

#: For each script the fragments it is made of, in order. See the files of these names under ``lua/``.
_PARTS = {
    "acknowledge": ("record", "acknowledge"),
    "claim": ("now", "place", "promote", "claim"),
    "declare": ("now", "place", "promote", "declare"),
    "delete": ("place", "purge", "delete"),
    "expired": ("now", "expired"),
    "peek": ("now", "place", "promote", "peek"),
    "publish": ("now", "place", "add", "publish"),
    "purge": ("place", "purge", "purge_queue"),
    "register": ("now", "register"),
    "renew": ("now", "renew"),
    "replace": ("now", "place", "add", "replace"),
    "requeue": ("now", "requeue"),
    "route": ("now", "place", "add", "route"),
    "stats": ("now", "place", "promote", "stats"),
}
#: The same of scripts that need no names of keys: they write records where no broker is.
_RECORD_PARTS = {
    "result": ("record", "result"),
    "submitted": ("submitted",),
}


@dataclass(frozen=True)
class Script:
    """A Lua script and the SHA-1 the server knows it by."""

    text: str
    sha: str


@cache
def scripts(keys: Keys) -> dict[str, Script]:
    """Every script for these keys, by name."""
    constants = "".join(f"local {name} = {_quoted(value)}\n" for name, value in keys.constants().items())
    steps = ", ".join(_quoted(str(step)) for step in keys.steps)
    header = f"{constants}local STEPS = {{{steps}}}\n"
    return {name: _script(header, parts) for name, parts in _PARTS.items()}


@cache
def record_scripts() -> dict[str, Script]:
    """The scripts that write the records of jobs, by name."""
    return {name: _script("", parts) for name, parts in _RECORD_PARTS.items()}


def _script(header: str, parts: Sequence[str]) -> Script:
    folder = files(__package__) / "lua"
    body = "".join((folder / f"{part}.lua").read_text() for part in parts)
    text = header + body
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _quoted(text: str) -> str:
    """A Lua string literal; every byte escaped, whatever it is."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'
