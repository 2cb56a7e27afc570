"""Clients of Huawei Cloud's agent call against a real server: the published question, tokens, and every refusal."""

import asyncio
import json
import os
import re
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness import Agentd
from tests.harness.chunks import Chunks, asked
from tests.harness.scripted import graph
from tests.harness.talk import TALKER, faults
from tests.http.test_huawei_events import FAILED, TURN, order, summary

PROJECT = "0123456789abcdef0123456789abcdef"
TOKEN = "x" * 5000  # as long as those of the cloud
QUESTION = "Please check if meeting room A12 is free from 9:00 to 10:00"
GRAPHS: list[dict[str, Any]] = [
    TALKER,
    graph("mute", "zoo_mute"),
    graph("missing", "nobody_has_this"),
    {**graph("meeting-room", "meeting_room"), "agentd": {"handles": ["chat"]}},
    {**graph("one", "zoo_talker"), "agentd": {"max_workers": 1}},
]


def path(agent: str, conversation: str = "", *, project: str = PROJECT, newer: bool = False) -> str:
    run = "/agent-run" if newer else ""
    return f"/v1/{project}{run}/agents/{agent}/conversations/{conversation or uuid.uuid4()}"


def script(*steps: list[Any], **more: Any) -> dict[str, Any]:
    """A question to the talker; fields that are not known reach it as its context."""
    return {"query": "?", "script": list(steps), **more}


@asynccontextmanager
async def opened(agentd: Agentd, place: str, body: dict[str, Any], token: str = TOKEN) -> AsyncIterator[Chunks]:
    async with asked(agentd, place, body, **{"X-Auth-Token": token, "stream": "true"}) as chunks:
        yield chunks


def units_of(chunks: list[bytes]) -> list[dict[str, Any]]:
    """The units of a stream, each a chunk and a line of its own."""
    for chunk in chunks:
        assert re.fullmatch(rb'data:\{"event":"[a-z_]+",.*"createdTime":\d{13}\}\n\n', chunk), chunk
    units = [json.loads(chunk[5:]) for chunk in chunks]
    times = [unit["createdTime"] for unit in units]
    assert times == sorted(times)
    return units


async def ask(agentd: Agentd, place: str, body: dict[str, Any], token: str = TOKEN) -> list[dict[str, Any]]:
    async with opened(agentd, place, body, token) as chunks:
        return units_of(await chunks.rest())


async def refused(agentd: Agentd, place: str, body: Any = None, **options: Any) -> tuple[int, str, str]:
    """Status, code and text of a call that is refused."""
    options.setdefault("headers", {"X-Auth-Token": TOKEN})
    data = {"json": body} if body is not None else {}
    told = await agentd.request("POST", place, **data, **options)
    assert {"error_code", "error_msg"} <= told.keys(), told
    return told["status"], told["error_code"], told["error_msg"]


# ---------------------------------------------------------------------- the published question


@pytest.mark.parametrize("newer", [False, True])
async def test_the_published_question(agentd: Agentd, newer: bool) -> None:
    server = await agentd.start()
    units = await ask(server, path("meeting-room", newer=newer), {"query": QUESTION})
    assert re.fullmatch("Sm+peSm+tyd", order(units)), order(units)
    [start] = [unit for unit in units if unit["event"] == "plugin_start"]
    [end] = [unit for unit in units if unit["event"] == "plugin_end"]
    assert start["type"] == "plugin"
    assert start["plugin"] == {
        "name": "query_meeting_room_status",
        "arguments": '{"meetingRoom": {"number": 12}, "start": "9:00", "end": "10:00"}',
    }
    assert (end["content"], end["role"]) == ({"result": "Idle"}, "function")
    assert start["latency"].keys() == {"overall"}
    assert end["latency"].keys() == {"overall", "plugin"}
    [statistic] = [unit for unit in units if unit["event"] == "statistic_data"]
    overall = (statistic["createdTime"] - units[0]["createdTime"]) / 1000
    assert abs(statistic["latency"]["overall"] - overall) <= 0.01
    text = summary(units)
    assert all(word in text for word in ("A12", "9:00", "10:00", "idle"))
    second_start = [index for index, unit in enumerate(units) if unit["event"] == "start"][1]
    messages = [unit["content"] for unit in units[second_start:] if unit["event"] == "message"]
    assert "".join(messages) == text
    assert faults(server) == []


async def test_other_rooms_and_times_at_once(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, WORKERS_MAX="60")

    async def look_up(number: int) -> None:
        start, end = f"{number % 12}:00", f"{number % 12 + 2}:30"
        question = f"Is meeting room B{number} free from {start} to {end}?"
        for _ in range(2):
            units = await ask(server, path("meeting-room", newer=number % 2 == 0), {"query": question})
            assert TURN.fullmatch(order(units))
            [called] = [json.loads(unit["plugin"]["arguments"]) for unit in units if unit["event"] == "plugin_start"]
            assert called == {"meetingRoom": {"number": number}, "start": start, "end": end}
            assert all(word in summary(units) for word in (f"B{number} ", start, end, "idle"))

    await asyncio.gather(*(look_up(number) for number in range(1, 41)))
    units = await ask(server, path("meeting-room"), {"query": "What is the weather?"})
    assert re.fullmatch("Sm+tyd", order(units))
    assert faults(server) == []


# ---------------------------------------------------------------------- refusals


async def test_what_is_refused(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, AGENTD_BODY_LIMIT_BYTES="100000")
    good = path("talker")
    query = {"query": "x"}
    illegal = (400, "PANGU.0010")
    missing = (400, "PANGU.3278", "required api parameter is not present: query")
    no_agent = (404, "PANGU.3254", "The requested agent does not exist")
    assert await refused(server, path("talker", "no-uuid"), query) == (*illegal, "parameter illegal: conversation_id")
    assert await refused(server, path("talker", uuid.uuid4().hex), query) == (
        *illegal,
        "parameter illegal: conversation_id",
    )
    assert await refused(server, path("talker", project="a.b"), query) == (*illegal, "parameter illegal: project_id")
    assert await refused(server, path("talker", project="a%20b"), query) == (*illegal, "parameter illegal: project_id")
    assert await refused(server, path("t" * 65), query) == (*illegal, "parameter illegal: agent_id")
    assert (await refused(server, path("talker", "a%2Fb"), query))[2] == "parameter illegal: conversation_id"
    assert await refused(server, path("nobody"), query) == no_agent
    assert await refused(server, path("mute"), query) == no_agent, "it cannot be asked"
    assert await refused(server, good, {}) == missing
    assert await refused(server, good, {"query": " "}) == missing
    assert await refused(server, good, {"query": 7}) == (*illegal, "parameter illegal: query")
    for data in (b"", b"{", b"[]", b'"x"', b'{"query": "\xff"}'):
        assert await refused(server, good, data=data) == (*illegal, "parameter illegal: body"), data
    assert await refused(server, good, data=b" " * 200_000) == (413, "PANGU.0010", "parameter illegal: body")
    for value, status in (("false", 400), ("no", 400), ("TRUE", 200)):
        headers = {"X-Auth-Token": TOKEN, "stream": value}
        if status == 200:
            async with asked(server, good, script(["say", "x"]), **headers) as chunks:
                assert units_of(await chunks.rest())
        else:
            assert await refused(server, good, query, headers=headers) == (*illegal, "parameter illegal: stream")
    # The order of the checks: path, agent, header, body.
    bad = {"headers": {"X-Auth-Token": TOKEN, "stream": "false"}, "data": b"{"}
    assert (await refused(server, path("nobody", "no-uuid"), **bad))[2] == "parameter illegal: conversation_id"
    assert await refused(server, path("nobody"), **bad) == no_agent
    assert (await refused(server, good, **bad))[2] == "parameter illegal: stream"
    for method in ("GET", "DELETE"):
        told = await server.request(method, good, headers={"X-Auth-Token": TOKEN})
        assert (told["status"], told["error_code"]) == (405, "APIGW.0101")
    assert faults(server) == []


async def test_a_turn_that_fails_before_its_first_event_has_a_status(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    inner = (500, "PANGU.0031", "Inner service exception")
    assert await refused(server, path("missing"), {"query": "x"}) == inner
    assert await refused(server, path("talker"), script(["raise", "no luck"])) == inner
    assert await refused(server, path("talker"), script(["die", "exit"])) == inner
    async with opened(server, path("one"), script(["say", "on"], ["paced", [9, 0.2]])) as busy:
        await busy.next()
        assert await refused(server, path("one"), {"query": "x"}) == (429, "PANGU.3267", "too many requests")
    assert faults(server) == []


async def test_a_turn_that_fails_later_ends_its_stream(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, AGENTD_TURN_SILENCE_SECONDS="0.6")
    for steps, letters, code, message in (
        ([["say", "half "], ["raise", "no luck"]], "Smxtd", 500, "no luck"),
        ([["say", "half "], ["wait", None]], "Smxtd", 504, "nothing said for 0.6 s"),
        ([["wait", None]], "Sxtd", 504, "nothing said for 0.6 s"),  # its head was sent after a quarter of a second
        ([["part", 1], ["raise", "in the tool"]], "Spxtd", 500, "in the tool"),
        ([["part", 2], ["say", "x"], ["raise", "late"]], "SpeSmxtd", 500, "late"),
    ):
        units = await ask(server, path("talker"), script(*steps))
        assert order(units) == letters
        assert FAILED.fullmatch(letters)
        [error] = [unit["data"] for unit in units if unit["event"] == "error"]
        assert (error["code"], error["message"]) == (code, message)
    conversation = str(uuid.uuid4())
    async with opened(server, path("talker", conversation), script(["say", "half"], ["paced", [1000, 0.02]])) as reply:
        await reply.next()
        await reply.next()
        [pid] = [
            row["pid"] for row in (await server.get("/channels"))["channels"] if row["session"].endswith(conversation)
        ]
        os.kill(pid, signal.SIGKILL)
        units = units_of(await reply.rest())
        assert (FAILED.fullmatch(order(units)) is not None, units[-3]["data"]["message"]) == (
            True,
            "worker was killed by signal 9",
        )
    units = await ask(server, path("talker", conversation), script(["say", "well"]))
    assert summary(units) == "well", "the next turn has a new worker"
    assert faults(server) == []


async def test_a_long_head(agentd: Agentd) -> None:
    """An agent that thinks for long has its `start` at once, and a comment in silence."""
    server = await agentd.start(graphs=GRAPHS)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with opened(server, path("talker"), script(["wait", None])) as reply:
        assert (await reply.next()).startswith(b'data:{"event":"start"')
        assert loop.time() - began < 2.0


# ---------------------------------------------------------------------- conversations


async def test_conversations(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    one, other = str(uuid.uuid4()), str(uuid.uuid4())

    async def history(*place: str, **more: Any) -> str:
        return summary(await ask(server, path("talker", *place, **more), script(["history", None])))

    await ask(server, path("talker", one), script(["say", "first"]))
    assert "first" in await history(one.upper(), newer=True), "letter case and path make no difference"
    assert await history(other) == ""
    assert await history(one, project="another") == ""
    assert summary(await ask(server, path("one", one), script(["history", None]))) == "", "another agent"
    # One after the other, in the order of their arrival.
    async with opened(server, path("talker", one), script(["say", "on"], ["paced", [3, 0.1]])) as first:
        await first.next()
        second = asyncio.create_task(history(one))
        assert TURN.fullmatch(order(units_of(await first.rest())))
        assert (await second).endswith("on0 1 2 ")
    # Somebody who hangs up frees the conversation at once.
    async with opened(server, path("talker", one), script(["say", "on"], ["wait", None])) as left:
        await left.next()
    assert summary(await ask(server, path("talker", one), script(["say", "free"]))) == "free"
    assert faults(server) == []


# ---------------------------------------------------------------------- who may call


async def test_a_token_is_needed_even_when_everything_is_open(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    no_token = (401, "APIGW.0301", "Incorrect IAM authentication information")
    for headers in ({}, {"X-Auth-Token": ""}, {"Authorization": "Bearer x"}):
        for place in (path("talker"), path("nobody"), path("talker", "no-uuid")):
            assert await refused(server, place, {"query": "x"}, headers=headers) == no_token
    assert summary(await ask(server, path("talker"), script(["say", "x"]), "any")) == "x"


async def keys(agentd: Agentd, *arguments: str) -> str:
    """``agentd keys`` with the server's settings; what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "supervisor",
        "keys",
        *arguments,
        cwd=agentd.folder,
        env={**os.environ, "AGENTD_STATE_DIR": str(agentd.state_dir)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    return out.decode().strip()


async def test_tokens_are_keys(agentd: Agentd, tmp_path: Path) -> None:
    server = await agentd.start(graphs=GRAPHS)
    no_token = (401, "APIGW.0301", "Incorrect IAM authentication information")
    key = await keys(server, "add", "--user", "ann")
    other = await keys(server, "add", "--user", "bob", "--graph", "talker")
    control = await keys(server, "add", "--scope", "control")
    assert await refused(server, path("talker"), {"query": "x"}) == no_token, "from now on"
    wrong = f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}"
    for token in (wrong, key[:-1], f"{key}x", "ä".encode().decode("latin-1")):
        assert await refused(server, path("talker"), {"query": "x"}, headers={"X-Auth-Token": token}) == no_token
    place = path("talker")
    assert summary(await ask(server, place, script(["say", "mine"]), key)) == "mine"
    assert "mine" in summary(await ask(server, place, script(["history", None]), key))
    assert summary(await ask(server, place, script(["history", None]), other)) == "", "another user's"
    headers = {"X-Auth-Token": other}
    assert (await refused(server, path("meeting-room"), {"query": "x"}, headers=headers))[:2] == (404, "PANGU.3254")
    for agent in ("meeting-room", "nobody"):  # which is which it cannot tell, and so with Reminix's API
        assert (await refused(server, path(agent), {}, headers=headers))[:2] == (404, "PANGU.3254")
        bearer = {"Authorization": f"Bearer {other}"}
        told = await server.request("POST", f"/agent/{agent}/chat", json={}, headers=bearer)
        assert (told["status"], told["error"]["message"]) == (404, f"Agent {agent!r} not found")
    for token, names in ((key, ["meeting-room"]), (other, [])):
        told = await server.request("GET", "/manifest", headers={"Authorization": f"Bearer {token}"})
        assert [endpoint["name"] for endpoint in told["endpoints"]] == names
    headers = {"X-Auth-Token": control}
    assert (await refused(server, path("talker"), {"query": "x"}, headers=headers))[:2] == (403, "APIGW.0302")
    await keys(server, "revoke", key.split("_")[1])
    assert await refused(server, place, {"query": "x"}, headers={"X-Auth-Token": key}) == no_token
    for secret in (key, other, control, wrong):
        assert secret.split("_", 2)[2] not in json.dumps(server.events)
    assert faults(server) == []


async def test_a_token_too_long_for_any_header_is_not_logged(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    assert summary(await ask(server, path("talker"), script(["say", "x"]), "s" * 30_000)) == "x"
    async with aiohttp.ClientSession() as session:
        headers = {"X-Auth-Token": "secret" * 10_000}
        async with session.post(server.address + path("talker"), json={"query": "x"}, headers=headers) as response:
            assert response.status == 400
            assert "secretsecret" not in await response.text()
    await server.get("/health")
    assert "secretsecret" not in json.dumps(server.events)
