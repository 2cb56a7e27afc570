"""Keys in front of a whole server: made and revoked by the command while it runs, and bound to users and graphs."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import jwt
import pytest

from supervisor.auth import Bounds, Scope
from supervisor.keys import KeyFile, new_key
from supervisor.processes.bundle import prepare_state
from tests.e2e.test_docs import DOCS, answers, shell, snippets
from tests.harness import Agentd


class Keys:
    """Makes keys for a server, and knows them all."""

    def __init__(self, agentd: Agentd) -> None:
        self.file = KeyFile(agentd.state_dir / "keys.json")
        self.made: list[str] = []

    def add(self, *scopes: Scope, **bound: Any) -> dict[str, str]:
        """The header of a new key."""
        prepare_state(self.file.path.parent)
        text, row = new_key(scopes=scopes or [Scope.TURNS], **bound)
        self.file.add(row)
        self.made.append(text)
        return bearer(text)

    def revoke(self, number: int) -> None:
        assert self.file.revoke(self.made[number][7:15])


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def keys(agentd: Agentd) -> Iterator[Keys]:
    """No key that was made is in the server's log afterwards."""
    keys = Keys(agentd)
    yield keys
    log = json.dumps(agentd.events)
    assert agentd.events
    assert [text for text in keys.made if text[16:] in log] == []


async def status(agentd: Agentd, headers: dict[str, str] | None = None, path: str = "/list") -> int:
    return int((await agentd.request("GET", path, headers=headers))["status"])


async def ask(agentd: Agentd, headers: dict[str, str], message: str, **more: Any) -> dict[str, Any]:
    body = {"graph": "friday", "session": "s", "message": message, **more}
    return await agentd.request("POST", "/turns", json=body, headers=headers)


# ---------------------------------------------------------------------- the documentation


async def test_the_snippets_of_the_page(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    variables = {"A": agentd.address, "AGENTD_STATE_DIR": str(agentd.state_dir), "COLUMNS": "200"}
    outputs = []
    for block in snippets(DOCS / "keys.md", "sh"):
        shown = 'echo "KEYS: $KEY $ALICE $BOB $ADMIN $OLD $NEW"'
        script = f"set -e\n{block.replace('curl ', 'curl -s ')}{shown}"
        output, _, made = (await shell(script, agentd.folder, **variables)).rpartition("KEYS:")
        keys.made += made.split()
        outputs.append(output)
    first, command, scopes, users, others, limits, rotation = outputs
    assert len(keys.made) == 11
    assert answers(first)[0]["cause"] == "completed"
    assert re.search(rf"^{keys.made[0][7:15]} +alice +friday +turns +- +- +- +\d{{4}}-", first, re.MULTILINE)
    assert "started lobby\n" in command
    assert "Friday" in command
    assert "stopped lobby\n" in command
    asked, refused = answers(scopes)
    assert asked["cause"] == "completed"
    assert refused["detail"] == f"key {keys.made[2][7:15]} has the scopes turns; /list needs control"
    alice, bob = answers(users)
    assert "Alice" in alice["text"]
    assert bob["cause"] == "completed"
    assert "Alice" not in bob["text"]
    started, unseen, seen, stopped = answers(others)
    assert (started["code"], stopped["code"]) == ("0", "0")
    assert unseen["error"]["detail"] == "no channel 'den' is running"
    assert (seen["name"], seen["user"]) == ("alice/den", "alice")
    asked, foreign, again, beyond = answers(limits)
    assert (asked["cause"], again["cause"]) == ("completed", "completed")
    assert (foreign["error"]["cause"], beyond["error"]["cause"]) == ("origin_refused", "key_limit")
    assert f"revoked {keys.made[-2][7:15]}\n" in rotation
    new, old = answers(rotation)
    assert (new["cause"], old["error"]["cause"]) == ("completed", "unauthorized")


async def test_the_command_makes_and_revokes_while_the_server_runs(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    folder, state = agentd.folder, str(agentd.state_dir)
    text = (await shell("agentd keys add --scope control 2>/dev/null", folder, AGENTD_STATE_DIR=state)).strip()
    keys.made.append(text)
    assert await status(agentd, bearer(text)) == 200
    assert await status(agentd) == 401
    told = await shell(f"agentd keys revoke {text[7:15]}", folder, AGENTD_STATE_DIR=state)
    assert told == f"revoked {text[7:15]}\n"
    assert await status(agentd, bearer(text)) == 401


# ---------------------------------------------------------------------- open and closed


async def test_the_first_key_closes_and_nothing_opens(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    assert (await status(agentd), await status(agentd, bearer("any"))) == (200, 200)
    headers = keys.add(Scope.CONTROL)
    assert (await status(agentd, headers), await status(agentd), await status(agentd, bearer("any"))) == (200, 401, 401)
    assert (await agentd.get("/liveness"))["status"] == "alive"
    keys.revoke(0)
    assert (await status(agentd, headers), await status(agentd)) == (401, 401)
    headers = keys.add(Scope.CONTROL)
    assert await status(agentd, headers) == 200
    keys.file.path.write_bytes(b"")
    assert (await status(agentd, headers), await status(agentd)) == (401, 401)
    headers = keys.add(Scope.CONTROL)
    assert await status(agentd, headers) == 200
    keys.file.path.unlink()
    assert (await status(agentd, headers), await status(agentd)) == (401, 401)
    await agentd.event("keys.gone")
    await agentd.stop()
    agentd.events.clear()
    await agentd.start()  # its lock tells that there was a file
    await agentd.event("keys.gone")
    assert (await status(agentd, headers), await status(agentd)) == (401, 401)
    await agentd.stop()
    keys.file.path.with_name("keys.json.lock").unlink()
    agentd.events.clear()
    await agentd.start()
    assert await status(agentd) == 200


async def test_a_file_that_is_garbled_keeps_the_last_good_keys(agentd: Agentd, keys: Keys) -> None:
    headers = keys.add(Scope.CONTROL)
    await agentd.start()
    for garbage in (b"{", keys.made[0].encode(), b'{"version": 1, "keys": ["' + keys.made[0].encode() + b'"]}'):
        keys.file.path.write_bytes(garbage)
        for _ in range(3):
            assert (await status(agentd, headers), await status(agentd)) == (200, 401)
    told = [event for event in agentd.events if event["event"] == "keys.unreadable"]
    assert [(event["level"], event["keys"]) for event in told] == [("error", 1)] * 3
    keys.file.path.unlink()
    again = keys.add(Scope.CONTROL)
    assert (await status(agentd, again), await status(agentd, headers)) == (200, 401)


async def test_a_server_does_not_start_with_a_garbled_file(agentd: Agentd, keys: Keys) -> None:
    keys.add()
    keys.file.path.write_text('{"version": 1, "keys": [{"id": "' + keys.made[0] + '"}]}')
    with pytest.raises(AssertionError, match="the server ended without"):
        await agentd.start()
    keys.file.path.unlink()  # which has a whole key
    assert await agentd.stop() == 1
    [line] = [event["text"] for event in agentd.events if event["event"] == "text"]
    told = f"agentd: cannot start: the file of keys {keys.file.path} cannot be used: keys[0] has no digest"
    assert line.startswith(told)


async def test_keys_are_protection_beyond_loopback(agentd: Agentd, keys: Keys) -> None:
    headers = keys.add(Scope.CONTROL)
    await agentd.start(AGENTD_LISTEN="0.0.0.0:0")
    assert (await status(agentd, headers), await status(agentd)) == (200, 401)
    assert not [event for event in agentd.events if event["event"] == "server.unprotected"]


# ---------------------------------------------------------------------- what a key may do

PLACES = {
    Scope.TURNS: [("POST", "/turns"), ("GET", "/v1/models"), ("GET", "/compatible-mode/v1/models"),
                  ("POST", "/process"), ("POST", "/process/task"), ("GET", "/process/task/x"),
                  ("GET", "/v1/responses/x"), ("GET", "/manifest"), ("POST", "/agent/friday/chat"),
                  ("POST", "/agents/friday/invoke")],
    Scope.CONTROL: [("POST", "/start"), ("POST", "/ping"), ("POST", "/stop"), ("GET", "/list"), ("GET", "/graphs"),
                    ("POST", "/token/generate"), ("GET", "/dev-tmp/addons/default-properties"),
                    ("GET", "/vector/document/preset/list"), ("GET", "/channels"), ("GET", "/channels/x"),
                    ("DELETE", "/channels/x"), ("PATCH", "/channels/x/properties"), ("GET", "/channels/x/events"),
                    ("POST", "/channels/x/turns"), ("DELETE", "/channels/x/turns/y")],
    Scope.OPS: [("GET", "/ledger"), ("GET", "/openapi.json"), ("GET", "/channels/x/logs"),
                ("GET", "/health?details=1")],
}  # fmt: skip


async def test_each_scope_opens_its_paths_and_no_others(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    for scope in Scope:
        headers = keys.add(scope)
        for needed, places in PLACES.items():
            for method, path in places:
                answer = await agentd.request(method, path, headers=headers)
                assert (answer["status"] == 403) == (scope is not needed), (scope, path, answer)
                assert answer["status"] != 401
        assert await status(agentd, headers, "/nowhere") == 404
    refused = [event for event in agentd.events if event["event"] == "http.request" and event["status"] == 403]
    assert {event["key"] for event in refused} == {text[7:15] for text in keys.made}


async def test_two_users_have_two_conversations(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    alice, bob, anyone = keys.add(user="alice"), keys.add(user="bob"), keys.add()
    assert (await ask(agentd, alice, "My name is Alice."))["cause"] == "completed"
    assert "Alice" in (await ask(agentd, alice, "What is my name?"))["text"]
    for headers, user in ((bob, ""), (bob, "alice"), (bob, "../alice"), (alice, "alice"), (anyone, "")):
        answer = await ask(agentd, headers, "What is my name?", user=user)
        assert (answer["cause"], "Alice" in answer["text"]) == ("completed", False)
    assert "Alice" in (await ask(agentd, anyone, "What is my name?", user="alice"))["text"]
    other = keys.add(user="alice")
    keys.revoke(0)
    assert "Alice" in (await ask(agentd, other, "What is my name?"))["text"]


async def test_users_that_a_client_names_are_told_apart(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    front = keys.add(user="front")
    await ask(agentd, front, "My name is Ada.", user="a")
    assert "Ada" in (await ask(agentd, front, "What is my name?", user="a"))["text"]
    assert "Ada" not in (await ask(agentd, front, "What is my name?", user="b"))["text"]


async def test_a_conversation_of_a_bound_key_goes_on_by_the_response_s_id(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    headers = keys.add(user="alice")
    for background in (False, True):
        first = {"model": "friday", "input": "My name is Alice.", "background": background}
        begun = await agentd.request("POST", "/v1/responses", json=first, headers=headers)
        while begun["status"] in ("queued", "in_progress"):
            begun = await agentd.request("GET", f"/v1/responses/{begun['id']}", headers=headers)
        second = {"model": "friday", "input": "What is my name?", "previous_response_id": begun["id"]}
        answer = await agentd.request("POST", "/v1/responses", json=second, headers=headers)
        assert "Alice" in answer["output"][0]["content"][0]["text"]


async def test_a_key_of_one_graph(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    headers = keys.add(Scope.TURNS, Scope.CONTROL, graph="friday")
    assert (await ask(agentd, headers, "Who are you?"))["cause"] == "completed"
    for graph in ("echo", "nothing_like_that"):
        answer = await ask(agentd, headers, "Hi", graph=graph)
        assert (answer["status"], answer["error"]["cause"]) == (404, "graph_unknown")
        assert answer["error"]["detail"] == f"no graph {graph!r}; allowed: 'friday'"
    for model in ("echo", "nothing_like_that"):  # where a name of no graph is no fault, the key's own graph answers
        body = {"model": model, "input": [{"role": "user", "content": "Who are you?"}]}
        answer = await agentd.request("POST", "/v1/responses", json=body, headers=headers)
        assert "Friday" in answer["output"][0]["content"][0]["text"]
    other = keys.add(Scope.TURNS, Scope.CONTROL)
    for name, graph in (("lobby", "friday"), ("hall", "echo")):
        await agentd.request("POST", "/start", json={"channel_name": name, "graph_name": graph}, headers=other)
    answer = await agentd.request("POST", "/channels/lobby/turns", json={"message": "Hi"}, headers=headers)
    assert answer["cause"] == "completed"
    for name in ("hall", "nobody"):
        answer = await agentd.request("POST", f"/channels/{name}/turns", json={"message": "Hi"}, headers=headers)
        assert (answer["status"], answer["error"]["detail"]) == (404, f"no channel {name!r} is running")


async def test_huawei_s_header(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    path = "/v1/p/agents/friday/conversations/0f8fad5b-d9cb-469f-a165-70867728950e"

    async def call(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await agentd.request("POST", path, json={}, headers={**named, "stream": "true"})
        return int(answer["status"])

    assert (await call(), await call(X_Auth_Token=""), await call(X_Auth_Token="any")) == (401, 401, 400)
    headers = keys.add()
    assert (await call(X_Auth_Token="any"), await call(**headers)) == (401, 401)
    assert await call(X_Auth_Token=keys.made[0]) == 400


# ---------------------------------------------------------------------- limits and origins


async def call(agentd: Agentd, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
    """An answer: its status, its headers and its body."""
    async with aiohttp.request(method, agentd.address + path, json=body, headers=headers) as answer:
        return answer.status, answer.headers, await answer.read()


ASKED_IN = [
    ("/turns", {"graph": "echo", "message": "x"}),
    ("/process", {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    ("/process/task", {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}),
    ("/v1/responses", {"input": "x"}),
    ("/v1/responses", {"input": "x", "background": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("/agent/echo/invoke", {"input": {"a": 1}}),
    ("/agent/friday/chat", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/p/agents/friday/conversations/0f8fad5b-d9cb-469f-a165-70867728950e", {"query": "x"}),
    ("/api/answer", {"question": "x"}),
    ("/stream", {"question": "x"}),
]


async def test_turns_a_minute_in_every_api(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    headers = keys.add(bounds=Bounds(turns_per_minute=1))
    headers |= {"X-Auth-Token": keys.made[0], "stream": "true"}
    first, other = await ask(agentd, headers, "Hi"), keys.add()
    assert first["cause"] == "completed"
    for path, body in ASKED_IN:
        told, about, text = await call(agentd, "POST", path, headers, body)
        assert (told, about["Agentd-Cause"]) == (429, "key_limit"), (path, text)
        assert 0 < int(about["Retry-After"]) <= 60
        assert keys.made[0][7:15].encode() in text or path.startswith(("/v1/p/", "/api/", "/stream")), text
    assert (await ask(agentd, other, "Hi"))["cause"] == "completed"


async def test_channels_at_once(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    headers = keys.add(Scope.TURNS, Scope.CONTROL, bounds=Bounds(channels=2))
    other = keys.add(Scope.CONTROL)

    async def start(name: str, who: dict[str, str]) -> dict[str, Any]:
        return await agentd.request("POST", "/channels", json={"name": name, "graph": "echo"}, headers=who)

    assert ((await start("a", headers))["status"], (await start("b", other))["status"]) == (201, 201)
    assert (await ask(agentd, headers, "Hi"))["cause"] == "completed"  # a session's worker, which rests now
    assert (await ask(agentd, headers, "Hi", session="s2"))["cause"] == "completed"  # which made room
    gone = await agentd.event("channel.stopping", lambda event: event["cause"] == "session_evicted")
    assert gone["channel"].startswith("friday-")
    refused = await start("c", headers)  # a start of that kind takes nobody's place
    assert (refused["status"], refused["error"]["cause"]) == (429, "key_limit")
    assert (await start("c", other))["status"] == 201


async def test_pages_of_other_origins(agentd: Agentd, keys: Keys) -> None:
    await agentd.start()
    headers = keys.add(bounds=Bounds(origins=("https://shop.example",)))
    free = keys.add()
    body = {"graph": "echo", "message": "x"}
    for origin in ("https://shop.example", "https://SHOP.example"):
        told, about, _ = await call(agentd, "POST", "/turns", headers | {"Origin": origin}, body)
        assert (told, about["Access-Control-Allow-Origin"], about["Vary"]) == (200, origin, "Origin")
    for origin in ("https://evil.example", "http://shop.example", "https://shop.example.evil", "null"):
        told, about, _ = await call(agentd, "POST", "/turns", headers | {"Origin": origin}, body)
        assert (told, about["Agentd-Cause"]) == (403, "origin_refused")
        assert about["Access-Control-Allow-Origin"] == "https://shop.example"
        for path in ("/api/answer", "/stream"):
            asked = {"question": "x", "api_key": keys.made[0]}
            told, about, _ = await call(agentd, "POST", path, {"Origin": origin}, asked)
            assert (told, about["Agentd-Cause"]) == (403, "origin_refused"), path
    assert (await call(agentd, "POST", "/turns", headers, body))[0] == 200  # a program sends none
    told, about, _ = await call(agentd, "POST", "/turns", free | {"Origin": "https://evil.example"}, body)
    assert (told, about["Access-Control-Allow-Origin"]) == (200, "*")


# ---------------------------------------------------------------------- tokens of users


JWT_SECRET = "the secret that the tokens of users are signed with"


def token_of(user: str, secret: str = JWT_SECRET, **claims: Any) -> dict[str, str]:
    return bearer(jwt.encode({"sub": user, **claims}, secret, algorithm="HS256"))


async def test_tokens_of_users(agentd: Agentd, keys: Keys) -> None:
    await agentd.start(AGENTD_JWT_SECRET=JWT_SECRET)
    alice, bob = token_of("alice"), token_of("bob", exp=time.time() + 60)
    assert (await ask(agentd, alice, "My name is Alice."))["cause"] == "completed"
    assert "Alice" in (await ask(agentd, alice, "What is my name?"))["text"]
    assert "Alice" not in (await ask(agentd, bob, "What is my name?"))["text"]
    assert "Alice" in (await ask(agentd, keys.add(user="alice"), "What is my name?"))["text"]
    for headers, cause in (
        ({}, "unauthorized"),
        (bearer("x"), "token_invalid"),
        (token_of("alice", "another secret that tokens are signed with"), "token_invalid"),
        (token_of("alice", exp=1), "token_expired"),
    ):
        answer = await ask(agentd, headers, "Hi")
        assert (answer["status"], answer["error"]["cause"]) == (401, cause)
    assert await status(agentd, alice) == 403
    for subject in ("front", "front/a"):
        assert (await ask(agentd, token_of(subject), f"My name is {subject[0].upper()}."))["cause"] == "completed"
    front = keys.add(user="front")
    assert " F." not in (await ask(agentd, front, "What is my name?", user="a"))["text"]


async def test_limits_of_each_user(agentd: Agentd) -> None:
    more = {"AGENTD_JWT_TURNS_PER_MINUTE": "2", "AGENTD_JWT_CHANNELS": "1"}
    await agentd.start(AGENTD_JWT_SECRET=JWT_SECRET, **more)
    alice, bob = token_of("alice"), token_of("bob")
    for session in ("s1", "s2"):  # one makes room for the other
        assert (await ask(agentd, alice, "Hi", session=session))["cause"] == "completed"
    assert len((await agentd.request("GET", "/ledger", headers=bob)).get("lives", [])) == 0
    assert (await ask(agentd, alice, "Hi"))["error"]["cause"] == "key_limit"
    assert (await ask(agentd, bob, "Hi"))["cause"] == "completed"


async def test_a_token_in_every_api(agentd: Agentd, keys: Keys) -> None:
    await agentd.start(AGENTD_JWT_SECRET=JWT_SECRET)
    good = token_of("alice")
    for path, body in ASKED_IN:
        for headers, expected in ((good, 200), (token_of("alice", exp=1), 401), (bearer("a.b.c"), 401)):
            sent = {**headers, "X-Auth-Token": headers["Authorization"][7:], "stream": "true"}
            told, _, text = await call(agentd, "POST", path, sent, body)
            assert told == expected, (path, text)
    keys.add()


# ---------------------------------------------------------------------- who did what


async def test_every_action_is_on_record(agentd: Agentd, keys: Keys) -> None:
    headers = keys.add(Scope.CONTROL, user="alice")
    await agentd.start()
    started = {"channel_name": "lobby", "graph_name": "echo"}
    await agentd.request("POST", "/start", json=started, headers=headers)
    await agentd.request("POST", "/start", json=started, headers=headers)
    await agentd.request("POST", "/start", json=started)
    await agentd.request("POST", "/ping", json={"channel_name": "lobby"}, headers=headers)
    await agentd.request("GET", "/channels/lobby", headers=headers)
    await agentd.request("DELETE", "/channels/lobby?kill=1", headers=headers)
    await agentd.request("POST", "/stop", json={"channel_name": "lobby"}, headers=headers)
    await agentd.event("audit", lambda event: event["cause"] == "channel_unknown")
    told = [event for event in agentd.events if event["event"] == "audit"]
    assert [(event["action"], event["who"], event["channel"], event["cause"]) for event in told] == [
        ("start", keys.made[0][7:15], "lobby", "completed"),
        ("start", keys.made[0][7:15], "lobby", "channel_exists"),
        ("start", "nobody", "", "unauthorized"),
        ("stop", keys.made[0][7:15], "lobby", "killed"),
        ("stop", keys.made[0][7:15], "lobby", "channel_unknown"),
    ]
    assert {event["user"] for event in told} == {"alice", ""}
    assert {event["address"] for event in told} == {"127.0.0.1"}
    assert all(event["request_id"] for event in told)
