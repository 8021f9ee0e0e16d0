"""Python values <-> JSON values that say their own type.

What JSON cannot say is written ``{"__type__": ..., "__value__": ...}``, with Kombu's own names and forms for the types
its JSON serializer knows (datetime, date, time, decimal, uuid, bytes, base64), so each reads the other's. Models, schemas
and jobs are tagged the same way by ``encoding`` and ``decoding``.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from mindtrace_jobs.errors import DecodeError, EncodeError
from mindtrace_jobs.serializer.bounds import decimal, is_bounded_number, refuse_chosen_hashes

Encode = Callable[[Any], Any]
Decode = Callable[[Any], Any]

TYPE, VALUE = "__type__", "__value__"
_TAGGED = {TYPE, VALUE}
JSON_SCALARS = frozenset([str, int, float, bool, type(None)])


def tagged(name: str, value: Any) -> dict[str, Any]:
    """A JSON object that says what its value is."""
    return {TYPE: name, VALUE: value}


def is_tagged(node: Mapping[str, Any]) -> bool:
    """Whether this JSON object is one that ``tagged`` made."""
    return len(node) == 2 and node.keys() == _TAGGED


def _encode_bytes(value: bytes, _encode: Encode) -> Any:
    try:
        return tagged("bytes", bytes(value).decode("utf-8"))
    except UnicodeDecodeError:
        return tagged("base64", b64encode(value).decode("ascii"))


def encode_dict(value: Mapping[Any, Any], encode: Encode) -> Any:
    """The JSON form of a dict; one whose keys are not strings, or which looks like a tag, as a list of pairs."""
    if all(type(key) is str for key in value) and not is_tagged(value):
        return {key: encode(item) for key, item in value.items()}
    return tagged("dict", [[encode(key), encode(item)] for key, item in value.items()])


def _decode_dict(pairs: Any, decode: Decode) -> dict[Any, Any]:
    keys = refuse_chosen_hashes([decode(key) for key, _ in pairs])
    return dict(zip(keys, (decode(item) for _, item in pairs), strict=True))


def _decimal_text(value: Decimal) -> str:
    if not is_bounded_number(value):
        raise EncodeError(
            "a Decimal of more than 4300 digits, or with a larger exponent, cannot be published: use text"
        )
    return str(value)


def _encode_moment(value: datetime | time, name: str) -> Any:
    # ISO 8601 has no name of a zone and no fold, and a time in a named zone has no offset either.
    key = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    if key is None and not value.fold:
        return tagged(name, value.isoformat())
    bare = value.isoformat() if key is None else value.replace(tzinfo=None).isoformat()
    return tagged(f"zoned-{name}", [bare, value.fold, key])


_ENCODERS: dict[type[Any], Callable[[Any, Encode], Any]] = {
    list: lambda value, encode: [encode(item) for item in value],
    dict: encode_dict,
    bytes: _encode_bytes,
    tuple: lambda value, encode: tagged("tuple", [encode(item) for item in value]),
    set: lambda value, encode: tagged("set", [encode(item) for item in value]),
    frozenset: lambda value, encode: tagged("frozenset", [encode(item) for item in value]),
    datetime: lambda value, _: _encode_moment(value, "datetime"),
    date: lambda value, _: tagged("date", value.isoformat()),
    time: lambda value, _: _encode_moment(value, "time"),
    timedelta: lambda value, _: tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    Decimal: lambda value, _: tagged("decimal", _decimal_text(value)),
    UUID: lambda value, _: tagged("uuid", {"hex": value.hex}),
}
# By the base's own method: a subclass may print itself as something else.
_SCALAR_BASES: tuple[tuple[type[Any], Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
)


def encode_value(value: Any, encode: Encode) -> Any:
    """The JSON form of ``value``; ``encode`` is called for what it contains.

    Raises:
        EncodeError: no form of this type would come back as it went in.
    """
    kind = type(value)
    if kind in JSON_SCALARS:
        return value
    encoder = _ENCODERS.get(kind)
    if encoder is None:
        if isinstance(value, Enum):
            raise EncodeError(
                f"{kind.__qualname__} is an Enum, which only a model's field can bring back: publish its value, or put "
                "it in a field of a JobInput"
            )
        # Celery's signatures are dicts, Django's safe strings are strs: subclasses travel as what they extend.
        encoder = next((_ENCODERS[base] for base in kind.__mro__ if base in _ENCODERS), None)
        if encoder is None:
            for base, convert in _SCALAR_BASES:
                if isinstance(value, base):
                    return convert(value)
            if callable(getattr(kind, "__json__", None)):  # Kombu's hook for classes that know their JSON
                return encode(value.__json__())
            raise EncodeError(
                f"a value of type {kind.__module__}.{kind.__qualname__} cannot be published: use a JSON value, a "
                "datetime, Decimal, UUID, bytes, or a registered model"
            )
    return encoder(value, encode)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _zone(key: str) -> ZoneInfo:
    # ZoneInfo opens a file of the name it is given, and one out of a message may name anything.
    if key not in _zones():
        raise DecodeError("the message has a time in a zone that this machine does not know: install or update tzdata")
    return ZoneInfo(key)


def _decode_moment(value: Any, moment: datetime | time) -> Any:
    _, fold, key = value
    return moment.replace(fold=fold) if key is None else moment.replace(fold=fold, tzinfo=_zone(key))


_DECODERS: dict[str, Callable[[Any, Decode], Any]] = {
    "dict": _decode_dict,
    "tuple": lambda value, decode: tuple(decode(item) for item in value),
    "set": lambda value, decode: set(refuse_chosen_hashes([decode(item) for item in value])),
    "frozenset": lambda value, decode: frozenset(refuse_chosen_hashes([decode(item) for item in value])),
    "bytes": lambda value, _: value.encode("utf-8"),
    "base64": lambda value, _: b64decode(value, validate=True),
    "datetime": lambda value, _: datetime.fromisoformat(value),
    "date": lambda value, _: datetime.fromisoformat(value).date(),
    "time": lambda value, _: time.fromisoformat(value),
    "zoned-datetime": lambda value, _: _decode_moment(value, datetime.fromisoformat(value[0])),
    "zoned-time": lambda value, _: _decode_moment(value, time.fromisoformat(value[0])),
    "timedelta": lambda value, _: timedelta(*value),
    "decimal": lambda value, _: decimal(value),
    "uuid": lambda value, _: UUID(hex=value["hex"]),
}


def decode_tagged(node: Mapping[str, Any], decode: Decode) -> Any:
    """The value of a tagged JSON object.

    Raises:
        DecodeError: unknown tag. Malformed values raise what Python raises for them.
    """
    kind = node[TYPE]
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:
        raise DecodeError(f"unknown type tag {kind!r:.80}")
    return decoder(node[VALUE], decode)
