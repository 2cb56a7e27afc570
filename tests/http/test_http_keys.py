"""The door with keys: who is let in, with which header, to which paths; what a principal's turns are bound to."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from supervisor.auth import ANYBODY, MASTER, Principal, Scope
from supervisor.causes import Cause, Refusal
from supervisor.channels.requests import Owner
from supervisor.http.principals import as_named, bound
from supervisor.http.request_keys import PRINCIPAL
from supervisor.keys import KeyFile, new_key
from supervisor.turns.requests import TurnRequest

TOKEN = "t0ken"
TURNS, CONTROL, OPS = Scope.TURNS, Scope.CONTROL, Scope.OPS
CALL = "/v1/p/agents/greeter/conversations/0f8fad5b-d9cb-469f-a165-70867728950e"
CALLS = [CALL, CALL.replace("/agents", "/agent-run/agents")]


def add(house: Any, *scopes: Scope, **bound_to: Any) -> str:
    path = Path(house.settings.keys_file)
    path.parent.mkdir(exist_ok=True)
    text, row = new_key(scopes=scopes or [TURNS], **bound_to)
    KeyFile(path).add(row)
    return text


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# Method and path of something of each scope, and the status a principal gets who may.
PLACES = [
    ("POST", "/turns", TURNS, 400),
    ("POST", "/process", TURNS, 400),
    ("GET", "/v1/models", TURNS, 200),
    ("GET", "/compatible-mode/v1/models", TURNS, 200),
    ("GET", "/manifest", TURNS, 200),
    ("POST", "/ping", CONTROL, 200),
    ("GET", "/list", CONTROL, 200),
    ("GET", "/graphs", CONTROL, 200),
    ("GET", "/channels", CONTROL, 200),
    ("GET", "/channels/x", CONTROL, 404),
    ("GET", "/channels/x/logs", OPS, 404),
    ("GET", "/ledger", OPS, 200),
    ("GET", "/openapi.json", OPS, 200),
    ("GET", "/health?details=1", OPS, 200),
    ("GET", "/?details=1", OPS, 200),
]


@pytest.mark.parametrize("scope", Scope)
async def test_a_key_opens_the_paths_of_its_scope(house: Any, scope: Scope) -> None:
    key = add(house, scope)
    for method, path, needed, status in PLACES:
        answer = await house.ask(method, path, headers=bearer(key))
        if needed is scope:
            assert answer.status == status, path
        else:
            assert (answer.status, answer.headers["Agentd-Cause"]) == (403, "scope_missing"), path
            assert f"has the scopes {scope}; {path.partition('?')[0]} needs {needed}" in answer.content.decode()
        assert key.encode() not in answer.content
    assert (await house.get("/nowhere", headers=bearer(key))).status == 404
    assert (await house.get("/health")).status == 200


async def test_a_key_comes_and_goes_while_the_server_runs(house: Any) -> None:
    assert (await house.get("/list")).status == 200
    assert (await house.ask("OPTIONS", "/list")).headers["Access-Control-Allow-Headers"] == "*"
    key = add(house, CONTROL)
    # The browser asks before it sends the first key.
    assert (await house.ask("OPTIONS", "/list")).headers["Access-Control-Allow-Headers"] == "*, Authorization"
    refused = await house.get("/list")
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "no valid token or key" in refused.body["detail"]
    assert (await house.get("/list", headers=bearer(key))).status == 200
    assert (await house.get("/list", headers={**bearer(key), "Host": "evil.example"})).status == 200
    assert KeyFile(house.settings.keys_file).revoke(key[7:15])
    assert (await house.get("/list", headers=bearer(key))).status == 401
    assert (await house.get("/list")).status == 401


@pytest.mark.parametrize("header", ["Basic {}", "{}", "Bearer", "Bearer {}x", "Bearer agentd_00000000_"])
async def test_what_is_no_key(house: Any, header: str) -> None:
    key = add(house, CONTROL)
    answer = await house.get("/list", headers={"Authorization": header.format(key)})
    assert answer.status == 401
    assert (await house.get("/list", headers={"X-Auth-Token": key})).status == 401


@pytest.mark.parametrize(("before", "status"), [(b"", b"200"), (b"\xff", b"401"), ("é".encode(), b"401")])
async def test_keys_are_compared_as_bytes(house: Any, before: bytes, status: bytes) -> None:
    key = add(house, CONTROL).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    head = b"GET /list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(head + b"Authorization: Bearer " + before + key + b"\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 " + status)
    writer.close()
    await writer.wait_closed()


async def test_the_token_is_not_bound(build: Any) -> None:
    house = await build(token=TOKEN)
    key = add(house, OPS)
    for method, path, _, status in PLACES:
        assert (await house.ask(method, path, headers=bearer(TOKEN))).status == status
    assert (await house.get("/ledger", headers=bearer(key))).status == 200


async def test_the_log_tells_the_key_by_its_id(build: Any) -> None:
    house = await build(log_level="debug")
    key = add(house, CONTROL)
    with capture_logs() as logs:
        for path in ("/list", "/ledger"):
            await house.get(path, headers=bearer(key))
        await house.post("/ping", {"channel_name": "x"}, headers=bearer(key))
        await house.post("/stop", {"channel_name": "x"}, headers=bearer(key))
        await house.get("/list", headers=bearer(f"{key}x"))
    lines = [line for line in logs if line["event"] == "http.request"]
    assert [(line["path"], line["status"], line.get("key")) for line in lines] == [
        ("/list", 200, key[7:15]),
        ("/ledger", 403, key[7:15]),
        ("/ping", 200, key[7:15]),
        ("/stop", 200, key[7:15]),
        ("/list", 401, None),
    ]
    assert lines[3]["channel"] == "x"
    assert key[16:] not in str(logs)


# ---------------------------------------------------------------------- Huawei's header


@pytest.mark.parametrize("path", CALLS)
async def test_an_agent_call_needs_its_header_even_of_an_open_server(house: Any, path: str) -> None:
    for headers in ({}, {"X-Auth-Token": ""}, {"X-Auth-Token": "  "}, bearer("any")):
        answer = await house.post(path, {}, headers=headers)
        assert (answer.status, answer.headers["Agentd-Cause"]) == (401, "unauthorized")
    assert (await house.post(path, {}, headers={"X-Auth-Token": "any"})).status != 401
    evil = {"X-Auth-Token": "any", "Host": "evil.example"}
    assert (await house.post(path, {}, headers=evil)).headers["Agentd-Cause"] == "host_refused"


@pytest.mark.parametrize("path", CALLS)
async def test_an_agent_call_takes_a_key_or_the_token(build: Any, path: str) -> None:
    house = await build(token=TOKEN)
    key, other = add(house, TURNS), add(house, OPS)
    for headers in ({"X-Auth-Token": "any"}, {"X-Auth-Token": f"{key}x"}, bearer(key), bearer(TOKEN), {}):
        assert (await house.post(path, {}, headers=headers)).status == 401
    for secret in (key, TOKEN):
        assert (await house.post(path, {}, headers={"X-Auth-Token": secret})).status not in (401, 403)
    both = {"X-Auth-Token": key, **bearer("wrong")}
    assert (await house.post(path, {}, headers=both)).status not in (401, 403)
    answer = await house.post(path, {}, headers={"X-Auth-Token": other})
    assert answer.headers["Agentd-Cause"] == "scope_missing"


# ---------------------------------------------------------------------- what turns are bound to


def request_of(principal: Principal) -> Any:
    request = make_mocked_request("POST", "/turns")
    request[PRINCIPAL] = principal
    return request


def turn(**fields: Any) -> TurnRequest:
    return TurnRequest(kind="invoke", graph="echo", session="s", input=1, **fields)


ALICE = Principal("k", user="alice")


@pytest.mark.parametrize(
    ("principal", "user", "expected"),
    [
        (ANYBODY, "", ""),
        (ANYBODY, "bob", "bob"),
        (MASTER, "alice/x", "alice/x"),
        (ALICE, "", "alice"),
        (ALICE, "bob", "alice/bob"),
        (ALICE, "alice", "alice/alice"),
        (ALICE, "alice/x", "alice/alice/x"),
        (ALICE, "/", "alice//"),
        (Principal("k", graph="echo"), "bob", "bob"),
        (Principal("k", user="alice", graph="echo"), "bob", "alice/bob"),
    ],
)
def test_the_user_of_a_turn(principal: Principal, user: str, expected: str) -> None:
    request, wanted = request_of(principal), turn(user=user, source="x")
    owner = Owner(principal.user, principal.name)
    assert bound(request, wanted) == turn(user=expected, source="x", owner=owner)
    assert as_named(request, expected) == user


def test_another_principal_s_user_stays_another_s() -> None:
    request = request_of(ALICE)
    for user in ("bob", "bob/x", "alicex", "alice2/x", ""):
        assert as_named(request, user) == user
        assert bound(request, turn(user=as_named(request, user))).user != user


def refusal(principal: Principal, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        bound(request_of(principal), turn(**fields))
    return caught.value


def test_the_graph_of_a_turn() -> None:
    told = refusal(Principal("k", graph="friday"))
    assert (told.cause, told.detail) == (Cause.GRAPH_UNKNOWN, "no graph 'echo'; allowed: 'friday'")
    assert bound(request_of(Principal("k", graph="echo")), turn()) == turn(owner=Owner("", "k"))


def test_a_channel_by_name() -> None:
    for free in (ANYBODY, MASTER, Principal("k")):
        assert bound(request_of(free), turn(channel="lobby")).channel == "lobby"
    wanted = bound(request_of(ALICE), turn(channel="lobby"))
    assert (wanted.channel, wanted.only_graph) == ("alice/lobby", None)
    wanted = bound(request_of(Principal("k", graph="echo")), turn(channel="lobby"))
    assert (wanted.channel, wanted.only_graph) == ("lobby", "echo")


async def test_a_turn_of_a_bound_key_over_http(house: Any) -> None:
    await house.start("lobby")  # with the graph greeter
    key = add(house, TURNS, CONTROL, graph="echo")
    answer = await house.post("/turns", {"graph": "greeter", "message": "x"}, headers=bearer(key))
    assert (answer.status, answer.body["error"]["cause"]) == (404, "graph_unknown")
    for name in ("lobby", "nobody"):
        answer = await house.post(f"/channels/{name}/turns", {"message": "x"}, headers=bearer(key))
        assert (answer.status, answer.body["error"]["detail"]) == (404, f"no channel {name!r} is running")
