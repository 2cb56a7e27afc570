"""Reminix's clients against a real server: its five example agents, conversations, and every way a call can fail."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness import Agentd
from tests.harness.chunks import asked
from tests.harness.scripted import graph
from tests.harness.server import PATIENCE
from tests.harness.talk import TALKER, faults

PROPERTY = str(Path(__file__).parents[1] / "property.json")
CHAT = "/agent/talker/chat"
DONE = b"data: [DONE]\n\n"
GRAPHS: list[dict[str, Any]] = [
    TALKER,
    {**graph("sleeper", "zoo_sleeper"), "agentd": {"handles": ["chat"]}},
    graph("mute", "zoo_mute"),
    graph("missing", "nobody_has_this"),
    {**graph("one", "zoo_talker"), "agentd": {"max_workers": 1}},
]


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def script(*steps: list[Any], **context: Any) -> dict[str, Any]:
    """A question to the talker, who does what the context says."""
    return said("?", context={"script": list(steps), **context})


async def answer(agentd: Agentd, path: str, body: dict[str, Any]) -> Any:
    """The answer in one piece."""
    told = await agentd.post(path, body)
    assert told.pop("status") == 200, told
    return told


async def stream(agentd: Agentd, path: str, body: dict[str, Any]) -> list[bytes]:
    async with asked(agentd, path, {**body, "stream": True}) as chunks:
        return await chunks.rest()


def joined(chunks: list[bytes]) -> str:
    """The text of a stream that ended well; each frame is a chunk of its own."""
    assert chunks[-1] == DONE
    assert all(chunk.startswith(b'data: {"chunk": "') and chunk.endswith(b'"}\n\n') for chunk in chunks[:-1])
    return "".join(json.loads(chunk[6:])["chunk"] for chunk in chunks[:-1])


def error_of(told: dict[str, Any]) -> tuple[int, str, str]:
    assert told.keys() == {"status", "error"}, told
    return told["status"], told["error"]["type"], told["error"]["message"]


# ---------------------------------------------------------------------- the published agents


async def test_the_published_agents(agentd: Agentd) -> None:
    server = await agentd.start("--property", PROPERTY)
    friday = "/agent/friday/chat"
    plain = await answer(server, friday, said("Who are you?"))
    assert plain["message"]["role"] == "assistant"
    assert "Friday" in plain["message"]["content"]
    chunks = await stream(server, friday, said("Who are you?"))
    assert joined(chunks) == plain["message"]["content"]
    assert len(chunks) > 5, "word by word"

    # A name is remembered in a conversation, or by the history that comes along; else it is not.
    alice = {"conversation_id": "c1", "user_id": "u1"}
    await answer(server, friday, said("My name is Alice.", context=alice))
    for context, knows in (
        (alice, True),
        ({"conversation_id": "c1", "user_id": "u2"}, False),
        ({"conversation_id": "c1"}, False),
        ({"conversation_id": "c2", "user_id": "u1"}, False),
        ({"user_id": "u1"}, False),
        (None, False),
    ):
        told = await answer(server, friday, said("What is my name?", context=context))
        assert ("Alice" in told["message"]["content"]) is knows, context
    history = [*said("My name is Bob.")["messages"], {"role": "assistant", "content": None, "tool_calls": []}]
    told = await answer(server, friday, {"messages": [*history, *said("What is my name?")["messages"]]})
    assert "Bob" in told["message"]["content"]

    for value in ({}, {"a": [1, {"b": None}], "text": " é\u2028\n"}):
        assert await answer(server, "/agent/echo/invoke", {"input": value, "more": 1}) == {"output": value}
        assert json.loads(joined(await stream(server, "/agent/echo/invoke", {"input": value}))) == value
        assert await answer(server, "/agents/echo/invoke", {"input": value}) == {"output": value}
        assert await answer(server, "/agent/invoke-only/invoke", {"input": value}) == {"output": value}
    text = "  Room 4 \n\n is\tfree. \u2028 🥊"
    assert (await answer(server, "/agent/echo/chat", said(text)))["message"]["content"] == text
    assert joined(await stream(server, "/agent/echo/chat", said(text))) == text
    assert await answer(server, "/agents/friday/invoke", {"input": said("Who are you?")}) == {
        "output": plain["message"]["content"]
    }

    for path, expected in (
        ("/agent/invoke-only/chat", (501, "NotImplementedError", "Agent 'invoke-only' does not implement chat")),
        ("/agent/friday/invoke", (501, "NotImplementedError", "Agent 'friday' does not implement invoke")),
        ("/agent/broken/chat", (502, "InvalidResponseError", "Agent 'broken' returned an invalid response")),
        ("/agent/broken/invoke", (502, "InvalidResponseError", "Agent 'broken' returned an invalid response")),
        ("/agent/raises/chat", (500, "RuntimeError", "this agent always fails")),
        ("/agents/raises/invoke", (500, "RuntimeError", "this agent always fails")),
        ("/agent/nobody/chat", (404, "NotFoundError", "Agent 'nobody' not found")),
        ("/agent/Friday/chat", (404, "NotFoundError", "Agent 'Friday' not found")),
        ("/agent/fri%2Fday/chat", (404, "NotFoundError", "Agent 'fri/day' not found")),
        ("/agent//chat", (404, "NotFoundError", "Agent '' not found")),
    ):
        for streamed in (False, True):
            told = await server.post(path, {**said("x"), "input": {}, "stream": streamed})
            assert error_of(told) == expected, (path, streamed)
    shown = await server.get("/manifest")
    paths = [(endpoint["path"], endpoint["kind"]) for endpoint in shown["endpoints"]]
    assert {("/agent/friday/chat", "agent"), ("/agent/echo/invoke", "agent"), ("/agent/echo/chat", "agent")} < set(
        paths
    )
    assert "/agent/friday/invoke" not in dict(paths)
    assert shown["runtime"]["name"] == "agentd"
    assert faults(server) == []


async def test_the_newer_path_streams_its_tools(agentd: Agentd) -> None:
    server = await agentd.start("--property", PROPERTY)
    body = {"input": said("Is meeting room A12 free from 9:00 to 10:00?"), "stream": True}
    async with asked(server, "/agents/meeting-room/invoke", body) as reply:
        chunks = await reply.rest()
    assert chunks[-1] == DONE
    events = [json.loads(chunk[6:]) for chunk in chunks[:-1]]
    [called] = [event["tool_call"] for event in events if event["type"] == "tool_call"]
    [gave] = [event for event in events if event["type"] == "tool_result"]
    assert json.loads(called["function"]["arguments"])["meetingRoom"] == {"number": 12}
    assert (gave["tool_call_id"], gave["output"]) == (called["id"], "Idle")
    assert "idle" in "".join(event.get("delta", "") for event in events)


# ---------------------------------------------------------------------- refusals and failures


async def test_what_is_refused(agentd: Agentd) -> None:
    """In the order of the checks: the agent, the body, the handler."""
    server = await agentd.start(graphs=GRAPHS, AGENTD_BODY_LIMIT_BYTES="100000")
    for data, status in (
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"text"', 400),
        (b'{"messages": "\xff"}', 400),
        (b'{"messages": []}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "stream": "yes"}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "context": {"user_id": "\\u0000"}}', 400),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "context": {"conversation_id": "%b"}}' % (b"x" * 1025),
            400,
        ),
        (b" " * 200_000, 413),
    ):
        for path in (CHAT, "/agent/sleeper/chat"):
            told = await server.request("POST", path, data=data)
            assert error_of(told)[:2] == (status, "ValidationError"), (data[:80], told)
            told = await server.request("POST", "/agent/nobody/chat", data=data)
            assert error_of(told)[0] == 404
    told = await server.request("POST", "/agent/sleeper/invoke", data=b"{}")
    assert error_of(told)[0] == 400, "the body before the handler"
    for method, path, status in (
        ("GET", CHAT, 405),
        ("PUT", "/agents/talker/invoke", 405),
        ("POST", "/manifest", 405),
        ("POST", "/agent/talker", 404),
        ("POST", "/agent/talker/sing", 404),
        ("POST", "/agents/talker/chat", 404),
    ):
        assert error_of(await server.request(method, path))[0] == status, (method, path)
    # The content type says nothing.
    body = json.dumps(script(["say", "so"])).encode()
    for kind in ("application/x-www-form-urlencoded", "text/plain", "image/png"):
        told = await server.request("POST", CHAT, data=body, headers={"Content-Type": kind})
        assert told["message"]["content"] == "so"
    assert faults(server) == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_every_failure_before_a_chunk_has_a_status(agentd: Agentd, streamed: bool) -> None:
    server = await agentd.start(
        graphs=GRAPHS, AGENTD_TURN_SILENCE_SECONDS="0.5", WORKER_START_TIMEOUT_SECONDS="1", AGENTD_TURN_SECONDS="3"
    )
    # What nobody sees does not make it a stream: thoughts, tools, usage, empty text.
    unseen: list[list[Any]] = [["think", "hm"], ["part", 2], ["usage", [1, 2]], ["say", ""]]

    async def fails(*steps: list[Any], path: str = CHAT, **more: Any) -> tuple[int, str, str]:
        return error_of(await server.post(path, {**script(*unseen, *steps), "stream": streamed, **more}))

    assert await fails(["raise", "no luck"]) == (500, "ValueError", "no luck")
    assert await fails(["die", "exit"]) == (500, "ExecutionError", "worker exited with code 7")
    assert await fails(["die", "kill"]) == (500, "ExecutionError", "worker was killed by signal 9")
    assert await fails(["wait", None]) == (504, "TimeoutError", "nothing said for 0.5 s")
    assert await fails(["block", 30]) == (504, "TimeoutError", "nothing said for 0.5 s")
    assert await fails() == (502, "InvalidResponseError", "Agent 'talker' returned an invalid response")
    assert (await fails(["final", 7]))[0] == 502
    assert (await fails(["final", {"role": "user", "content": "x"}]))[0] == 502
    assert (await fails(["yield", 7]))[0] == 502
    assert (await fails(["huge", 70]))[0] == 502
    assert (await fails(path="/agent/missing/chat"))[:2] == (500, "ExecutionError")
    assert (await fails(path="/agent/sleeper/chat"))[:2] == (500, "ExecutionError")
    told = await fails(path="/agent/mute/chat")
    assert told == (501, "NotImplementedError", "Agent 'mute' does not implement chat"), "only its worker knew"
    invoked = await server.post("/agent/mute/invoke", input={"a": 1}, stream=False)
    assert invoked["output"] == {"a": 1}

    async with asked(server, "/agent/one/chat", {**script(["say", "on"], ["paced", [9, 0.2]]), "stream": True}) as one:
        await one.next()
        async with aiohttp.ClientSession() as session:
            body = {**script(["say", "x"]), "stream": streamed}
            async with session.post(f"{server.address}/agent/one/chat", json=body) as response:
                told = (response.status, *(await response.json())["error"].values())
                assert told == (503, "UnavailableError", "no worker available")
                assert int(response.headers["Retry-After"]) > 0
    assert faults(server) == []


async def test_every_failure_after_a_chunk_is_a_frame(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS, AGENTD_TURN_SILENCE_SECONDS="0.5")
    for step, kind, message in (
        (["raise", "no luck"], "ValueError", "no luck"),
        (["wait", None], "TimeoutError", "nothing said for 0.5 s"),
        (["deaf", None], "TimeoutError", "nothing said for 0.5 s"),
        (["yield", 7], "InvalidResponseError", "Agent 'talker' returned an invalid response"),
    ):
        chunks = await stream(server, CHAT, script(["say", "half "], step))
        assert chunks[0] == b'data: {"chunk": "half "}\n\n'
        assert json.loads(chunks[1][6:]) == {"error": {"type": kind, "message": message}}
        assert len(chunks) == 2, "no [DONE]"
    async with asked(
        server, "/agents/talker/invoke", {"input": {}, **script(["say", "a"], ["raise", "x"]), "stream": True}
    ) as a:
        assert (await a.rest())[-1] == b'event: error\ndata: {"type":"ValueError","message":"x"}\n\n'

    async with asked(
        server, CHAT, {**script(["say", "half "], ["paced", [1000, 0.02]], conversation_id="k"), "stream": True}
    ) as a:
        await a.next()
        [pid] = [row["pid"] for row in (await server.get("/channels"))["channels"] if row["session"] == "k"]
        os.kill(pid, signal.SIGKILL)
        error = json.loads((await a.rest())[-1][6:])["error"]
        assert error == {"type": "ExecutionError", "message": "worker was killed by signal 9"}
    told = await answer(server, CHAT, script(["say", "well"], conversation_id="k"))
    assert told["message"]["content"] == "well", "the next call starts a new worker"
    assert faults(server) == []


async def test_a_client_that_hangs_up_before_the_first_chunk(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    body = {**script(["think", "hm"], ["wait", None], conversation_id="k"), "stream": True}
    async with aiohttp.ClientSession() as session:
        ask = asyncio.create_task(session.post(server.address + CHAT, json=body))
        async with asyncio.timeout(PATIENCE):
            while not any(row["turn"] for row in (await server.get("/channels"))["channels"]):
                await asyncio.sleep(0.01)
        ask.cancel()
        await asyncio.wait({ask})
    told = await answer(server, CHAT, script(["say", "free"], conversation_id="k"))
    assert told["message"]["content"] == "free"
    assert faults(server) == []


# ---------------------------------------------------------------------- nobody disturbs another


async def test_agents_that_crash_and_block_disturb_nobody(agentd: Agentd) -> None:
    server = await agentd.start(graphs=GRAPHS)
    calm = script(["say", "calm"], conversation_id="calm")
    await answer(server, CHAT, calm)
    loop = asyncio.get_running_loop()
    blocked = asyncio.create_task(answer(server, CHAT, script(["block", 3.0], conversation_id="blocked")))
    took: list[float] = []
    crashes = 0
    began = loop.time()
    while not blocked.done():
        crash = asyncio.create_task(server.post(CHAT, script(["die", "exit"], conversation_id=f"crash{crashes}")))
        for path in ("/health", CHAT):
            asked_at = time.perf_counter()
            if path == "/health":
                await server.get(path)
            else:
                assert (await answer(server, path, calm))["message"]["content"] == "calm"
            took.append(time.perf_counter() - asked_at)
        assert error_of(await crash) == (500, "ExecutionError", "worker exited with code 7")
        crashes += 1
    assert (await blocked)["message"]["content"] == "blocked"
    assert loop.time() - began > 2.5
    assert crashes > 10
    took.sort()
    assert took[len(took) * 95 // 100] < 0.05, took[-20:]
    assert took[-1] < 1.0, "nobody waits for the one that blocks"
    assert faults(server) == []
