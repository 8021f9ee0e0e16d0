"""Exceptions of all kinds, made anew for each raise: those a runner must be able to report."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import ClassVar

from pydantic import BaseModel, ValidationError


class Departure(BaseException):
    """Somebody's own BaseException."""


class HoldsLock(Exception):  # noqa: N818 - named for what it holds
    """It cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class OtherArguments(Exception):  # noqa: N818 - named for what is wrong with it
    """Its constructor takes other arguments than it keeps."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} (code {code})")


class ErrorsMethod(Exception):  # noqa: N818 - named for what is wrong with it
    """``errors`` is a method, as Pydantic's own is."""

    def errors(self) -> list[str]:
        return ["one", "two"]


class ErrorsTexts(Exception):  # noqa: N818 - named for what is wrong with it
    """``errors`` is a list of texts."""

    errors: ClassVar[list[str]] = ["one", "two"]


class ErrorsTable(Exception):  # noqa: N818 - named for what is wrong with it
    """``errors`` is a dict."""

    errors: ClassVar[dict[str, int]] = {"one": 1}


class Unprintable(Exception):  # noqa: N818 - named for what is wrong with it
    """It has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Box(BaseModel):
    """A model that a handler validates something by."""

    left: int


def _local() -> Exception:
    class LocalError(Exception):
        pass

    return LocalError("defined in a function")


def _validation() -> Exception:
    try:
        Box.model_validate({"left": "far"})
    except ValidationError as error:
        return error
    raise AssertionError


def _json() -> Exception:
    try:
        json.loads("{")
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


#: What the action of the same name raises.
FAILURES: dict[str, Callable[[], Exception]] = {
    "holds a lock": lambda: HoldsLock("holds a lock"),
    "other arguments": lambda: OtherArguments(7, "refused"),
    "pydantic": _validation,
    "json": _json,
    "group": lambda: ExceptionGroup("several", [ValueError("one"), OSError("two")]),
    "errors is a method": lambda: ErrorsMethod("has a method"),
    "errors is a list of texts": lambda: ErrorsTexts("has texts"),
    "errors is a dict": lambda: ErrorsTable("has a table"),
    "unprintable": lambda: Unprintable("no matter"),
    "local": _local,
}
