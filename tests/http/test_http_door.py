"""What every request passes: CORS, statuses, request ids, the bearer token, errors, logs; over raw sockets."""

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor.http import intake

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": "*",
    "Access-Control-Allow-Credentials": "true",
}
TOKEN = "correct-horse-battery-staple"


def assert_cors(answer: Any) -> None:
    assert {name: answer.headers.get(name) for name in CORS} == CORS


async def raw(house: Any, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/list", 200),
        ("POST", "/ping", 200),
        ("GET", "/nowhere", 404),
        ("POST", "/ping/", 404),
        ("GET", "/ping", 405),
        ("DELETE", "/start", 405),
        ("GET", "/channels/nobody", 404),
        ("GET", "/channels/nobody/logs", 404),
        ("PATCH", "/channels", 405),
        ("GET", "/%ff%00%2e%2e", 404),
    ],
)
async def test_statuses_and_cors(house: Any, method: str, path: str, status: int) -> None:
    answer = await house.ask(method, path)
    assert answer.status == status
    assert_cors(answer)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert answer.headers["X-Request-ID"]
    if path.startswith("/channels"):
        assert answer.body["error"]["cause"] in {"not_found", "method_not_allowed", "channel_unknown"}
    elif status >= 400:
        assert (answer.code, answer.body["msg"], answer.body["data"]) == ("10000", "params invalid", None)
    if status == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/", "/ping", "/nowhere", "/channels/x/logs", "/a/b/c", "*"])
async def test_options_anywhere(build: Any, path: str) -> None:
    house = await build(token=TOKEN)
    answer = await raw(house, f"OPTIONS {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204")
    assert body == b""
    assert b"Access-Control-Allow-Origin: *\r\n" in head + b"\r\n"
    assert b"Access-Control-Allow-Headers: *, Authorization" in head


async def test_unexpected_errors(house: Any) -> None:
    await house.start("x")
    for path in ("/ping", "/start"):
        house.table.fault = RuntimeError("the secret inside")
        with capture_logs() as logs:
            answer = await house.post(path, {"channel_name": "x"}, headers={"X-Request-ID": "r1"})
        assert (answer.status, answer.code, answer.body["data"]) == (500, "10000", None)
        assert "r1" in answer.body["detail"]
        assert b"secret" not in answer.content
        assert b"Traceback" not in answer.content
        assert_cors(answer)
        failed = next(line for line in logs if line["event"] == "http.failed")
        assert str(failed["exc_info"]) == "the secret inside"
        assert failed["request_id"] == "r1"
    await house.start()
    house.table.fault = ValueError("inside")
    answer = await house.ask("DELETE", "/channels/lobby")
    assert (answer.status, answer.body["error"]["cause"]) == (500, "internal")


async def test_an_unknown_expectation_has_cors_too(house: Any) -> None:
    answer = await raw(house, b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 417")
    assert b"Access-Control-Allow-Origin: *" in answer


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        ("r-7f", True),
        ("a b;c=1", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("é", False),
        ("a\tb", False),
    ],
)
async def test_request_ids(house: Any, given: str, echoed: bool) -> None:
    for path in ("/health", "/list"):
        answer = await house.get(path, headers={"X-Request-ID": given})
        assert (answer.headers["X-Request-ID"] == given) == echoed
        assert answer.headers["X-Request-ID"].isprintable()


async def test_request_ids_of_ours_differ(house: Any) -> None:
    ids = {(await house.get("/health")).headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("header", "good"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN}", True),
        (f"Bearer {TOKEN}x", False),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        ("Bearer", False),
        ("Bearer \udcff\udcfe", False),
        (None, False),
    ],
)
async def test_the_bearer_token(build: Any, header: str | None, good: bool) -> None:
    house = await build(token=TOKEN)
    headers = {} if header is None else {"Authorization": header}
    answer = await house.post("/ping", {"channel_name": "x"}, headers=headers)
    native = await house.get("/channels", headers=headers)
    for path in ("/", "/health"):
        assert (await house.get(path)).status == 200
    assert ((await house.get("/health?details=1", headers=headers)).status == 200) == good
    assert answer.headers["Access-Control-Allow-Headers"] == "*, Authorization"
    if good:
        assert (answer.code, native.status) == ("10002", 200)
        return
    assert (answer.status, answer.code) == (401, "10000")
    assert answer.body["detail"].startswith("unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert (native.status, native.body["error"]["cause"]) == (401, "unauthorized")
    assert TOKEN.encode() not in answer.content + native.content
    assert (await house.get("/nowhere", headers=headers)).status == 401


async def test_access_logs(build: Any) -> None:
    house = await build(log_level="debug")
    with capture_logs() as logs:
        await house.start(request_id="mine")
        await house.post("/ping", {"channel_name": "lobby"})
        await house.get("/nowhere?key=secret")
    lines = [line for line in logs if line["event"] == "http.request"]
    assert [(line["log_level"], line["method"], line["path"], line["status"]) for line in lines] == [
        ("info", "POST", "/start", 200),
        ("debug", "POST", "/ping", 200),
        ("info", "GET", "/nowhere", 404),
    ]
    assert (lines[0]["channel"], lines[0]["client_request_id"]) == ("lobby", "mine")
    assert all(line["ms"] >= 0 and line["request_id"] for line in lines)


async def test_pings_are_not_logged_above_debug(house: Any) -> None:
    await house.start()
    with capture_logs() as logs:
        for path in ("/ping", "/stop"):
            await house.post(path, {"channel_name": "lobby"})
            await house.post(path, {"channel_name": "nobody"})
        await house.get("/health")
    assert [line["path"] for line in logs if line["event"] == "http.request"] == ["/stop", "/stop"]


async def test_a_body_that_does_not_arrive(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BODY_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(b"POST /ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readuntil(b"}")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["code"] == "10000"
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "tail",
    [
        b"Content-Length: 4\r\nContent-Encoding: gzip\r\n\r\nabcd",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Content-Length: 4\r\nContent-Encoding: nonsense\r\n\r\n{}  ",
    ],
)
async def test_bodies_that_cannot_be_decoded(house: Any, tail: bytes) -> None:
    answer = await raw(house, b"POST /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + tail)
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 400"))
    assert b"Traceback" not in answer


async def test_a_client_that_hangs_up_half_way(house: Any) -> None:
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(b"POST /ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        await writer.drain()
        writer.transport.abort()
        await house.get("/health")
    assert not [line for line in logs if line["event"] == "http.failed"]
