"""Any bytes at all give a value or a DecodeError, and no message chooses what is imported or called."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindtrace_jobs import registry
from mindtrace_jobs.errors import DecodeError, UnknownTypeError
from mindtrace_jobs.jobs import Job, JobInput, JobSchema
from mindtrace_jobs.serializer import dumps, loads
from mindtrace_jobs.wire import message
from tests.jobs.everything import Circle, Everything, EverythingSchema, texts

slow = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])

TAGS = [
    *("dict", "tuple", "set", "frozenset", "bytes", "base64", "datetime", "date", "time", "timedelta", "decimal"),
    *("zoned-datetime", "zoned-time", "uuid", "model", "tagged-model", "schema", "job", "os:system", "", "__main__"),
]
NAMES = ["everything", "tests.jobs.everything:Circle", "tests.jobs.everything:Everything", "os:system", "antigravity"]
KEYS = [
    *("__type__", "__value__", "payload", "input", "output", "name", "id", "task", "args", "kwargs", "schema_name"),
    *("job_schema", "metadata", "created_at", "status", "priority", "hex", "label", "radius", "raw", "invented"),
]
leaves = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(NAMES),
    st.sampled_from(["2026-01-01", "2026-01-01T00:00:00", "12:00", "Europe/Berlin", "../../etc/passwd", "NaN", "/w=="]),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.fixed_dictionaries({"__type__": st.sampled_from(TAGS) | leaves, "__value__": inner}),
        st.fixed_dictionaries(
            {
                "__type__": st.sampled_from(["model", "tagged-model"]),
                "__value__": st.tuples(st.sampled_from(NAMES), inner),
            }
        ),
        st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=4),
    ),
    max_leaves=12,
)


def value_or_decode_error(data: Any) -> None:
    for headers in ({}, {"task": "everything", "id": "1"}):
        try:
            job = message.decode(data, headers)
        except DecodeError:
            continue
        assert isinstance(job, Job)
    with suppress(DecodeError):
        loads(data)


@slow
@given(st.binary() | st.text())
def test_noise_gives_a_value_or_a_decode_error(data: bytes | str) -> None:
    value_or_decode_error(data)


@slow
@given(trees)
def test_json_full_of_our_tags_gives_a_value_or_a_decode_error(tree: Any) -> None:
    value_or_decode_error(json.dumps(tree))
    value_or_decode_error(json.dumps([[tree], {}, {}]))
    value_or_decode_error(json.dumps([[], {"input": tree}, {}]))


@slow
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_a_damaged_message_gives_a_value_or_a_decode_error(place: int, byte: int, truncated: bool) -> None:
    place %= len(WHOLE)
    value_or_decode_error(WHOLE[:place] if truncated else WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])


class Small(JobInput):
    circle: Circle
    when: Any = None


WHOLE = dumps([[Job(payload=JobSchema(name="bytes", input=Small(circle=Circle(raw=b"\xff"), when={1: b"x"})))], {}, {}])

NASTY: dict[str, bytes | str] = {
    "nothing": b"",
    "spaces": b"  \n",
    "no UTF-8": b'"\xff\xfe"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "truncated": WHOLE[:-3],
    "two values": b"{}{}",
    "a lone surrogate": b'"\\ud800"',
    "a lone surrogate as a str": '"\ud800"',
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep tags": b'{"__type__":"set","__value__":[' * 90 + b"]}" * 90,
    "a number of a million digits": b"1" * 1_000_000,
    "a fraction of a million digits": b"0." + b"1" * 1_000_000,
    "an exponent out of range": b"[1e400, -1e400, 1E-400]",
    "a decimal with a large exponent": b'{"__type__":"decimal","__value__":"1e999999999"}',
    "no decimal": b'{"__type__":"decimal","__value__":"x"}',
    "a date that is none": b'{"__type__":"datetime","__value__":"2026-02-30T00:00:00"}',
    "a span out of range": b'{"__type__":"timedelta","__value__":[99999999999, 0, 0]}',
    "a zone outside": b'{"__type__":"zoned-datetime","__value__":["2026-01-01T00:00:00",0,"../../../etc/passwd"]}',
    "a fold of two": b'{"__type__":"zoned-time","__value__":["12:00",2,null]}',
    "a set of lists": b'{"__type__":"set","__value__":[[1]]}',
    "a dict of lists": b'{"__type__":"dict","__value__":[[[1],2]]}',
    "a dict of triples": b'{"__type__":"dict","__value__":[[1,2,3]]}',
    "a uuid that is a list": b'{"__type__":"uuid","__value__":[]}',
    "base64 that is none": b'{"__type__":"base64","__value__":"*"}',
    "bytes that are a dict": b'{"__type__":"bytes","__value__":{}}',
    "a tag that is a list": b'{"__type__":["set"],"__value__":[]}',
    "an unknown tag": b'{"__type__":"pickle","__value__":"gASVAAAA"}',
    "an unknown model": b'{"__type__":"model","__value__":["os:system",{"command":"true"}]}',
    "a model without a tag": b'{"__type__":"model","__value__":[null,{}]}',
    "a model of four parts": b'{"__type__":"model","__value__":["a",{},"b","c"]}',
    "a model that is a string": b'{"__type__":"model","__value__":"tests.jobs.everything:Circle"}',
    "a model with a wrong field": b'{"__type__":"model","__value__":["tests.jobs.everything:Circle",{"radius":[]}]}',
    "a schema that is a list": b'{"__type__":"schema","__value__":[]}',
    "a job without payload": b'{"__type__":"job","__value__":{}}',
    "a job in a job": b'{"__type__":"job","__value__":{"payload":{"__type__":"job","__value__":{}}}}',
    "NaN": b"NaN",
    "a comment": b"// x\n1",
    "a script": b"__import__('os').system('true')",
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("data", NASTY.values(), ids=NASTY.keys())
def test_a_nasty_message_gives_a_value_or_a_decode_error(data: bytes | str) -> None:
    value_or_decode_error(data)
    if isinstance(data, bytes):
        value_or_decode_error(bytearray(data))
        value_or_decode_error(memoryview(data))


@pytest.mark.parametrize(
    "data", [None, 5, [], {}, object(), memoryview(bytearray(8))[::2]], ids=lambda data: type(data).__name__
)
def test_what_is_not_even_text_gives_a_decode_error(data: Any) -> None:
    with pytest.raises(DecodeError):
        loads(data)
    with pytest.raises(DecodeError):
        message.decode(data, {})


@pytest.mark.parametrize(
    "headers", [{"task": []}, {"task": 5, "id": {}}, {"id": "x" * 300}, [], "task", None], ids=repr
)
@pytest.mark.parametrize("content_type", ["application/json", None, "", 5, b"x", "application/x-python-serialize"])
def test_any_headers_and_content_type_give_a_job_or_a_decode_error(headers: Any, content_type: Any) -> None:
    for body in (b"[[], {}, {}]", b'[[{"a": 1}], {}, {}]', WHOLE):
        with suppress(DecodeError):
            message.decode(body, headers, content_type)


def test_of_a_key_given_twice_the_last_one_counts() -> None:
    assert loads(b'{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(DecodeError):
        loads(b'{"__type__": "set", "__type__": "pickle", "__value__": []}')


def test_infinities_and_nan_are_read() -> None:
    a, b, c = loads(b"[NaN, Infinity, -Infinity]")
    assert math.isnan(a)
    assert (b, c) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    "data", [b'"' + b"x" * 50_000_000 + b'"', b"[" * 50_000_000, b"[1" + b",1" * 25_000_000], ids=len
)
def test_a_body_of_fifty_megabytes_gives_a_value_or_a_decode_error(data: bytes) -> None:
    try:
        value = loads(data)
    except DecodeError:
        value = None
    assert value is None or len(value) in (50_000_000, 25_000_001)


def test_no_message_imports_what_it_names() -> None:
    code = """
import json, sys
from mindtrace_jobs import serializer
from mindtrace_jobs.wire import message
from mindtrace_jobs.errors import DecodeError
serializer.loads(serializer.dumps([{"__type__": 1, "__value__": 2}]))
serializer.loads(b'{"__type__":"zoned-time","__value__":["12:00",0,"Europe/Berlin"]}')  # loads the list of zones
before = set(sys.modules)
names = ["os:system", "antigravity:fly", "this:s", "wave:open", "turtle", "America/x", "Asia/../x", "xmlrpc.client:loads"]
for name in names:
    fields = {"name": name, "input": {"__type__": "model", "__value__": [name, {"x": 1}]}}
    for tree in (
        {"__type__": "model", "__value__": [name, {}]},
        {"__type__": "tagged-model", "__value__": [name, {}]},
        {"__type__": "schema", "__value__": fields},
        {"__type__": "job", "__value__": {"payload": {"__type__": "schema", "__value__": fields}}},
        {"__type__": name, "__value__": 1},
        {"__type__": "zoned-time", "__value__": ["12:00", 0, name]},
        {"schema_name": name, "payload": {}},
        {"job_schema": fields},
        [[], {"x": 1}, {}],
    ):
        for read in (serializer.loads, lambda data: message.decode(data, {"task": name, "id": "1"})):
            try:
                read(json.dumps(tree))
            except DecodeError:
                pass
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("key", ["America/nowhere", "../../etc/passwd", "/etc/localtime", ""])
def test_a_zone_that_this_machine_does_not_have_says_what_to_do(key: str) -> None:
    with pytest.raises(DecodeError, match="install or update tzdata"):
        loads(json.dumps({"__type__": "zoned-time", "__value__": ["12:00", 0, key]}))


def test_the_error_of_an_unknown_type_names_it_and_says_what_to_do() -> None:
    with pytest.raises(UnknownTypeError, match=r"os:system.*Import the module"):
        loads(b'{"__type__":"model","__value__":["os:system",{}]}')
    assert registry.find_model("os:system") is None


def test_an_error_does_not_quote_the_payload() -> None:
    secret = "s3cr3t"
    bodies = [
        f'{{"__type__":"datetime","__value__":"{secret}"}}',
        f'{{"__type__":"decimal","__value__":"{secret}"}}',
        f'{{"__type__":"model","__value__":["tests.jobs.everything:Circle",{{"radius":"{secret}"}}]}}',
        f'{{"__type__":"schema","__value__":{{"name":"everything","input":{{"text":"x","number":"{secret}"}}}}}}',
    ]
    for body in bodies:
        with pytest.raises(DecodeError) as caught:
            loads(body)
        assert secret not in str(caught.value)
    assert EverythingSchema.input_type() is Everything.__base__
