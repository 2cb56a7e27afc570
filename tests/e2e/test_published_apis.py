"""What holds for the streams of every published API: each ends once, none mixes with another, none grows."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest

from tests.harness import Agentd
from tests.harness.scripted import graph, install
from tests.harness.server import PATIENCE
from tests.harness.talk import client, faults, resident_bytes, stalled

DONE = "[DONE]"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Api:
    """One API: its path, a body, the events that end a stream of it, and the text its events add up to.

    Streams of those with `done` have ``[DONE]`` behind their last event; in Reminix's it is an event. `goes_on` is the
    session that a later turn names, after these events of one in a session.
    """

    path: str
    ask: Callable[[str, str], dict[str, Any]]
    ends: Callable[[dict[str, Any]], bool]
    text: Callable[[list[dict[str, Any]]], str]
    done: bool = True
    goes_on: Callable[[list[dict[str, Any]], str], str] = lambda _, session: session


def is_message(item: dict[str, Any]) -> bool:
    return item["type"] == "message"


def question(text: str, session: str) -> dict[str, Any]:
    """DocsGPT's server names the conversations, and takes no other names."""
    known = len(session) == len(str(NAMESPACE_OID)) and session.count("-") == 4
    return {"question": text, **({"conversation_id": session} if known else {})}


def completion_ends(event: dict[str, Any]) -> bool:
    return "error" in event or any(choice["finish_reason"] for choice in event["choices"])


APIS = {
    "process": Api(
        "/process",
        lambda text, session: {"input": [{"role": "user", "content": text}], "session_id": session},
        lambda event: event["object"] == "response" and event["status"] not in ("created", "in_progress"),
        lambda events: "".join(item["content"][0]["text"] for item in filter(is_message, events[-1]["output"])),
    ),
    "responses": Api(
        "/compatible-mode/v1/responses",
        lambda text, session: {"input": text, "stream": True, "session_id": session},
        lambda event: event["type"] in ("response.completed", "response.failed", "response.incomplete"),
        lambda events: "".join(item["content"][0]["text"] for item in events[-1]["response"]["output"]),
        done=False,
    ),
    "completions": Api(
        "/v1/chat/completions",
        lambda text, session: {
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "session_id": session,
        },
        completion_ends,
        lambda events: "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e.get("choices")),
    ),
    "reminix": Api(
        "/agent/talker/chat",
        lambda text, session: {
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "context": {"conversation_id": session},
        },
        lambda event: "chunk" not in event,
        lambda events: "".join(event.get("chunk", "") for event in events),
        done=False,
    ),
    "huawei": Api(
        "/v1/p/agents/talker/conversations/SESSION",
        lambda text, _: {"query": text},
        lambda event: event["event"] == "done",
        lambda events: next((e["content"] for e in events if e["event"] == "summary_response"), ""),
        done=False,
    ),
    "docsgpt": Api(
        "/stream",
        question,
        lambda event: event["type"] in ("end", "error"),
        lambda events: "".join(event.get("answer", "") for event in events),
        done=False,
        goes_on=lambda events, session: next((e["id"] for e in events if e["type"] == "id"), session),
    ),
}
EVERY = pytest.mark.parametrize("name", APIS)


def script(*steps: list[Any]) -> str:
    return json.dumps(steps)


async def start(agentd: Agentd, tmp_path: Path, **settings: str) -> Agentd:
    install(agentd, tmp_path)
    return await agentd.start(graphs=[graph("talker", "scripted")], AGENTD_DEFAULT_GRAPH="talker", **settings)


async def blocks(server: Agentd, api: Api, text: str, session: str) -> list[str]:
    """The data of each frame of a whole stream, keep-alives left out."""
    async with client(server, window=256 * 1024) as reader:
        await reader.write(request(api, text, session))
        assert (await reader.head()).startswith(b"HTTP/1.1 200 ")
        body = b""
        while size := int(await reader._until(b"\r\n"), 16):
            while len(reader._rest) < size + 2:
                await reader._read()
            body += reader._rest[:size]
            reader._rest = reader._rest[size + 2 :]
    found = [line.removeprefix("data:").lstrip() for line in body.decode().split("\n") if line.startswith("data:")]
    assert len(found) == sum(bool(block) and not block.startswith(":") for block in body.decode().split("\n\n"))
    return found


def request(api: Api, text: str, session: str) -> bytes:
    data = json.dumps(api.ask(text, session)).encode()
    path = api.path.replace("SESSION", str(uuid5(NAMESPACE_OID, session)))
    headers = f"Host: 127.0.0.1\r\nX-Auth-Token: any\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n\r\n".encode() + data


def check(api: Api, found: list[str]) -> list[dict[str, Any]]:
    """The events of a stream that ended as it has to: once, by the last event."""
    if api.done:
        assert found.pop() == DONE
    events = [json.loads(data) if data != DONE else {"done": True} for data in found]
    assert [api.ends(event) for event in events] == [False] * (len(events) - 1) + [True]
    return events


@EVERY
async def test_a_worker_over_its_memory_limit(agentd: Agentd, tmp_path: Path, name: str) -> None:
    server = await start(agentd, tmp_path, AGENTD_WORKER_MEMORY_BYTES=f"{96 * MIB}")
    if "memory" not in (await server.get("/health?details=1"))["data"]["controllers"]:
        pytest.skip("no memory controller can be used here")
    events = check(APIS[name], await blocks(server, APIS[name], script(["say", "so "], ["hoard", 0]), "s"))
    assert "memory" in json.dumps(events[-3:])


async def test_a_hundred_sessions_at_a_time_do_not_mix(agentd: Agentd, tmp_path: Path) -> None:
    server = await start(agentd, tmp_path, WORKERS_MAX="140")
    asked = [(api, f"{name} {number}") for number in range(21) for name, api in APIS.items()]

    async def ask(api: Api, mark: str) -> None:
        session = mark
        for step in range(2):
            text = script(["pieces", [f"{mark} {step} {piece} " for piece in range(20)]])
            events = check(api, await blocks(server, api, text, session))
            session = api.goes_on(events, session)
            assert api.text(events) == "".join(f"{mark} {step} {piece} " for piece in range(20))
        events = check(api, await blocks(server, api, script(["history", 0]), session))
        said = api.text(events)
        assert said.count("assistant: ") == 2
        assert said.count(f"{mark} ") == 2 * (20 + 20)  # twice asked and answered, 20 pieces each

    await asyncio.gather(*(ask(api, mark) for api, mark in asked))
    assert faults(server) == []


@EVERY
async def test_readers_that_stall_take_no_memory(agentd: Agentd, tmp_path: Path, name: str) -> None:
    server = await start(agentd, tmp_path)
    assert server.process is not None
    api = APIS[name]
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(client(server)) for _ in range(32)]
        for number, reader in enumerate(readers):
            await reader.write(request(api, script(["numbered", [10**9, 1000]]), f"s{number}"))
        await asyncio.gather(*(reader.head() for reader in readers))
        pids = [channel["pid"] for channel in (await server.get("/channels"))["channels"]]
        assert len(pids) == len(readers)
        await stalled(server, *pids)
        memory = resident_bytes(server.process.pid)
        loop = asyncio.get_running_loop()
        session = "other"
        for _ in range(10):
            began = loop.time()
            events = check(api, await blocks(server, api, script(["count", 50]), session))
            session = api.goes_on(events, session)
            assert api.text(events)
            assert loop.time() - began < 2.0
        assert resident_bytes(server.process.pid) - memory < 8 * MIB
    async with asyncio.timeout(PATIENCE):  # those who have gone left nothing at work
        while any(channel["turn"] for channel in (await server.get("/channels"))["channels"]):
            await asyncio.sleep(0.05)
    assert faults(server) == []
