"""Everything Pydantic offers to make a field's JSON differ from its value: it survives, or publishing says it cannot."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, Flag
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    Json,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    StringConstraints,
    WrapSerializer,
    WrapValidator,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from mindtrace_jobs.errors import EncodeError
from mindtrace_jobs.jobs import Job, JobInput, JobSchema
from mindtrace_jobs.registry import register_model
from mindtrace_jobs.serializer import dumps, encode_job, loads, to_json
from mindtrace_jobs.serializer.plain import is_plain
from tests.jobs.everything import Circle, Colour, Mood, Point, Shape, account

T = TypeVar("T")


class Letter(str, Enum):  # noqa: UP042 - the mixin that people wrote before StrEnum
    A = "a"


class Crooked(str, Enum):  # noqa: UP042
    A = "a"

    def __new__(cls, value: str) -> Self:
        made = str.__new__(cls, "x" + value)
        made._value_ = value
        return made


class Bits(Flag):
    READ = 1
    WRITE = 2


class Box(BaseModel, Generic[T]):
    item: T


class Same(Shape):
    """As its base, but for being another class."""


register_model(Same)


class Names(RootModel[list[str]]):
    pass


class Anys(RootModel[Any]):
    pass


class Aliased(BaseModel):
    a: int = Field(default=0, validation_alias=AliasChoices("b", "first"), serialization_alias="z")
    b: int = Field(default=0, alias="a")


class Computed(BaseModel):
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2

    @cached_property
    def diagonal(self) -> float:
        return self.side * 2**0.5


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    colour: Colour
    when: datetime
    raw: bytes
    many: tuple[int, ...]
    nested: Literal["x"] = "x"


class Custom(BaseModel):
    value: Annotated[int, PlainSerializer(hex), BeforeValidator(lambda v: int(v, 16) if isinstance(v, str) else v)]


class Lossy(BaseModel):
    value: Any

    @field_serializer("value")
    def _shorten(self, value: Any) -> str:
        return str(value)[:3]


class Whole(BaseModel):
    left: int
    right: int = 0

    @model_serializer
    def _write(self) -> dict[str, int]:
        return {"left": self.left}


class Doubling(BaseModel):
    value: Annotated[int, AfterValidator(lambda v: v * 2)]


class Counting(BaseModel):
    value: int = 0

    def model_post_init(self, _context: Any, /) -> None:
        self.value += 1


class Checked(BaseModel):
    low: int
    high: int

    @model_validator(mode="after")
    def _order(self) -> Checked:
        if self.low > self.high:
            raise ValueError("low > high")
        return self

    @field_validator("low", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return int(value)


class Private(BaseModel):
    shown: int
    _hidden: int = PrivateAttr(default=1)


class Initialised(BaseModel):
    value: int

    def __init__(self, **data: Any) -> None:
        super().__init__(**{"value": 5, **data})


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int = 1


class Shown(BaseModel):
    seen: int
    unseen: int = Field(default=0, exclude=True)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    made: UUID = Field(default_factory=lambda: UUID(int=1))


class ByValue(BaseModel):
    model_config = ConfigDict(use_enum_values=True, str_strip_whitespace=True)
    mood: Mood
    text: str = ""


class Sub(str):  # noqa: SLOT000
    pass


@pydantic_dataclass
class Checkpoint:
    at: datetime
    path: Path
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass
class Shy:
    shown: int
    made: int = dataclasses.field(init=False, default=0)


def field(annotation: Any, value: Any, **config: Any) -> JobInput:
    """An instance of a new input with one such field."""
    namespace = {"__annotations__": {"value": annotation}, "__module__": __name__, "model_config": ConfigDict(**config)}  # type: ignore[typeddict-item]
    cls: Any = type("OneField", (JobInput,), namespace)
    made: JobInput = cls(value=value)
    return made


BERLIN = ZoneInfo("Europe/Berlin")
TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)

SURVIVES: dict[str, Callable[[], BaseModel]] = {
    "a subclass in a field of its base": lambda: field(Shape, Circle(radius=1.5, raw=b"\xff")),
    "a subclass without fields of its own": lambda: field(list[Shape], [Same(label="x"), Shape()]),
    "subclasses in a list of the base": lambda: field(list[Shape], [Shape(), Circle(radius=2)]),
    "models in Any": lambda: field(Any, {"deep": [Circle(), (Circle(),)]}),
    "a generic model": lambda: field(Box[int], Box[int](item=3)),
    "a generic of Any": lambda: field(Box[Any], Box[Any](item=Decimal("1.0"))),
    "a root model": lambda: field(Names, Names(["a"])),
    "a root model of bytes": lambda: field(Anys, Anys([b"\xff", 1])),
    "a root model of dicts": lambda: field(Anys, Anys({"root": {"root": 1}})),
    "aliases that name each other": lambda: field(Aliased, Aliased(first=1, a=2)),  # type: ignore[call-arg]
    "computed fields": lambda: field(Computed, Computed(side=3)),
    "a strict model": lambda: field(Strict, Strict(colour=Colour.BLUE, when=TWICE, raw=b"\xff", many=(1, 2))),
    "a pair of serializer and validator": lambda: field(Custom, Custom(value=255)),
    "a lossy serializer of a field": lambda: field(Lossy, Lossy(value="abcdef")),
    "a serializer of the model": lambda: field(Whole, Whole(left=1, right=2)),
    "validators that change nothing": lambda: field(Checked, Checked(low=1, high=2)),
    "an __init__ of its own": lambda: field(Initialised, Initialised(value=7)),
    "a field that Pydantic leaves out": lambda: field(Shown, Shown(seen=1, unseen=2)),
    "a serializer around": lambda: field(Annotated[int, WrapSerializer(lambda v, write: write(v))], 7),
    "extra fields": lambda: field(Loose, Loose(a=1, b=Circle(), __type__=1, __value__=2)),  # type: ignore[call-arg]
    "a frozen model": lambda: field(Frozen, Frozen(made=UUID(int=9))),
    "a set of models": lambda: field(set[Frozen], {Frozen(), Frozen(made=UUID(int=9))}),
    "a set of tuples of models": lambda: field(frozenset[tuple[Frozen, int]], frozenset([(Frozen(), 1)])),
    "enum values": lambda: field(ByValue, ByValue(mood=Mood.BAD)),
    "JSON in a string": lambda: field(Json[list[int]], "[1, 2]"),
    "a union of models": lambda: field(Shape | Frozen, Frozen()),
    "a dataclass": lambda: field(Point, Point(float("nan"), Decimal("1.00"))),
    "a Pydantic dataclass": lambda: field(Checkpoint, Checkpoint(at=TWICE, path=Path("/a"), tags=frozenset("ab"))),
    "a deque": lambda: field(deque[int], deque([1, 2])),
    "an ordered dict": lambda: field(OrderedDict[str, int], OrderedDict(b=1, a=2)),
    "an address": lambda: field(IPv4Address, IPv4Address("127.0.0.1")),
    "a pattern": lambda: field(re.Pattern[str], re.compile("a+")),
    "a complex number": lambda: field(complex, 1 + 2j),
    "a flag": lambda: field(Bits, Bits.READ | Bits.WRITE),
    "a mixin enum": lambda: field(Letter, Letter.A),
    "a union of bytes and str": lambda: field(str | bytes, b"\xff"),
    "a union of int and bool": lambda: field(int | bool, True),
    "a union of float and int": lambda: field(float | int, 3),
    "a union of str and datetime": lambda: field(str | datetime, "2026-01-01T00:00:00Z"),
    "a union of datetime and str": lambda: field(datetime | str, datetime(2026, 1, 1, tzinfo=UTC)),
    "a union of str and UUID": lambda: field(str | UUID, str(UUID(int=1))),
    "a signed zero": lambda: field(float, -0.0),
    "an hour that comes twice": lambda: field(list[datetime], [TWICE, TWICE.replace(fold=1)]),
    "an hour that never comes": lambda: field(datetime, datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN)),
    "a time in a zone": lambda: field(time, time(12, tzinfo=BERLIN)),
    "a naive fold": lambda: field(datetime, datetime(2026, 10, 25, 2, 30, fold=1)),  # noqa: DTZ001
    "keys of other types": lambda: field(dict[Any, Any], {1: "a", "1": "b", (1, date(2026, 1, 1)): 2.5}),
    "a dict that looks like a tag": lambda: field(Any, {"__type__": "model", "__value__": ["os:system", {}]}),
    "such a dict where it is declared": lambda: field(dict[str, str], {"__type__": "bytes", "__value__": "x"}),
    "optional constraints": lambda: field(Annotated[str | None, Field(max_length=3)], None),
    "constrained text": lambda: field(Annotated[str, StringConstraints(pattern="^a+$", min_length=2)], "aa"),
    "constrained list": lambda: field(Annotated[list[FiniteFloat], Field(min_length=1, max_length=2)], [1.0]),
}


@pytest.mark.parametrize("make", SURVIVES.values(), ids=SURVIVES.keys())
def test_it_comes_back_as_it_was(make: Callable[[], BaseModel]) -> None:
    value = make()
    assert account(loads(dumps({"value": value}))) == account({"value": value})


def changed(model: BaseModel, name: str, value: Any) -> BaseModel:
    """The model with a value that Pydantic never saw."""
    model.__dict__[name] = value
    return model


class Unregistered(Shape):
    secret: int = 0


class Kept(JobInput):
    private: Private
    computed: Computed


class Holder(JobInput):
    number: int = 1
    text: str = ""
    items: list[int] = []  # noqa: RUF012
    bounded: Annotated[int, Field(le=5)] = 1
    lengths: Annotated[set[int], Field(max_length=2)] = set()  # noqa: RUF012
    stripped: Annotated[str, StringConstraints(strip_whitespace=True)] = ""
    capitals: Annotated[str, StringConstraints(to_upper=True)] = ""
    choice: Literal["a", 1] = "a"
    seen: AwareDatetime = datetime(2026, 1, 1, tzinfo=UTC)
    finite: FiniteFloat = 0.0
    letter: Letter = Letter.A
    later: date = date(2026, 1, 1)


REFUSED: dict[str, Callable[[], BaseModel]] = {
    "a subclass that nobody could find": lambda: field(Shape, Unregistered(secret=1)),
    "the same in Any": lambda: field(Any, [Unregistered(secret=1)]),
    "a secret": lambda: field(SecretStr, SecretStr("hunter2")),
    "a validator that doubles": lambda: field(Doubling, Doubling(value=1)),
    "a validator around that adds one": lambda: field(Annotated[int, WrapValidator(lambda v, take: take(v) + 1)], 1),
    "a hook that counts": lambda: field(Counting, Counting()),
    "an enum in Any": lambda: field(Any, Colour.RED),
    "a str enum in Any": lambda: field(Any, {Mood.GOOD}),
    "a str enum in a deque of Any": lambda: field(deque[Any], deque([Mood.GOOD])),
    "an enum that prints as another": lambda: field(Any, Crooked.A),
    "a subclass of str in Any": lambda: field(Any, Sub("x")),
    "an ordered dict in Any": lambda: field(Any, OrderedDict(a=1)),
    "a named tuple's tuple": lambda: field(Any, Box[int](item=1)),
    "a dataclass in Any": lambda: field(Any, Point(1.0, Decimal(1))),
    "a function": lambda: field(Any, len),
    "a factory that cannot travel": lambda: field(Any, defaultdict(lambda: 1, a=2)),
    "a path among strings": lambda: field(str | Path, Path("/a")),
    "a dataclass field that init leaves out": lambda: field(Shy, changed_dataclass(), extra="ignore"),
    "a union that takes the first model that fits": lambda: field(
        Annotated[Shape | Frozen, Field(union_mode="left_to_right")], Frozen()
    ),
    "a lone surrogate": lambda: field(str, "\ud800"),
    "too long a number": lambda: field(int, 10**5000),
    "what was put in unvalidated": lambda: changed(Holder(), "number", "5"),
    "a bool for an int": lambda: changed(Holder(), "number", True),
    "an int for a str": lambda: changed(Holder(), "text", 5),
    "a str in a list of int": lambda: changed(Holder(), "items", [1, "2"]),
    "a tuple for a list": lambda: changed(Holder(), "items", (1,)),
    "text with spaces that would be stripped": lambda: changed(Holder(), "stripped", " a "),
    "text that would be put in capitals": lambda: changed(Holder(), "capitals", "a"),
    "a number beyond its bound": lambda: changed(Holder(), "bounded", 6),
    "a set beyond its length": lambda: changed(Holder(), "lengths", {1, 2, 3}),
    "a choice that is none": lambda: changed(Holder(), "choice", "b"),
    "true for one": lambda: changed(Holder(), "choice", True),
    "a naive time": lambda: changed(Holder(), "seen", datetime(2026, 1, 1)),  # noqa: DTZ001
    "infinity for a finite float": lambda: changed(Holder(), "finite", float("inf")),
    "its value for an enum": lambda: changed(Holder(), "letter", "a"),
    "a datetime for a date": lambda: changed(Holder(), "later", datetime(2026, 1, 1, tzinfo=UTC)),
    "fields that were never set": lambda: Holder.model_construct(_fields_set=None).model_copy(update={"number": "x"}),
    "a required field left out": Kept.model_construct,
}


def changed_dataclass() -> Shy:
    shy = Shy(1)
    shy.made = 7
    return shy


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_when_it_is_published(make: Callable[[], BaseModel]) -> None:
    value = make()
    job = Job(payload=JobSchema(name="refused", input=Holder()))
    job.payload.__dict__["input"] = value
    with pytest.raises(EncodeError):
        encode_job(job) and to_json(encode_job(job))


class Opaque:
    pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: field(list[Opaque], [Opaque()], arbitrary_types_allowed=True), "Opaque cannot be published: use"),
        (lambda: field(Any, {"deep": [Opaque()]}), "Opaque cannot be published: use"),
        (lambda: field(Any, ["\ud800"]), "surrogates not allowed"),
        (lambda: field(Doubling, Doubling(value=1)), r"OneField\.value\.value would change.*validator"),
    ],
)
def test_the_error_names_what_is_wrong_and_what_to_do(make: Callable[[], BaseModel], says: str) -> None:
    with pytest.raises(EncodeError, match=says):
        dumps({"value": make()})


def test_a_secret_is_not_even_quoted_in_the_error() -> None:
    with pytest.raises(EncodeError, match="secret") as caught:
        dumps(field(SecretStr, SecretStr("hunter2")))
    assert "hunter2" not in str(caught.value)


def test_private_attributes_and_cached_properties_stay_in_their_process() -> None:
    private, computed = Private(shown=2), Computed(side=3)
    private._hidden = 5
    assert computed.diagonal > 4
    back = loads(dumps({"value": field(Any, [1]), "inner": Kept(private=private, computed=computed)}))["inner"]
    assert (back.private.shown, back.private._hidden) == (2, 1)
    assert "diagonal" not in back.computed.__dict__
    assert back.computed.model_extra is None


class Loop(JobInput):
    inner: Loop | None = None


def test_a_model_that_contains_itself_is_refused() -> None:
    loop = Loop()
    loop.__dict__["inner"] = loop
    with pytest.raises(EncodeError, match="itself"):
        dumps({"loop": loop})


def test_a_chain_of_models_too_long_to_be_read_is_refused() -> None:
    chain = Loop()
    for _ in range(400):
        chain = Loop.model_construct(inner=chain)
    with pytest.raises(EncodeError):
        dumps({"chain": chain})


def test_an_enum_whose_text_is_not_its_value_does_not_travel_as_text() -> None:
    value = field(Crooked, Crooked.A)
    assert not is_plain(value)
    try:
        back = loads(dumps({"value": value}))
    except EncodeError:
        return
    assert account(back) == account({"value": value})
