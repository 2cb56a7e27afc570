"""Drain: no channel begins, on whatever API; those that are there go on, until the deadline; who holds it is told."""

import asyncio
import json
import sys
from typing import Any

import pytest

from supervisor.auth import Scope
from supervisor.keys import KeyFile, new_key
from supervisor.processes.bundle import prepare_state
from tests.harness import Agentd
from tests.harness.graphs import FRIDAY
from tests.harness.server import PATIENCE
from tests.harness.talk import TALKER, body, in_channel, post, stream

ASKED = [{"role": "user", "content": "Hello"}]

# What would begin a channel, on every API: the path, the body, and where in the answer its own error form shows.
BEGINNINGS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "channels": ("/channels", {"graph": "friday", "name": "new"}, ("error", "cause")),
    "turns": ("/turns", {"graph": "friday", "message": "Hello"}, ("error", "cause")),
    "session": ("/turns", {"graph": "friday", "message": "Hello", "session": "new"}, ("error", "cause")),
    "process": ("/process", {"session_id": "new", "input": ASKED}, ("error", "code")),
    "task": ("/process/task", {"session_id": "new", "input": ASKED}, ("error", "code")),
    "responses": ("/v1/responses", {"input": "Hello"}, ("error", "type")),
    "streamed": ("/v1/responses", {"input": "Hello", "stream": True}, ("error", "type")),
    "background": ("/v1/responses", {"input": "Hello", "background": True}, ("error", "type")),
    "completions": ("/v1/chat/completions", {"messages": ASKED}, ("error", "type")),
    "reminix": ("/agent/friday/chat", {"messages": ASKED}, ("error", "type")),
    "reminix2": ("/agents/friday/invoke", {"input": {"messages": ASKED}}, ("error", "type")),
    "docsgpt": ("/api/answer", {"question": "Hello"}, ("error",)),
    "huawei": ("/v1/p/agents/friday/conversations/7c9e6679-7425-40de-944b-e07fc1f90ae7", {"query": "Hello"}, ()),
}


async def ask(agentd: Agentd, path: str, body: dict[str, Any]) -> tuple[int, str, str, Any]:
    """Status, cause, Retry-After and body of an answer."""
    assert agentd._session is not None
    headers = {"X-Auth-Token": "none"} if "/conversations/" in path else {}
    async with agentd._session.post(agentd.address + path, json=body, headers=headers) as response:
        told = await response.json()
        return response.status, response.headers["Agentd-Cause"], response.headers.get("Retry-After", ""), told


async def test_no_channel_begins_on_any_api(agentd: Agentd) -> None:
    await agentd.start(graphs=[FRIDAY])
    assert (await agentd.post("/drain"))["draining"] is True
    for name, (path, asked, place) in BEGINNINGS.items():
        status, cause, after, told = await ask(agentd, path, asked)
        assert (status, cause, after) == (503, "draining", "5"), name
        for key in place:
            told = told[key]
        assert told, name
    status, cause, after, told = await ask(agentd, "/start", {"channel_name": "new", "graph_name": "friday"})
    assert (status, cause, told["code"], told["data"]) == (200, "draining", "10101", None)
    assert (await agentd.get("/channels"))["channels"] == []
    assert not [event for event in agentd.events if event["event"] == "channel.ready"]
    assert (await agentd.request("DELETE", "/drain"))["draining"] is False
    await agentd.begin("new", "friday")
    assert (await agentd.post("/turns", graph="friday", message="Hello"))["status"] == 200


async def test_what_is_there_goes_on_and_is_told(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER, FRIDAY])
    await agentd.begin("kept", "talker")
    first = await post(agentd, body(["say", "a"], session="s"))
    assert first["status"] == 200
    async with stream(agentd, in_channel(["say", "b"], ["wait", None]), "/channels/kept/turns") as talk:
        await talk.until("text")
        told = await agentd.post("/drain")
        assert (told["status"], told["draining"], told["time_left_seconds"], told["cut"]) == (200, True, None, 0)
        kept, session = sorted(told["channels"], key=lambda one: str(one["name"]))
        assert (kept["name"], kept["graph"], kept["state"], kept["turns"]) == ("kept", "talker", "running", 1)
        assert (session["graph"], session["turns"]) == ("talker", 0)
        assert kept["last_ping_seconds"] is None
        assert (await agentd.post("/ping", channel_name="kept"))["code"] == "0"
        # A session whose worker lives is asked further; another one is not begun.
        assert (await post(agentd, body(["say", "c"], session="s")))["text"] == "c"
        assert (await post(agentd, body(["say", "c"], session="t")))["error"]["cause"] == "draining"
        [kept] = [one for one in (await agentd.get("/drain"))["channels"] if one["name"] == "kept"]
        assert kept["last_ping_seconds"] >= 0
    assert (await agentd.end("kept"))["code"] == "0"
    assert [one["graph"] for one in (await agentd.get("/drain"))["channels"]] == ["talker"]


async def test_readiness_is_red_and_liveness_green(agentd: Agentd) -> None:
    await agentd.start()
    assert (await agentd.get("/readiness"))["status"] == "ready"
    await agentd.post("/drain")
    assert agentd._session is not None
    async with agentd._session.get(agentd.address + "/readiness") as response:
        assert (response.status, await response.json()) == (503, {"status": "draining", "reason": "draining"})
    for path in ("/liveness", "/health"):
        async with agentd._session.get(agentd.address + path) as response:
            assert response.status == 200
    assert (await agentd.get("/health"))["draining"] is True
    assert (await agentd.get("/health?details=1"))["data"]["draining"] is True
    await agentd.request("DELETE", "/drain")
    assert (await agentd.get("/readiness"))["status"] == "ready"
    assert "draining" not in await agentd.get("/health")


async def test_the_deadline_stops_the_rest(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER])
    await agentd.begin("idle", "talker")
    await agentd.begin("busy", "talker")
    turn = asyncio.create_task(post(agentd, in_channel(["say", "a"], ["wait", None]), "/channels/busy/turns"))
    while (await agentd.channel("busy"))["turn"] is None:
        await asyncio.sleep(0)
    await agentd.post("/drain?deadline=0.3")
    answer = await turn
    assert (answer["status"], answer["error"]["cause"]) == (503, "drained")
    gone = [await agentd.gone(name) for name in ("idle", "busy")]
    assert [event["cause"] for event in gone] == ["drained", "drained"]
    empty = await agentd.event("drain.empty")
    assert empty["cut"] == 2
    told = await agentd.get("/drain?wait=60")
    assert (told["draining"], told["cut"], told["channels"], told["time_left_seconds"]) == (True, 2, [], 0.0)
    lives = (await agentd.get("/ledger?cause=drained"))["lives"]
    assert {life["name"] for life in lives} == {"idle", "busy"}
    # It goes on: nothing begins after the deadline either.
    assert (await agentd.post("/channels", graph="talker"))["error"]["cause"] == "draining"


async def test_another_deadline_takes_the_place_of_the_first(agentd: Agentd) -> None:
    await agentd.start()
    await agentd.begin("kept")
    await agentd.post("/drain?deadline=0.05")
    await agentd.post("/drain?deadline=3600")
    assert 3500 < (await agentd.get("/drain?wait=0.3"))["time_left_seconds"] <= 3600
    assert (await agentd.channel("kept"))["state"] == "running"
    await agentd.post("/drain?deadline=0")
    assert (await agentd.gone("kept"))["cause"] == "drained"


async def test_a_drain_is_not_kept(agentd: Agentd, successor: Agentd) -> None:
    await agentd.start()
    await agentd.post("/drain?deadline=3600")
    await agentd.stop()
    await successor.start()
    await successor.begin("new")


@pytest.mark.parametrize("query", ["?deadline=-1", "?deadline=x", "?deadline=inf", "?deadlin=1"])
async def test_a_deadline_that_is_none(agentd: Agentd, query: str) -> None:
    await agentd.start()
    assert (await agentd.post(f"/drain{query}"))["error"]["cause"] == "body_invalid"
    assert (await agentd.get("/drain"))["draining"] is False


async def test_who_may_drain(agentd: Agentd) -> None:
    prepare_state(agentd.state_dir)
    file = KeyFile(agentd.state_dir / "keys.json")
    headers = {}
    for name, given in {
        "ops": {"scopes": [Scope.OPS]},
        "control": {"scopes": [Scope.CONTROL]},
        "user": {"scopes": [Scope.OPS], "user": "ada"},
        "graph": {"scopes": [Scope.OPS], "graph": "echo"},
    }.items():
        text, row = new_key(**given)  # type: ignore[arg-type] - a table of keywords
        file.add(row)
        headers[name] = {"Authorization": f"Bearer {text}"}
    await agentd.start()
    for name in ("control", "user", "graph"):
        for method in ("GET", "POST", "DELETE"):
            told = await agentd.request(method, "/drain", headers=headers[name])
            assert (told["status"], told["error"]["cause"]) == (403, "scope_missing"), (name, method)
    assert (await agentd.request("POST", "/drain", headers=headers["ops"]))["draining"] is True
    assert (await agentd.request("DELETE", "/drain", headers=headers["ops"]))["draining"] is False
    for action in ("drain", "undrain"):
        await agentd.event(
            "audit", lambda event, action=action: (event["action"], event["cause"]) == (action, "completed")
        )


async def command(agentd: Agentd, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "supervisor", "drain", "--server", agentd.address, *arguments,
        cwd=agentd.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_command(agentd: Agentd) -> None:
    await agentd.start()
    await agentd.begin("kept")
    await agentd.post("/ping", channel_name="kept")
    code, out, err = await ended(await command(agentd, "--deadline", "3600"))
    assert (code, err) == (0, "")
    first, heading, row = out.splitlines()
    assert first.startswith("draining, 1 channels left, ")
    assert heading.split() == ["NAME", "GRAPH", "STATE", "AGE", "LAST", "PING", "TIME", "LEFT", "TURNS"]
    assert row.split()[:3] == ["kept", "echo", "running"]
    code, out, _ = await ended(await command(agentd, "--status", "--json"))
    assert (code, [one["name"] for one in json.loads(out)["channels"]]) == (0, ["kept"])
    follower = await command(agentd, "--wait")
    await agentd.event("drain.begun", after=len(agentd.events))
    await agentd.end("kept")
    code, out, _ = await ended(follower)
    assert (code, out.splitlines()[-1]) == (0, "empty")
    assert await ended(await command(agentd, "--undo")) == (0, "channels begin again\n", "")
    await agentd.begin("kept")
    code, out, _ = await ended(await command(agentd, "--deadline", "0.1", "--wait"))
    assert (code, out.splitlines()[-1]) == (1, "empty; 1 stopped at the deadline")


async def test_the_command_s_wait_ends_with_the_drain(agentd: Agentd) -> None:
    await agentd.start()
    await agentd.begin("kept")
    follower = await command(agentd, "--wait")
    await agentd.event("drain.begun")
    await agentd.request("DELETE", "/drain")
    code, _, err = await ended(follower)
    assert (code, "[drain_undone]" in err) == (1, True)
