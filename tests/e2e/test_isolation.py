"""Two users of one server, each with a key that may do everything: what is one's does not exist for the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from supervisor.auth import EVERY
from tests.e2e.test_keys import Keys
from tests.harness import Agentd
from tests.harness.isolation import MADE_UP, ROWS, Row, filled, same
from tests.harness.server import PATIENCE

FRIDAY = {
    "name": "friday",
    "agentd": {"handles": ["chat"]},
    "graph": {"nodes": [{"type": "extension", "name": "friday", "addon": "friday", "property": {"pace_ms": 10_000}}]},
}
ECHO = {"name": "echo", "graph": {"nodes": [{"type": "extension", "name": "echo", "addon": "echo"}]}}
SLOW = "Count to 50."  # which takes 500 s at that pace
DESTRUCTIVE = {"/stop", "/v1/responses/{response}/cancel"}


class Somebody:
    """One user's client."""

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        headers = {**headers, "X-Auth-Token": headers["Authorization"].removeprefix("Bearer ")}
        self._http = aiohttp.ClientSession(
            address, headers=headers, timeout=aiohttp.ClientTimeout(total=PATIENCE), auto_decompress=False
        )

    async def close(self) -> None:
        await self._http.close()

    async def ask(self, method: str, path: str, body: Any = None, *, form: bool = False) -> tuple[int, str, str]:
        """Status, cause and text of an answer."""
        data: Any = None if body is None else json.dumps(body)
        headers = {} if form or body is None else {"Content-Type": "application/json", "stream": "true"}
        if form:
            data = aiohttp.FormData(body)
            data.add_field("file", b"text", filename="a.txt")
        async with self._http.request(method, path, data=data, headers=headers) as answer:
            endless = method == "GET" and answer.content_type == "text/event-stream"
            text = "a stream" if endless else await answer.text()
            return answer.status, answer.headers.get("Agentd-Cause", ""), text

    async def json(self, method: str, path: str, body: Any = None, *, form: bool = False) -> Any:
        status, _, text = await self.ask(method, path, body, form=form)
        assert status < 300, (path, text)
        return json.loads(text)

    async def row(self, row: Row, name: str) -> tuple[int, str, str]:
        """The answer to a row about the thing of this name, as it is compared."""
        status, cause, text = await self.ask(
            row.method, row.path.replace("{x}", name), filled(row.body, name), form=row.form
        )
        if row.undo is not None and status < 300:
            method, path, body = row.undo
            await self.ask(method, path, filled(body, name))
        return status, cause, same(text, name)


@pytest.fixture
async def users(agentd: Agentd) -> AsyncIterator[tuple[Somebody, Somebody, Somebody]]:
    """Alice, Bob, and who may see both."""
    keys = Keys(agentd)
    headers = [keys.add(*EVERY, user=user) for user in ("alice", "bob", "")]
    await agentd.start(graphs=[FRIDAY, ECHO])
    people = [Somebody(agentd.address, header) for header in headers]
    yield people[0], people[1], people[2]
    for somebody in people:
        await somebody.close()


async def things_of(alice: Somebody) -> dict[str, str]:
    """Something of each kind that a row may name."""
    await alice.json("POST", "/start", {"channel_name": "lobby", "graph_name": "friday"})
    things = {"channel": "lobby", "session": "sesami", "busy": "zimzim"}
    body = {"input": "My name is Alice.", "model": "friday", "background": True}
    things["response"] = (await alice.json("POST", "/v1/responses", body))["id"]
    things["running"] = (await alice.json("POST", "/v1/responses", {**body, "input": SLOW}))["id"]
    counting = [{"role": "user", "content": [{"type": "text", "text": SLOW}]}]
    task = {"session_id": "zimzim", "user_id": "alice", "model": "friday", "input": counting}
    things["task"] = (await alice.json("POST", "/process/task", task))["task_id"]
    async with asyncio.timeout(PATIENCE):
        things["turn"] = ""
        while not things["turn"]:
            channels = (await alice.json("GET", "/channels"))["channels"]
            things["turn"] = next(
                (one["turn"]["id"] for one in channels if one["turn"] and one["session"] == "zimzim"), ""
            )
        while (await alice.json("GET", f"/v1/responses/{things['response']}"))["status"] != "completed":
            await asyncio.sleep(0.01)
    told = await alice.json("POST", "/api/answer", {"question": "My name is Alice."})
    things["conversation"] = told["conversation_id"]
    stored = await alice.json("POST", "/api/store_attachment", {}, form=True)
    things["attachment"] = stored["attachment_id"]
    async with asyncio.timeout(PATIENCE):
        while (await alice.json("GET", f"/api/task_status?task_id={stored['task_id']}"))["status"] != "SUCCESS":
            await asyncio.sleep(0.05)
    for row in ROWS:  # in each API's own session of this name
        if row.thing in ("session", "conversation") and "What is my name?" in json.dumps(row.body):
            body = json.loads(json.dumps(row.body).replace("What is my name?", "My name is Alice."))
            await alice.row(row._replace(body=body), things[row.thing])
    return things


async def test_what_is_another_s_is_as_what_is_nobody_s(users: tuple[Somebody, Somebody, Somebody]) -> None:
    alice, bob, _ = users
    things = await things_of(alice)
    assert things.keys() == MADE_UP.keys()
    for row in ROWS:
        theirs, nobodys = await bob.row(row, things[row.thing]), await bob.row(row, MADE_UP[row.thing])
        assert theirs == nobodys, row
        assert theirs[0] != 500, (row, theirs)
        if row.method == "DELETE" or row.route in DESTRUCTIVE or row.blind:
            continue
        own = await alice.row(row._replace(undo=None), things[row.thing])
        assert own != theirs, (row, "the row tells nothing: it is the same for the owner")
    # Nothing of it was ended, changed or removed.
    assert (await alice.json("GET", f"/process/task/{things['task']}"))["status"] == "running"
    assert (await alice.json("GET", f"/v1/responses/{things['running']}"))["status"] == "in_progress"
    assert (await alice.json("GET", f"/v1/responses/{things['response']}"))["status"] == "completed"
    assert (await alice.json("GET", "/channels/lobby"))["state"] == "running"
    # And the owner can.
    assert (await alice.json("POST", f"/v1/responses/{things['running']}/cancel"))["status"] == "cancelled"
    assert (await alice.json("DELETE", f"/v1/responses/{things['response']}"))["deleted"] is True
    stopped = await alice.json("POST", "/stop", {"session_id": "zimzim", "user_id": "alice"})
    assert stopped["message"].endswith("interrupted")
    assert (await alice.json("DELETE", "/channels/lobby"))["name"] == "lobby"


async def test_lists_and_events_have_what_is_one_s_own(
    agentd: Agentd, users: tuple[Somebody, Somebody, Somebody]
) -> None:
    alice, bob, admin = users
    for somebody, name in ((alice, "lobby"), (bob, "lobby"), (bob, "den"), (admin, "hall")):
        await somebody.json("POST", "/start", {"channel_name": name, "graph_name": "echo"})
    told = await bob.json("POST", "/turns", {"graph": "echo", "session": "s", "message": "hi"})
    assert (await bob.json("GET", f"/channels/{told['channel']}"))["session"] == "s", "it is told by a name he can use"
    assert (await bob.ask("POST", "/start", {"channel_name": "bob/den", "graph_name": "echo"}))[
        1
    ] == "channel_name_refused"
    listed = {}
    for who, somebody in (("alice", alice), ("bob", bob), ("admin", admin)):
        names = {one["channelName"] for one in (await somebody.json("GET", "/list"))["data"]}
        channels = (await somebody.json("GET", "/channels"))["channels"]
        lives = (await somebody.json("GET", "/ledger"))["lives"]
        assert names == {one["name"] for one in channels} == {one["name"] for one in lives}
        listed[who] = names
        assert {one["user"] for one in channels} == ({"", "alice", "bob"} if who == "admin" else {""})
    [session] = listed["bob"] - {"lobby", "den"}
    assert session.startswith("echo-")
    assert listed["alice"] == {"lobby"}
    assert listed["admin"] == {"alice/lobby", "bob/lobby", "bob/den", "hall", f"bob/{session}"}
    # Who sees all of them names them by their whole names.
    assert (await admin.json("GET", "/channels/bob%2Fden"))["name"] == "bob/den"
    assert (await admin.ask("GET", "/channels/den"))[0] == 404
    assert (await admin.json("POST", "/stop", {"channel_name": "bob/lobby"}))["code"] == "0"
    for name in ("bob/den", "bob/x"):  # whether or not there is one
        refused = await admin.ask("POST", "/start", {"channel_name": name, "graph_name": "echo"})
        assert refused[1] == "channel_name_refused"
    assert {one["channelName"] for one in (await alice.json("GET", "/list"))["data"]} == {"lobby"}
    events = await first_events(agentd, bob, 3)
    assert [(one["channel"], one["user"]) for one in events] == [("lobby", ""), ("lobby", ""), ("den", "")]


async def first_events(agentd: Agentd, somebody: Somebody, count: int) -> list[dict[str, Any]]:
    """The first of the events in the lives of channels that somebody is told."""
    found: list[dict[str, Any]] = []
    async with somebody._http.get("/events") as answer, asyncio.timeout(PATIENCE):
        async for line in answer.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
            if len(found) == count:
                break
    return found


async def test_a_key_of_one_graph_sees_that_graph_s(agentd: Agentd) -> None:
    keys = Keys(agentd)
    headers = [keys.add(*EVERY, graph="echo"), keys.add(*EVERY)]
    await agentd.start(graphs=[FRIDAY, ECHO])
    bound, admin = (Somebody(agentd.address, header) for header in headers)
    try:
        for name, graph in (("a", "friday"), ("b", "echo")):
            await admin.json("POST", "/start", {"channel_name": name, "graph_name": graph})
        for path, key in (("/list", "data"), ("/channels", "channels"), ("/ledger", "lives")):
            names = [one.get("channelName") or one["name"] for one in (await bound.json("GET", path))[key]]
            assert names == ["b"], path
        assert [graph["name"] for graph in (await bound.json("GET", "/graphs"))["data"]] == ["echo"]
        assert [model["id"] for model in (await bound.json("GET", "/v1/models"))["data"]] == ["echo"]
        assert (await bound.ask("GET", "/v1/models/friday"))[0] == 404
        for method, path, body in (
            ("GET", "/channels/a", None),
            ("POST", "/channels/a/turns", {"message": "x"}),
            ("POST", "/start", {"channel_name": "c", "graph_name": "friday"}),
            ("POST", "/turns", {"graph": "friday", "message": "x"}),
        ):
            status, cause, _ = await bound.ask(method, path, body)
            assert (status in (200, 404), cause in ("channel_unknown", "graph_unknown")) == (True, True), path
        assert (await bound.json("GET", "/ledger?graph=friday"))["lives"] == []
        # Where an API names no graph, the key's own answers.
        answer = await bound.json("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
        assert answer["choices"][0]["message"]["content"] == "hi"
        assert [event["graph"] for event in await first_events(agentd, bound, 1)] == ["echo"]
    finally:
        await bound.close()
        await admin.close()
