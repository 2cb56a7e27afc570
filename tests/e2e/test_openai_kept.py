"""Responses in the background: every event of every one comes, however large and slow; what is deleted ends."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.scripted import graph, install
from tests.harness.server import PATIENCE
from tests.harness.talk import Client, client, faults, parse, stalled

PATH = "/v1/responses"


@pytest.fixture
async def server(agentd: Agentd, tmp_path: Path) -> Agentd:
    install(agentd, tmp_path)
    sleeper = {"name": "sleeper", "graph": {"nodes": [{"type": "extension", "name": "s", "addon": "zoo_sleeper"}]}}
    return await agentd.start(graphs=[graph("scripted", "scripted"), sleeper], AGENTD_DEFAULT_GRAPH="scripted")


def body(*script: list[Any], **more: Any) -> dict[str, Any]:
    return {"input": json.dumps(script), "background": True, **more}


async def ask(reader: Client, request: dict[str, Any]) -> None:
    await reader.ask(request, PATH)
    assert (await reader.head()).startswith(b"HTTP/1.1 200 ")


async def all_of(reader: Client) -> list[dict[str, Any]]:
    """Every event of the stream, which has to be whole."""
    events = await reader.all()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    return events


async def gone(server: Agentd, session: str) -> None:
    """Wait until nothing runs in a session."""
    async with asyncio.timeout(PATIENCE):
        while any(c["turn"] for c in (await server.get("/channels"))["channels"] if c["session"] == session):
            await asyncio.sleep(0.02)


async def test_large_answers_and_many_pieces_come_whole(server: Agentd) -> None:
    for script in (["pieces", ["x" * 1000] * 700], ["count", 40_000], ["say", "y" * 900_000]):
        async with client(server, window=64 * 1024) as reader:
            await ask(reader, body(script))
            events = await all_of(reader)
            [item] = events[-1]["response"]["output"]
            said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
            assert item["content"][0]["text"] == said


async def test_a_large_request_is_streamed_in_the_background(server: Agentd) -> None:
    async with client(server, window=64 * 1024) as reader:
        await ask(reader, body(["say", "a"], instructions="z" * 700_000))
        assert len((await all_of(reader))[0]["response"]["instructions"]) == 700_000


async def test_a_reader_that_stalls_sets_the_pace_and_misses_nothing(server: Agentd) -> None:
    async with client(server) as reader:
        await ask(reader, body(["numbered", [8000, 1000]], session_id="s"))
        first = await reader.until("response.output_text.delta")
        [channel] = (await server.get("/channels"))["channels"]
        await stalled(server, channel["pid"])
        events = [first, *await reader.all()]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert [int(delta.rstrip(".")) for delta in deltas] == list(range(8000))
    assert faults(server) == []


async def test_a_stalled_reader_does_not_hold_up_a_cancel(server: Agentd) -> None:
    async with client(server) as reader:
        await ask(reader, body(["numbered", [10**9, 1000]], session_id="s"))
        begun = await reader.event()
        assert begun is not None
        first = await reader.until("response.output_text.delta")
        [channel] = (await server.get("/channels"))["channels"]
        await stalled(server, channel["pid"])
        loop = asyncio.get_running_loop()
        began = loop.time()
        cancelled = await server.request("POST", f"{PATH}/{begun['response']['id']}/cancel")
        assert (cancelled["response"]["status"], loop.time() - began < 4) == ("cancelled", True)
        rest = await reader.all()
    assert rest[-1]["type"] == "response.failed"
    begin = first["sequence_number"] + 1
    assert [event["sequence_number"] for event in rest] == list(range(begin, begin + len(rest)))


async def test_one_that_waits_for_its_session_is_queued(server: Agentd) -> None:
    first = (await server.request("POST", PATH, json=body(["wait", 0], session_id="s")))["response"]
    second = (await server.request("POST", PATH, json=body(["say", "b"], session_id="s")))["response"]
    assert second["status"] == "queued"
    assert (await server.get(f"{PATH}/{second['id']}"))["response"]["status"] == "queued"
    assert (await server.request("POST", f"{PATH}/{first['id']}/cancel"))["response"]["status"] == "cancelled"
    async with asyncio.timeout(PATIENCE):
        while (found := (await server.get(f"{PATH}/{second['id']}"))["response"])["status"] != "completed":
            await asyncio.sleep(0.02)
    assert found["output"][0]["content"][0]["text"] == "b"


async def test_what_is_deleted_ends(server: Agentd) -> None:
    begun = (await server.request("POST", PATH, json=body(["wait", 0], session_id="s")))["response"]
    assert (await server.request("DELETE", f"{PATH}/{begun['id']}"))["deleted"] is True
    await gone(server, "s")
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "?stream=true"), ("DELETE", "")):
        assert (await server.request(method, f"{PATH}/{begun['id']}{path}"))["status"] == 404


async def test_a_task_is_no_response(server: Agentd) -> None:
    task = await server.request("POST", "/process/task", json={"input": json.dumps([["wait", 0]]), "session_id": "s"})
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "?stream=true"), ("DELETE", "")):
        answer = await server.request(method, f"{PATH}/{task['task_id']}{path}")
        assert (answer["status"], answer["error"]["code"]) == (404, "response_unknown")
    assert (await server.get(f"/process/task/{task['task_id']}"))["status"] in ("pending", "running")
    await server.request("POST", "/stop", json={"session_id": "s"})


async def test_one_that_is_interrupted_before_its_worker_is_there_ends_as_canceled(server: Agentd) -> None:
    async with client(server) as reader:
        request = {"input": "hi", "model": "sleeper", "session_id": "s"}
        await reader.ask(request, "/process")
        async with asyncio.timeout(PATIENCE):
            while "interrupted" not in (await server.request("POST", "/stop", json={"session_id": "s"}))["message"]:
                await asyncio.sleep(0.01)
        assert (await reader.head()).startswith(b"HTTP/1.1 200 ")
        blocks = await blocks_of(reader)
    assert blocks.pop() == "[DONE]"
    assert json.loads(blocks[-1])["status"] == "canceled"


async def blocks_of(reader: Client) -> list[str]:
    found = []
    while size := int(await reader._until(b"\r\n"), 16):
        while len(reader._rest) < size + 2:
            await reader._read()
        found.append(reader._rest[:size].decode().removeprefix("data: ").strip())
        reader._rest = reader._rest[size + 2 :]
    return found


async def test_clients_of_the_old_protocol_see_the_end(server: Agentd) -> None:
    data = json.dumps({"input": "hi", "stream": True}).encode()
    async with client(server, window=64 * 1024) as reader:
        head = f"POST {PATH} HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {len(data)}\r\n\r\n"
        await reader.write(head.encode() + data)
        with contextlib.suppress(EOFError):
            while True:
                await reader._read()
        head_bytes, _, events = reader._rest.partition(b"\r\n\r\n")
    assert b"200 OK" in head_bytes
    assert parse(events.split(b"\n\n")[-2] + b"\n\n")["type"] == "response.completed"


async def test_a_head_of_a_stream_has_no_body(server: Agentd) -> None:
    begun = (await server.request("POST", PATH, json=body(["say", "a"])))["response"]
    async with client(server) as reader:
        for _ in range(2):  # on one connection
            await reader.write(f"HEAD {PATH}/{begun['id']}?stream=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert b"text/event-stream" in await reader.head()
            assert reader._rest == b""
