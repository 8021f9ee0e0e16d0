"""What is wrong with data, in words that hold none of it: payloads are private, and their size is a stranger's choice."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from mindtrace_jobs.errors import InvalidPayloadError

#: Offences that are named; of those beyond only the number is said.
MAX_NAMED = 20
_LONGEST_MESSAGE = 500
_LONGEST_NAME = 64
#: Stands in a path for a key of the data.
HIDDEN = "*"
#: Nodes of data up to which every offence is looked for.
_SMALL = 10_000
#: Pydantic's words for these quote a part of the data.
_WORDS = {
    "bytes_invalid_encoding": "Data should be valid in its encoding",
    "import_error": "Input should be the path of something that can be imported",
    "uuid_parsing": "Input should be a valid UUID",
}


def invalid(title: str, error: ValidationError, names: Collection[str], path: str = "") -> InvalidPayloadError:
    """The error that says what is wrong with a payload.

    Args:
        title: What it was read as.
        error: What Pydantic found.
        names: What the schema may put into a path, see ``receiving.Validator``.
        path: Where in the message the data was.
    """
    found = explain(error, names, path)
    named, more = found[:MAX_NAMED], len(found) - MAX_NAMED
    text = "; ".join(f"{item['field'] or '(all)'}: {item['message']}" for item in named)
    return InvalidPayloadError(f"{title}: {text}" + (f"; and {more} more" if more > 0 else ""), named)


def explain(error: ValidationError, names: Collection[str], path: str = "") -> list[dict[str, Any]]:
    """Path, reason and kind of each offence."""
    return [
        {
            "field": ".".join(filter(None, (path, *(_step(step, names, item["type"]) for step in item["loc"])))),
            "message": _message(item),
            "type": item["type"],
        }
        for item in error.errors(include_input=False, include_url=False)
        if item["type"] != "default_factory_not_called"  # only ever follows from another offence
    ]


def _step(step: int | str, names: Collection[str], kind: str) -> str:
    if isinstance(step, int) or step in names or step == "[key]":
        return str(step)
    # The name of an unknown field is what its producer has to know.
    unknown_field = kind == "extra_forbidden" and step.isidentifier() and len(step) <= _LONGEST_NAME
    return step if unknown_field else HIDDEN


def _message(item: Any) -> str:
    if item["type"] == "union_tag_invalid":
        text = f"Input tag does not match any of the expected tags: {item['ctx']['expected_tags']}"
    else:
        text = _WORDS.get(item["type"], item["msg"])
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " ..."


def is_small(data: Any) -> bool:
    """Whether data has few enough nodes that everything wrong with it may be listed."""
    left, waiting = _SMALL, [data]
    while waiting:
        node = waiting.pop()
        children: Collection[Any] = ()
        if isinstance(node, dict):
            children = node.values()
        elif isinstance(node, list | tuple | set | frozenset):
            children = node
        left -= len(children)
        if left < 0:
            return False
        waiting.extend(children)
    return True
