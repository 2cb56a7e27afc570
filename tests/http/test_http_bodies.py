"""Every row of wire/ten.md section 3, and a fuzz over sockets: never a 500, never a traceback."""

import json
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.causes import Cause, Refusal
from supervisor.http import bodies
from worker.spawn import Limits

DEEP = 100_000


def refusal_of(data: bytes, schema: Any = bodies.START) -> Refusal:
    with pytest.raises(Refusal) as caught:
        values = bodies.read_fields(bodies.parse_object(data), schema)
        if "properties" in values:
            bodies.read_overrides(values)
            bodies.read_limits(values)
    assert caught.value.cause is Cause.BODY_INVALID
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"[]",
        b'"x"',
        b"1",
        b"true",
        b"{",
        b"{}x",
        b"{} {}",
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":{"b":[Infinity]}}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":["\\ud83d"]}',
        b'{"properties":{"n":{"\\ud800":1}}}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b'{"a":"\n"}',
        b"\x00",
        "{}".encode("utf-16"),
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"a":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":-' + b"1" * 5000 + b"}",
    ],
)
def test_bodies_that_are_refused(data: bytes) -> None:
    refusal_of(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"null", {}),
        (b"{}", {}),
        (b" \t\r\n{ }\n", {}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a":"\\u0000"}', {"a": "\0"}),
        (b'{"a":9007199254740993}', {"a": 9007199254740993}),
        (b'{"a":18446744073709551616}', {"a": 18446744073709551616}),
        (b'{"a":-9223372036854775809}', {"a": -9223372036854775809}),
        (b'{"a":0.1234567890123456789012}', {"a": 0.1234567890123456789012}),
        (b'{"a":"1234567890123456789012"}', {"a": "1234567890123456789012"}),
        (b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", None),
        (b'{"a":[' + b"{}," * 1000 + b"{}]}", None),
    ],
)
def test_bodies_that_are_taken(data: bytes, expected: Any) -> None:
    value = bodies.parse_object(data)
    assert value == (json.loads(data) if expected is None else expected)


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("properties", "size"),
    [
        ({"n": {"a": "x" * (MIB - 14)}}, None),
        ({"n": {"a": "x" * (MIB - 13)}}, MIB + 1),
        ({"n": {str(n): [] for n in range(200_000)}}, 2_288_897),
        ({"n": {"a": 10**30, "b": "x" * MIB}}, MIB + len('{"n":{"a":1,"b":""}}') + 30),
        ("x" * MIB, MIB + 2),
    ],
)
def test_the_size_of_properties(properties: Any, size: int | None) -> None:
    body = {"channel_name": "c", "properties": properties}
    data = json.dumps(body, indent=1).encode()
    if size is None:
        assert bodies.parse_start(data) == body
        return
    with pytest.raises(Refusal) as caught:
        bodies.parse_start(data)
    assert caught.value.cause is Cause.BODY_INVALID
    assert caught.value.detail == f"properties has {size} bytes of JSON; at most {MIB} are allowed"


def test_only_properties_are_bounded_so() -> None:
    body = {"channel_name": "c", "other": "x" * 2 * MIB, "properties": {"n": {}}}
    assert bodies.parse_start(json.dumps(body).encode()) == body


U32, I32, I64 = 2**32 - 1, 2**31, 2**63
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "request_id": (["", "r-7f", "日本語", None], [1, True, [], {}, 1.5]),
    "channel_name": (["", "lobby", None], [1, False, ["x"], {}]),
    "graph_name": (["", "greeter", None], [0, True, [], {}]),
    "user_uid": ([0, 1, U32, None], [-1, U32 + 1, 1.0, 1e3, True, False, "1", [], {}, 10**30]),
    "bot_uid": ([0, 1, U32, None], [-1, U32 + 1, 1.0, True, "0", [], {}]),
    "timeout": ([-1, 0, 45, I64 - 1, -I64, None], [I64, -I64 - 1, 1.0, True, "45", [], {}]),
    "properties": (
        [{}, None, {"llm": {}}, {"llm": None}, {"": {"a": 1}}, {"llm": {"a.b": [1, None]}}],
        [[], "x", 5, True, {"llm": 5}, {"llm": []}, {"llm": "x"}, {"llm": True}, {"a": {}, "b": 0}],
    ),
    "token": (["", "t", None], [1, True, [], {}]),
    "worker_http_server_port": ([0, 8080, -I32, I32 - 1, None], [I32, -I32 - 1, "8080", 80.0, True, []]),
    "tenapp_dir": (["", "/etc", None], [1, True, [], {}]),
    "limits": (
        [{}, None, {"memory_bytes": 1}, {"cpu_weight": 10_000}, {"processes": None}],
        [
            [],
            1,
            "x",
            {"memory_bytes": 0},
            {"memory_bytes": -1},
            {"cpu_weight": 10001},
            {"open_files": 1.0},
            {"cpu_seconds": True},
            {"file_bytes": "1"},
            {"processes": I64},
            {"memory": 1},
            {"": 1},
        ],
    ),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (good, _) in VALUES.items() for value in good])
def test_values_that_are_taken(name: str, value: Any) -> None:
    values = bodies.read_fields(bodies.parse_object(json.dumps({name: value, "unknown": [1]}).encode()), bodies.START)
    bodies.read_overrides(values)
    bodies.read_limits(values)
    assert "unknown" not in values
    if value is None:
        assert values == bodies.read_fields({}, bodies.START)
    else:
        assert values[name] == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (_, bad) in VALUES.items() for value in bad])
def test_values_that_are_refused(name: str, value: Any) -> None:
    refusal = refusal_of(json.dumps({name: value}).encode())
    assert name in refusal.detail


def test_details_name_the_value_and_what_is_allowed_but_no_secret() -> None:
    assert refusal_of(b'{"user_uid":-1}').detail == "user_uid is -1; it must be an integer from 0 to 4294967295"
    assert refusal_of(b'{"user_uid":true}').detail == "user_uid is true; it must be an integer from 0 to 4294967295"
    assert "5" not in refusal_of(b'{"token":5}').detail
    assert "sk-1" not in refusal_of(b'{"properties":{"llm":"sk-1"}}').detail
    assert "memory_bytes" in refusal_of(b'{"limits":{"memory":1}}').detail


def test_limits_are_those_a_worker_can_have() -> None:
    given = dict.fromkeys(Limits.__dataclass_fields__, 7)
    assert bodies.read_limits({"limits": given}) == Limits(**given)


@pytest.mark.parametrize("path", ["/start", "/ping", "/stop", "/token/generate", "/vector/document/update"])
@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"channel_name":5}', b'{"request_id":5}', b"[" * DEEP])
async def test_every_endpoint_refuses(house: Any, path: str, data: bytes) -> None:
    answer = await house.post(path, data)
    assert (answer.status, answer.code, answer.body["data"]) == (200, "10000", None)


async def test_other_types_of_other_endpoints(house: Any) -> None:
    for path, body in [
        ("/token/generate", {"uid": -1}),
        ("/token/generate", {"uid": True}),
        ("/vector/document/update", {"collection": 1}),
        ("/vector/document/update", {"file_name": []}),
    ]:
        assert (await house.post(path, body)).code == "10000"


async def test_null_is_an_empty_object(house: Any) -> None:
    for path in ("/start", "/ping", "/stop", "/token/generate", "/vector/document/update"):
        assert (await house.post(path, b"null")).code == "10004"


async def test_the_size_limit(build: Any) -> None:
    house = await build(body_limit_bytes=1000)

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 100

    fits = b'{"channel_name":"x"}'.ljust(1000)
    assert (await house.post("/ping", fits)).code == "10002"
    for data in (fits + b" ", b" " * 1_000_000, pieces()):
        answer = await house.post("/ping", data)
        assert (answer.status, answer.code) == (413, "10000")
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "1000 are allowed" in answer.body["detail"]


async def test_large_bodies_are_taken(house: Any) -> None:
    await house.start(properties={"llm": {"text": "x" * 1_000_000, "n": 12345678901234567890123}})
    assert house.table.started[0].properties["llm"]["n"] == 12345678901234567890123


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["lobby", "greeter", -1, 2**32, 2**63, 1.0, ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
known = st.dictionaries(st.sampled_from([*VALUES, "uid", "collection", "file_name"]), json_values, max_size=8)
near_json = st.builds(
    lambda text, at, noise: text[: at % (len(text) + 1)] + noise + text[at % (len(text) + 1) :],
    known.map(lambda body: json.dumps(body).encode()),
    st.integers(min_value=0, max_value=10_000),
    st.binary(max_size=4) | st.sampled_from([b"NaN", b"\\ud800", b"[" * 200, b"1" * 30, b'"', b"}"]),
)
bodies_of_all_kinds = st.binary(max_size=300) | json_values.map(lambda v: json.dumps(v).encode()) | near_json
bodies_of_all_kinds |= known.map(lambda body: json.dumps(body).encode())
paths = st.sampled_from(
    ["/start", "/ping", "/stop", "/token/generate", "/vector/document/update", "/graphs", "/nowhere"]
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=paths, data=bodies_of_all_kinds)
def test_no_body_makes_a_500(ask_sync: Callable[..., Any], path: str, data: bytes) -> None:
    answer = ask_sync("POST", path, data)
    assert answer.status in (200, 404, 405)
    assert answer.body.keys() >= {"code", "msg", "data"}
    assert isinstance(answer.body["code"], str)
    assert answer.body["code"] == "0" or answer.body["data"] is None
    assert b"Traceback" not in answer.content


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names | st.text(string.printable, min_size=1, max_size=30))
def test_any_name_can_be_started_listed_and_stopped_or_is_refused(ask_sync: Callable[..., Any], name: str) -> None:
    body = {"channel_name": name, "graph_name": "greeter"}
    started = ask_sync("POST", "/start", body).code
    assert started in {"0", "10004", "10100"}
    listed = {item["channelName"] for item in ask_sync("GET", "/list").body["data"]}
    assert listed == ({name} if started == "0" else set())
    assert ask_sync("POST", "/stop", body).code == {"0": "0", "10004": "10004", "10100": "10002"}[started]
