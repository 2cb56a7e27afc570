"""What clients send and do at the edges: every trap of wire/ten.md section 3, fuzz, limits, hang-ups, edits, rounds."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.http.envelope import CODES
from tests.harness import Agentd
from tests.harness.server import PATIENCE
from tests.harness.witness import Witness
from tests.harness.workers import workers_of


def echo(name: str = "echo", **options: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": name,
        "graph": {"nodes": [{"type": "extension", "name": "echo", "addon": "echo", "property": {"a": 1}}]},
    }
    return {**entry, "agentd": options} if options else entry


WITNESS = {"isolation": {"write": ["witness"]}}


def shell(line: str, name: str = "shell", **properties: Any) -> dict[str, Any]:
    """A graph whose worker is a shell line; the app's folder is that of the witness."""
    node = {"type": "extension", "name": "n", "addon": "n", "property": properties}
    return {"name": name, "graph": {"nodes": [node]}, "agentd": {"command": ["sh", "-c", line], **WITNESS}}


async def send(agentd: Agentd, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """POST these bytes; status and envelope, which is checked for what holds of every answer."""
    assert agentd._session is not None
    async with agentd._session.post(agentd.address + path, data=body, headers=headers) as response:
        text = await response.text()
        answer = json.loads(text)
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert int(response.headers["Content-Length"]) == len(text.encode())
        assert set(answer) <= {"code", "msg", "data", "detail"}, answer
        assert answer["msg"] == CODES[answer["code"]].msg
        assert answer["code"] == "0" or answer["data"] is None
        assert "Traceback" not in text
        assert 'File "' not in text
        return response.status, answer


def faults(agentd: Agentd) -> list[dict[str, Any]]:
    """What the server logged of faults of its own, and what it wrote that is no log line."""
    return [
        event
        for event in agentd.events
        if event.get("level") in {"error", "critical"}
        or (event["event"] == "text" and not event["text"].startswith("agentd: warning: "))
    ]


# ---------------------------------------------------------------------- bodies (section 3)

START = {"channel_name": "c", "graph_name": "nobody"}  # whose fields are right: the graph is unknown
TRAPS: list[tuple[bytes, str]] = [
    # not a JSON object in UTF-8
    (b"", "10000"),
    (b" ", "10000"),
    (b"null", "10004"),  # counts as {}
    (b"{}", "10004"),
    (b"[]", "10000"),
    (b'"x"', "10000"),
    (b"5", "10000"),
    (b"true", "10000"),
    (b"{", "10000"),
    (b"{'a':1}", "10000"),
    (b'{"a":1,}', "10000"),
    (b"{} {}", "10000"),
    (b'\xef\xbb\xbf{"channel_name":"c"}', "10000"),
    (b'{"channel_name":"\xff"}', "10000"),
    (b'{"channel_name":"\xed\xa0\x80"}', "10000"),
    (b'{"channel_name":"\\ud800"}', "10000"),
    (b'{"x":"\\udfff"}', "10000"),
    (b'{"x":NaN}', "10000"),
    (b'{"x":Infinity}', "10000"),
    (b'{"x":-Infinity}', "10000"),
    (b'{"x":1e999}', "10000"),
    (b"[" * 100_000, "10000"),
    (b'{"a":' * 100_000, "10000"),
    (b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "10000"),
    (b'{"channel_name":"c","user_uid":' + b"9" * 5000 + b"}", "10000"),
    (b'{"x":' + b"9" * 5000 + b"}", "10000"),
    (b"channel_name=c", "10000"),
    # channel names
    (b'{"channel_name":null}', "10004"),
    (b'{"channel_name":""}', "10004"),
    (b'{"channel_name":" \\t\\n\xe3\x80\x80"}', "10004"),
    (b'{"channel_name":5}', "10000"),
    (b'{"channel_name":["c"]}', "10000"),
    (b'{"channel_name":{}}', "10000"),
    (b'{"channel_name":true}', "10000"),
]


def with_field(name: str, value: Any) -> bytes:
    return json.dumps({**START, name: value}).encode()


def fields(code: str, name: str, *values: Any) -> list[tuple[bytes, str]]:
    return [(with_field(name, value), code) for value in values]


UIDS = (-1, 2**32, 2**64, 1.0, 1e3, "5", True, False, [], {})
GOOD, BAD = "10100", "10000"
START_TRAPS = [
    *((with_field(name, value), BAD) for name in ("user_uid", "bot_uid") for value in UIDS),
    *fields(GOOD, "user_uid", 0, 1, 2**32 - 1, None),
    *fields(GOOD, "timeout", 0, -1, -2, 1, 2**63 - 1, -(2**63), None),
    *fields(BAD, "timeout", 2**63, -(2**63) - 1, 1.5, 1.0, "60", True, [], {}),
    *fields(GOOD, "properties", {}, None, {"n": {}}, {"n": None}, {"": {"a": 1}}, {"nobody": {"a": [1, {"b": None}]}}),
    *fields(BAD, "properties", 5, [], "x", True, {"n": 5}, {"n": []}, {"n": "x"}, {"n": {}, "m": False}),
    *fields(GOOD, "request_id", "", "x" * 10_000, "\0", "日本", None),
    *fields(BAD, "request_id", 5, [], {}, True),
    *fields(BAD, "graph_name", 5, [], {}, True),
    *fields(GOOD, "graph_name", None, "", " ", "../echo", "ECHO", "echo\0", "x" * 100_000),
    *fields(GOOD, "token", "", "x", None),
    *fields(BAD, "token", 5, [], True),
    *fields(GOOD, "worker_http_server_port", 0, -1, 2**31 - 1, -(2**31), None),
    *fields(BAD, "worker_http_server_port", 2**31, "8080", 1.0, True),
    *fields(GOOD, "tenapp_dir", "/etc", "../..", "", None),
    *fields(BAD, "tenapp_dir", 5, [], True),
    *fields(GOOD, "language", "en", 5, None, {"any": ["thing"]}),
    *fields(GOOD, "voice_type", "male", [], True),
    # names that are no channel's: refused with the graph, behind the limits
    *fields(GOOD, "channel_name", "x" * 101, "a/b", "a\\b", "..", "a\0b", ".hidden", "é" * 51),
]


async def test_every_trap_of_a_body(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo()])
    wrong = []
    for path, rows in (
        ("/start", [*TRAPS, *START_TRAPS]),
        ("/stop", TRAPS),
        ("/ping", TRAPS),
        ("/token/generate", TRAPS),
        ("/vector/document/update", TRAPS),
    ):
        for body, code in rows:
            status, answer = await send(agentd, path, body)
            if (status, answer["code"]) != (200, code):
                wrong.append((path, body[:80], status, answer, code))
    assert wrong == []
    assert (await agentd.get("/channels"))["channels"] == []
    assert faults(agentd) == []


@pytest.mark.parametrize("size", [0, 1])
async def test_the_size_of_a_body_is_bounded(agentd: Agentd, size: int) -> None:
    await agentd.start(graphs=[echo()], AGENTD_BODY_LIMIT_BYTES="1000")
    for path in ("/start", "/ping", "/stop", "/token/generate"):
        body = b'{"channel_name":""}'.ljust(1000 + size)
        status, answer = await send(agentd, path, body)
        assert (status, answer["code"]) == ((413, "10000") if size else (200, "10004"))


async def test_the_content_type_does_not_matter(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo()])
    kinds = (
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data; boundary=x",
        "nonsense",
        "a/b;c=d",
    )
    for number, kind in enumerate(kinds):
        body = json.dumps({"channel_name": f"c{number}", "graph_name": "echo"}).encode()
        for path in ("/start", "/ping", "/stop"):
            assert (await send(agentd, path, body, **{"Content-Type": kind}))[1]["code"] == "0"


NAMES = [
    "lobby",
    "Lobby",
    " lobby",
    "日本語",
    "🙂",
    "a:b",
    "a*b",
    "a?b",
    "$(id)",
    "`id`",
    "a b;c&d",
    "x" * 100,
    "-rf",
    "%2F",
    "a\nb",
    "{a}",
]


async def test_names_are_opaque_and_share_no_file(agentd: Agentd) -> None:
    await agentd.start(graphs=[shell("echo up; exec sleep 1000")], AGENTD_WORKER_SETTLE_SECONDS="0.05")
    await asyncio.gather(*(agentd.begin(name, "shell") for name in NAMES))
    assert sorted(item["channelName"] for item in (await agentd.get("/list"))["data"]) == sorted(NAMES)
    assert len(list((agentd.state_dir / "logs").glob("property-*"))) == len(NAMES)
    assert {answer["code"] for answer in await asyncio.gather(*(agentd.end(name) for name in NAMES))} == {"0"}
    await agentd.stop()
    logs = list((agentd.state_dir / "logs").iterdir())
    assert len([log for log in logs if log.name.startswith("app-")]) == len(NAMES)
    assert all(log.read_text() == "up\n" for log in logs if log.name.startswith("app-"))


# ---------------------------------------------------------------------- fuzz

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "c", "echo", "${env:HOME}", "${x:y}", "\0", "..", "x" * 300, "\u2028"])
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
overrides = st.dictionaries(
    st.sampled_from(["echo", "", "x"]),
    st.dictionaries(st.sampled_from(["a", "channel", ""]), values, max_size=2),
    max_size=2,
)
SHAPES = {
    "request_id": st.text(max_size=5) | values,
    "channel_name": st.sampled_from(["f1", "f2", "f 3"]) | st.sampled_from(["", " ", "a/b", ".x"]) | values,
    "graph_name": st.sampled_from(["echo", "echo", "nobody"]) | values,
    "user_uid": st.integers(0, 2**32) | values,
    "bot_uid": st.integers(0, 2**32) | values,
    "timeout": st.sampled_from([-1, 0, 30]) | values,
    "properties": overrides | values,
    "limits": st.fixed_dictionaries({}, optional={"open_files": st.integers(64, 9999)}) | values,
    "token": values,
    "collection": values,
    "file_name": values,
    "uid": values,
}
objects = st.fixed_dictionaries({}, optional=SHAPES)
documents = objects.map(json.dumps) | values.map(json.dumps)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """JSON with bytes taken out, put in or overwritten."""
    data = bytearray(draw(documents).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


bodies = documents.map(str.encode) | mangled() | st.binary(max_size=40)
PATHS = ("/start", "/ping", "/stop", "/token/generate", "/vector/document/update", "/vector/document/upload")


@given(requests=st.lists(st.tuples(st.sampled_from(PATHS), bodies), min_size=1, max_size=12))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_no_body_breaks_the_server(agentd: Agentd, requests: list[tuple[str, bytes]]) -> None:
    if agentd.process is None:
        await agentd.start(graphs=[echo()], WORKERS_MAX="2", WORKER_STOP_GRACE_SECONDS="1")
    answers = await asyncio.gather(*(send(agentd, path, body) for path, body in requests))
    assert {status for status, _ in answers} == {200}, answers
    assert (await agentd.get("/health"))["code"] == "0"
    assert faults(agentd) == []
    for channel in (await agentd.get("/channels"))["channels"]:
        assert channel["name"].strip()
        await agentd.end(channel["name"])
    assert (await agentd.get("/channels"))["channels"] == []
    assert workers_of(agentd.state_dir) == {}


HALVES = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /start HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{",
    b"POST /start HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /start HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    b"POST /start HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /start HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    b"POST /start HTTP/9.9\r\nHost: x\r\n\r\n",
    b"BREW /start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    b"GET /channels/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /channels/%2e%2e%2f HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
]


@given(garbage=st.lists(st.binary(min_size=1, max_size=60) | st.sampled_from(HALVES), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_bytes_on_the_socket_break_the_server(agentd: Agentd, garbage: list[bytes]) -> None:
    if agentd.process is None:
        await agentd.start(graphs=[echo()])
    async with connection(agentd) as (reader, writer):
        writer.write(b"".join(garbage))
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
    assert b"Traceback" not in answer
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert (await agentd.get("/health"))["code"] == "0"
    assert faults(agentd) == []


@contextlib.asynccontextmanager
async def connection(agentd: Agentd) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection to the server."""
    host, _, port = agentd.address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# ---------------------------------------------------------------------- the order of checks (section 4)


async def test_the_first_check_that_fails_answers(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo(), echo("one", max_workers=1)], WORKERS_MAX="3", AGENTD_GRAPH_LIMITS="ech*=1")

    async def code(**fields: Any) -> str:
        answer = await agentd.post("/start", **fields)
        return str(answer["code"])

    await agentd.begin("a")
    assert await code(channel_name="a", graph_name="echo") == "10003"  # before the limit of the graph
    assert await code(channel_name="b/", graph_name="echo") == "10001"  # the limit before the name
    assert await code(channel_name="b/", graph_name="nobody") == "10100"
    assert await code(channel_name="b", graph_name="nobody") == "10100"
    assert await code(channel_name="b") == "10100"
    await agentd.begin("b", "one")
    assert await code(channel_name="c", graph_name="one") == "10001"
    await agentd.end("a")
    await agentd.begin("c")
    await agentd.end("b")
    await agentd.begin("b", "one")
    assert await code(channel_name="d", graph_name="echo") == "10001"
    await agentd.end("c")
    assert await code(channel_name="", graph_name="echo") == "10004"
    assert await code(channel_name="", user_uid=-1) == "10000"  # the body before the channel


async def test_all_slots_are_checked_before_the_name(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo()], WORKERS_MAX="1")
    await agentd.begin("a")
    for name in ("a", "b", "b/"):
        assert (await agentd.post("/start", channel_name=name, graph_name="echo"))["code"] == "10001"
    assert (await agentd.post("/start", channel_name="", graph_name="echo"))["code"] == "10004"


# ---------------------------------------------------------------------- limits


async def started(agentd: Agentd, graph: str, count: int) -> int:
    """How many of `count` simultaneous starts succeed; the others met the limit."""
    answers = await asyncio.gather(
        *(agentd.post("/start", channel_name=f"{graph} {n}", graph_name=graph) for n in range(count))
    )
    assert {answer["code"] for answer in answers} <= {"0", "10001"}
    return sum(answer["code"] == "0" for answer in answers)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"my_gemini_1": 3, "my_gemini_2": 3, "gemin": 5}),
        ({"MAX_GEMINI_WORKER_COUNT": "2"}, {"my_gemini_1": 2, "gemin": 5}),
        ({"MAX_GEMINI_WORKER_COUNT": "many"}, {"my_gemini_1": 3}),
        ({"AGENTD_GRAPH_LIMITS": "my_*=4,gemin=1"}, {"my_gemini_1": 3, "my_other": 4, "gemin": 1}),
        ({"AGENTD_GRAPH_LIMITS": "*gemini*=4"}, {"my_gemini_1": 4}),
    ],
)
async def test_the_limits_of_graphs(agentd: Agentd, given: dict[str, str], expected: dict[str, int]) -> None:
    names = ("my_gemini_1", "my_gemini_2", "my_other", "gemin")
    await agentd.start(graphs=[echo(name) for name in names], **given)
    assert {graph: await started(agentd, graph, 5) for graph in expected} == expected


async def test_the_limit_in_the_graph_file(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo("few", max_workers=2), echo()])
    assert await started(agentd, "few", 5) == 2
    assert await started(agentd, "echo", 3) == 3
    await agentd.end((await agentd.get("/list"))["data"][0]["channelName"])
    assert (await agentd.post("/start", channel_name="next", graph_name="few"))["code"] == "0"


async def test_a_request_only_tightens_limits(agentd: Agentd, witness: Witness) -> None:
    line = f"echo files $(ulimit -n) $$ > {witness.folder}/witness; exec sleep 1000"
    graph = shell(line)
    graph["agentd"]["limits"] = {"open_files": 100}
    await agentd.start(graphs=[graph, echo()], AGENTD_WORKER_SETTLE_SECONDS="0.05")
    for name, value, code in (
        ("open_files", 101, "10000"),
        ("open_files", 0, "10000"),
        ("open_files", "5", "10000"),
        ("open_file", 5, "10000"),
        ("open_files", 50, "0"),
    ):
        answer = await agentd.post("/start", channel_name="c", graph_name="shell", limits={name: value})
        assert answer["code"] == code
        assert code == "0" or name in answer["detail"]
    await witness.hears("files 50")
    await agentd.begin("d", "shell")
    await witness.hears("files 100")


# ---------------------------------------------------------------------- add-ons


def graph_of(*addons: str) -> dict[str, Any]:
    nodes = [{"type": "extension", "name": f"n{i}", "addon": addon} for i, addon in enumerate(addons)]
    return {"name": "g", "graph": {"nodes": nodes}}


async def test_all_missing_addons_are_listed(agentd: Agentd) -> None:
    await agentd.start(graphs=[graph_of("echo", "agora_rtc", "azure_tts", "agora_rtc")])
    answer = await agentd.post("/start", channel_name="c", graph_name="g")
    assert answer["code"] == "10101"
    assert "agora_rtc" in answer["detail"]
    assert "azure_tts" in answer["detail"]
    assert "echo" not in answer["detail"]
    assert (await agentd.gone("c"))["cause"] == "addons_missing"
    assert (await agentd.get("/channels"))["channels"] == []


async def test_missing_addons_can_be_left_inert(agentd: Agentd) -> None:
    await agentd.start(graphs=[graph_of("echo", "agora_rtc", "azure_tts")], AGENTD_UNKNOWN_ADDONS="skip")
    await agentd.begin("c", "g")
    skipped = (await agentd.event("channel.addons_skipped"))["nodes"]
    assert [node["addon"] for node in skipped] == ["agora_rtc", "azure_tts"]
    assert (await agentd.end("c"))["code"] == "0"


# ---------------------------------------------------------------------- the property file


async def test_an_edited_file_is_used_by_the_next_start(agentd: Agentd, witness: Witness) -> None:
    def write(value: str) -> None:
        keep = 'cp {property_file} "$AGENTD_CHANNEL_FOLDER/copy"'
        line = f"{keep}; echo copied $$ > {witness.folder}/witness; exec sleep 1000"
        graph = shell(line, value=value)
        new = agentd.folder / "property.json.new"
        new.write_text(json.dumps({"ten": {"predefined_graphs": [graph]}}))
        new.replace(agentd.folder / "property.json")

    async def value(channel: str) -> str:
        witness.said.clear()
        await agentd.begin(channel, "shell")
        await witness.hears("copied")
        copy = agentd.state_dir / "ch" / (await agentd.channel(channel))["id"] / "copy"
        [entry] = json.loads(copy.read_text())["ten"]["predefined_graphs"]
        return str(entry["graph"]["nodes"][0]["property"]["value"])

    write("one")
    await agentd.start(AGENTD_WORKER_SETTLE_SECONDS="0.05")
    assert await value("a") == "one"
    write("two")
    assert await value("b") == "two"
    (agentd.folder / "property.json").write_text("{broken")
    answer = await agentd.post("/start", channel_name="c", graph_name="shell")
    assert answer["code"] == "10100"
    assert "line 1" in answer["detail"]
    assert (await agentd.get("/graphs"))["code"] == "10007"
    (agentd.folder / "property.json").unlink()
    assert (await agentd.post("/start", channel_name="c", graph_name="shell"))["code"] == "10100"
    assert (await agentd.get("/graphs"))["code"] == "10106"
    write("three")
    assert await value("c") == "three"
    assert (await agentd.post("/ping", channel_name="a"))["code"] == "0"  # the earlier ones live on


# ---------------------------------------------------------------------- clients that leave


async def test_a_start_completes_without_its_client(agentd: Agentd, witness: Witness) -> None:
    line = f"echo born $$ > {witness.folder}/witness; exec sleep 1000"
    await agentd.start(graphs=[shell(line)], AGENTD_WORKER_SETTLE_SECONDS="0.3")
    body = json.dumps({"channel_name": "c", "graph_name": "shell"}).encode()
    async with connection(agentd) as (_, writer):
        writer.write(b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await witness.hears("born")
        writer.transport.abort()
    await agentd.event("channel.ready")
    assert [item["channelName"] for item in (await agentd.get("/list"))["data"]] == ["c"]
    assert (await agentd.end("c"))["code"] == "0"


async def test_a_stop_completes_without_its_client(agentd: Agentd, witness: Witness) -> None:
    line = f"trap '' TERM; echo deaf $$ > {witness.folder}/witness; while :; do sleep 1000; done"
    await agentd.start(graphs=[shell(line)], AGENTD_WORKER_SETTLE_SECONDS="0.05", WORKER_STOP_GRACE_SECONDS="0.3")
    await agentd.begin("c", "shell")
    await witness.hears("deaf")
    body = json.dumps({"channel_name": "c"}).encode()
    async with connection(agentd) as (_, writer):
        writer.write(b"POST /stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await agentd.event("channel.stopping")
        writer.transport.abort()
    assert (await agentd.gone("c"))["cause"] == "stopped"
    assert witness.alive() == []


# ---------------------------------------------------------------------- ends


async def test_a_worker_that_ends_by_itself_leaves_the_list(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo()], WORKERS_MAX="1")
    await agentd.begin("c")
    os.kill((await agentd.channel("c"))["pid"], signal.SIGKILL)
    gone = await agentd.gone("c")
    assert (gone["cause"], gone["status"]) == ("crashed", -9)
    assert (await agentd.get("/list"))["data"] == []
    assert (await agentd.post("/ping", channel_name="c"))["code"] == "10002"
    assert (await agentd.end("c"))["code"] == "10002"
    await agentd.begin("other")


async def test_the_exit_of_an_old_worker_does_not_end_a_new_one(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo()])
    for _ in range(10):
        await agentd.begin("c")
        os.kill((await agentd.channel("c"))["pid"], signal.SIGKILL)
        while (await agentd.post("/start", channel_name="c", graph_name="echo"))["code"] == "10003":
            continue  # the old one is on its way out
        assert (await agentd.post("/ping", channel_name="c"))["code"] == "0"
        assert (await agentd.end("c"))["code"] == "0"


async def test_a_start_right_after_a_stop_succeeds(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo()], WORKERS_MAX="1")
    pids = set()
    for _ in range(50):
        await agentd.begin("c")
        pids.add((await agentd.channel("c"))["pid"])
        assert (await agentd.end("c"))["code"] == "0"
        assert (await agentd.get("/list"))["data"] == []
        assert (await agentd.post("/ping", channel_name="c"))["code"] == "10002"
    assert list((agentd.state_dir / "ch").iterdir()) == []
    assert len(pids) == 50


async def test_the_end_of_the_server_ends_starts_in_progress(agentd: Agentd, witness: Witness) -> None:
    line = f"echo born $$ > {witness.folder}/witness; exec sleep 1000"
    await agentd.start(
        graphs=[shell(line), echo()], AGENTD_WORKER_SETTLE_SECONDS="20", WORKER_START_TIMEOUT_SECONDS="30"
    )
    await agentd.begin("up")
    starts = [asyncio.create_task(agentd.post("/start", channel_name=f"c{n}", graph_name="shell")) for n in range(3)]
    async with asyncio.timeout(PATIENCE):
        while len(witness.said) < 3:
            witness._heard.clear()
            await witness._heard.wait()
    assert agentd.process is not None
    agentd.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*starts)
    assert {answer["code"] for answer in answers} == {"10101"}
    assert await agentd.stop() == 0
    assert witness.alive() == []
    stopped = await agentd.event("server.stopped")
    assert stopped["channels"] == 4


# ---------------------------------------------------------------------- the token


async def test_a_token_is_asked_for_everywhere_but_by_probes(agentd: Agentd) -> None:
    await agentd.start(graphs=[echo()], AGENTD_TOKEN="s3cret")
    body = {"channel_name": "c", "graph_name": "echo"}
    wrong = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}, {"Authorization": "Basic s3cret"})
    for headers in wrong:
        for path in ("/start", "/ping", "/stop", "/token/generate", "/vector/document/update"):
            answer = await agentd.request("POST", path, json=body, headers=headers)
            assert (answer["status"], answer["code"]) == (401, "10000")
        for path in ("/list", "/graphs", "/channels", "/channels/c"):
            assert (await agentd.request("GET", path, headers=headers))["status"] == 401
    assert (await agentd.get("/health"))["code"] == "0"
    right = {"Authorization": "Bearer s3cret"}
    for path in ("/start", "/ping", "/stop"):
        assert (await agentd.request("POST", path, json=body, headers=right))["code"] == "0"
    assert "s3cret" not in json.dumps(agentd.events)


async def test_nothing_of_the_servers_own_settings_reaches_a_worker(agentd: Agentd, witness: Witness) -> None:
    line = f"env -0 > $AGENTD_CHANNEL_FOLDER/environment; echo told $$ > {witness.folder}/witness; exec sleep 1000"
    await agentd.start(
        graphs=[shell(line)], AGENTD_TOKEN="s3cret", AGENTD_WORKER_ENV="*", AGENTD_WORKER_SETTLE_SECONDS="0"
    )
    headers = {"Authorization": "Bearer s3cret"}
    answer = await agentd.request("POST", "/start", json={"channel_name": "c", "graph_name": "shell"}, headers=headers)
    assert answer["code"] == "0"
    await witness.hears("told")
    [found] = agentd.state_dir.glob("ch/*/environment")
    environment = found.read_text()
    assert "s3cret" not in environment
    assert "AGENTD_STATE_DIR" not in environment
