"""One input with a field of every kind, strategies that fill it, and an account of a value that tells types apart."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field
from typing_extensions import TypedDict

from mindtrace_jobs.jobs import JobInput, JobOutput, JobSchema
from mindtrace_jobs.registry import register_model


class Colour(Enum):
    RED = "red"
    BLUE = 2


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Shape(BaseModel):
    label: str = ""


class Circle(Shape):
    radius: float = 0.0
    raw: bytes = b""


register_model(Circle)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    born: date | None = None


class Node(BaseModel):
    value: int = 0
    children: list[Node] = []


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    depth: int
    since: datetime


@dataclasses.dataclass
class Point:
    x: float
    y: Decimal


class Plain(JobInput):
    """Everything here can travel as plain JSON."""

    text: str
    number: int
    share: float
    flag: bool
    day: date
    moment: datetime
    clock: time
    amount: Decimal
    key: UUID
    colour: Colour
    size: Size
    mood: Mood
    tags: set[str]
    names: list[str]
    pair: tuple[int, str]
    many: tuple[float, ...]
    counts: dict[str, int]
    nested: Shape
    shapes: list[Shape]
    choice: Literal["a", "b", 3]
    maybe: Colour | None
    bounded: Annotated[int, Field(ge=0, le=10)]


class Everything(Plain):
    """And here is what needs a tag."""

    raw: bytes
    either: str | bytes
    one_of: int | float | Decimal | datetime | date | time | timedelta | UUID | bytes | str | None
    span: timedelta
    shape: Shape
    by_number: dict[int, Shape]
    by_day: dict[date, Decimal]
    frozen: frozenset[UUID]
    path: Path
    url: AnyUrl
    anything: Any
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    tree: Node
    named: Pair
    options: Options
    point: Point
    hidden: str = Field(default="", exclude=True)
    by_alias: int = Field(default=0, alias="byAlias")
    unions: list[Cat | Dog | Shape]


class Result(JobOutput):
    """An output of some types."""

    shapes: list[Shape]
    took: timedelta
    best: Shape | None = None


class EverythingSchema(JobSchema[Plain, Result]):
    """Declared with the base, so that the input may be any subclass."""

    name: str = "everything"


ZONES = [UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("UTC"), timezone(timedelta(hours=-3, minutes=-30))]
ODD_ZONES = [
    ZoneInfo("Africa/Monrovia"),
    timezone(timedelta(seconds=19)),
    timezone(-timedelta(hours=23, minutes=59, seconds=59, microseconds=999999)),
    timezone(timedelta(hours=1), "named"),
]
zones = st.none() | st.sampled_from([*ZONES, *ODD_ZONES])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
floats = st.floats()
dates = st.dates()
datetimes = st.builds(lambda moment, fold: moment.replace(fold=fold), st.datetimes(timezones=zones), st.integers(0, 1))
times = st.builds(lambda clock, fold: clock.replace(fold=fold), st.times(timezones=zones), st.integers(0, 1))
decimals = st.decimals(allow_nan=False, allow_infinity=False)
shapes = st.builds(Shape, label=texts)
circles = st.builds(Circle, label=texts, radius=floats, raw=st.binary(max_size=4))
nodes = st.recursive(
    st.builds(Node, value=st.integers()),
    lambda children: st.builds(Node, value=st.integers(), children=st.lists(children, max_size=2)),
    max_leaves=4,
)
scalars = st.one_of(
    st.none() | st.booleans() | st.integers() | floats | texts | st.binary(max_size=6),
    dates | datetimes | times | st.timedeltas() | st.decimals() | st.uuids() | circles,
)
hashable = st.one_of(st.integers(), texts, st.binary(max_size=4), dates, st.uuids(), decimals, st.booleans())
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.dictionaries(texts, inner, max_size=3),
        st.dictionaries(hashable, inner, max_size=2),
        st.fixed_dictionaries({"__type__": texts, "__value__": inner}),
        st.sets(hashable, max_size=3),
        st.frozensets(hashable, max_size=3),
    ),
    max_leaves=6,
)

plain_fields: dict[str, st.SearchStrategy[Any]] = {
    "text": texts,
    "number": st.integers(),
    "share": floats,
    "flag": st.booleans(),
    "day": dates,
    "moment": datetimes,
    "clock": times,
    "amount": decimals,
    "key": st.uuids(),
    "colour": st.sampled_from(Colour),
    "size": st.sampled_from(Size),
    "mood": st.sampled_from(Mood),
    "tags": st.sets(texts, max_size=3),
    "names": st.lists(texts, max_size=3),
    "pair": st.tuples(st.integers(), texts),
    "many": st.lists(floats, max_size=3).map(tuple),
    "counts": st.dictionaries(texts, st.integers(), max_size=3),
    "nested": shapes,
    "shapes": st.lists(shapes, max_size=2),
    "choice": st.sampled_from(["a", "b", 3]),
    "maybe": st.none() | st.sampled_from(Colour),
    "bounded": st.integers(0, 10),
}
everything_fields: dict[str, st.SearchStrategy[Any]] = plain_fields | {
    "raw": st.binary(max_size=8),
    "either": texts | st.binary(max_size=8),
    "one_of": st.one_of(
        st.none() | st.integers() | floats | decimals | datetimes | dates | times | st.timedeltas() | st.uuids(),
        st.binary(max_size=4) | texts,
    ),
    "span": st.timedeltas(),
    "shape": shapes | circles,
    "by_number": st.dictionaries(st.integers(), shapes | circles, max_size=2),
    "by_day": st.dictionaries(dates, decimals, max_size=2),
    "frozen": st.frozensets(st.uuids(), max_size=2),
    "path": texts.filter(lambda text: "\0" not in text).map(Path),
    "url": st.just(AnyUrl("s3://bucket/image.jpg?x=1#y")),
    "anything": anything,
    "pet": st.builds(Cat, lives=st.integers()) | st.builds(Dog, born=st.none() | dates),
    "tree": nodes,
    "named": st.builds(Pair, st.integers(), texts),
    "options": st.fixed_dictionaries({}, optional={"depth": st.integers(), "since": datetimes}),
    "point": st.builds(Point, floats, decimals),
    "hidden": texts,
    "byAlias": st.integers(),
    "unions": st.lists(st.builds(Cat) | st.builds(Dog, born=st.none() | dates) | shapes | circles, max_size=2),
}
plain_inputs = st.fixed_dictionaries(plain_fields).map(lambda fields: Plain(**fields))
everything_inputs = st.fixed_dictionaries(everything_fields).map(lambda fields: Everything(**fields))
results = st.builds(
    Result, shapes=st.lists(shapes | circles, max_size=2), took=st.timedeltas(), best=st.none() | shapes | circles
)


def account(value: Any) -> Any:
    """All there is to say of a value, types included, in a form where ``==`` is exact."""
    kind = type(value)
    if isinstance(value, BaseModel):
        extra = value.__pydantic_extra__ or {}
        fields = {name: item for name, item in value.__dict__.items() if name in kind.model_fields}
        return kind, {n: account(v) for n, v in fields.items()}, {n: account(v) for n, v in extra.items()}
    if dataclasses.is_dataclass(value):
        return kind, {field.name: account(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return kind, [(account(key), account(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return kind, [account(item) for item in value]
    if isinstance(value, set | frozenset):
        return kind, sorted(repr(account(item)) for item in value)
    if isinstance(value, datetime | time):
        zone = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else value.tzinfo is None
        return kind, value.replace(tzinfo=None).isoformat(), value.utcoffset(), value.fold, zone
    return kind, repr(value)
