"""OpenAI's Responses byte by byte: heads, chunks, errors, and what happens when clients, workers or the server die."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness import Agentd
from tests.harness.scripted import graph, install
from tests.harness.server import PATIENCE
from tests.harness.talk import Stream, client, faults

PREFIX = "/compatible-mode/v1"
PATH = f"{PREFIX}/responses"
GRAPHS = [graph("friday", "friday", pace_ms=20), graph("scripted", "scripted")]
ENDS = ("response.completed", "response.failed", "response.incomplete", "error")


@pytest.fixture
async def server(agentd: Agentd, tmp_path: Path) -> Agentd:
    install(agentd, tmp_path)
    return await agentd.start(graphs=GRAPHS)


def asked(*steps: list[Any], **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "input": json.dumps(steps), **more}


async def create(server: Agentd, *steps: list[Any], **more: Any) -> dict[str, Any]:
    return await server.request("POST", PATH, json=asked(*steps, **more))


@contextlib.asynccontextmanager
async def streamed(server: Agentd, *steps: list[Any], **more: Any) -> AsyncIterator[Stream]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.post(server.address + PATH, json=asked(*steps, stream=True, **more)) as response,
    ):
        assert response.status == 200, await response.text()
        yield Stream(response)


async def test_a_stream_as_it_is_on_the_wire(server: Agentd) -> None:
    async with streamed(server, ["count", 50]) as stream:
        found = await stream.all()
        headers = stream.response.headers
        assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-cache", "no")
        assert "Content-Encoding" not in headers
        assert headers["X-Request-ID"]
    assert len(stream.chunks) == len(found)
    for chunk, event in zip(stream.chunks, found, strict=True):
        assert chunk.startswith(f"event: {event['type']}\ndata: {{".encode())
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert [event["type"] in ENDS for event in found] == [False] * (len(found) - 1) + [True]
    assert b"[DONE]" not in stream.chunks[-1]
    assert "".join(event.get("delta", "") for event in found) == "".join(f"{n} " for n in range(50))


async def test_an_answer_as_it_is_on_the_wire(server: Agentd) -> None:
    created = await server.request("POST", f"{PREFIX}/responses", json={"model": "any_name", "input": "Who are you?"})
    assert created.pop("status") == "completed"
    nested = created.pop("response")
    assert "response" not in nested
    assert nested == {**created, "status": "completed"}
    assert created["id"].startswith("resp_")
    assert nested["output"][0]["content"][0]["text"] == created["output"][0]["content"][0]["text"]
    for prefix in (PREFIX, "/v1"):
        kept = await server.get(f"{prefix}/responses/{created['id']}")
        assert {key: kept[key] for key in nested if key != "status"} == created
        items = await server.get(f"{prefix}/responses/{created['id']}/input_items")
        assert items == {
            "status": 200,
            "object": "list",
            "data": [
                {
                    "id": "msg_1",
                    "type": "message",
                    "role": "user",
                    "status": "completed",
                    "content": [{"type": "input_text", "text": "Who are you?"}],
                }
            ],
            "first_id": "msg_1",
            "last_id": "msg_1",
            "has_more": False,
        }
    deleted = await server.request("DELETE", f"{PATH}/{created['id']}")
    assert deleted == {"status": 200, "id": created["id"], "object": "response", "deleted": True}
    assert (await server.request("DELETE", f"{PATH}/{created['id']}"))["status"] == 404


@pytest.mark.parametrize("stream", [{}, {"stream": True}], ids=["whole", "stream"])
async def test_refusals_have_openai_shape(server: Agentd, stream: Any) -> None:
    for body, status, param, code in [
        ({}, 400, "input", "missing_required_parameter"),
        ({"input": []}, 400, "input", "invalid_value"),
        ({"input": [{"role": "user", "content": "a"}, 5]}, 400, "input[1]", "invalid_type"),
        ({"input": "a", "temperature": "x"}, 400, "temperature", "invalid_type"),
        ({"input": "a", "previous_response_id": "r"}, 400, "previous_response_id", "previous_response_not_found"),
        ({"input": "a", "background": True, "store": False}, 400, "background", "invalid_value"),
        ({"input": "a", "session_id": "channel:x"}, 400, "session_id", "invalid_value"),
    ]:
        answer = await server.request("POST", PATH, json={**body, **stream})
        error = answer["error"]
        assert (answer["status"], error["param"], error["code"]) == (status, param, code), error
        assert (error["type"], error.keys()) == ("invalid_request_error", {"message", "type", "param", "code"})
    for method, path, data, status in [
        ("POST", PATH, b"{", 400),
        ("POST", PATH, b"[]", 400),
        ("POST", PATH, b"", 400),
        ("POST", PATH, b'{"input": "\xff"}', 400),
        ("GET", f"{PATH}/resp_none", b"", 404),
        ("GET", f"{PATH}/a%2Fb", b"", 404),
        ("POST", f"{PATH}/resp_none/cancel", b"", 404),
        ("GET", f"{PATH}/resp_none/input_items", b"", 404),
        ("GET", f"{PREFIX}/nothing", b"", 404),
        ("POST", f"{PREFIX}/embeddings", b"{}", 404),
        ("PUT", PATH, b"{}", 405),
    ]:
        answer = await server.request(method, path, data=data)
        assert (answer["status"], answer["error"]["type"]) == (status, "invalid_request_error"), answer
    assert faults(server) == []


async def test_a_body_that_is_too_large(agentd: Agentd) -> None:
    await agentd.start(graphs=GRAPHS[:1], AGENTD_BODY_LIMIT_BYTES="100000")
    answer = await agentd.request("POST", PATH, json={"input": "x" * 200_000})
    assert (answer["status"], answer["error"]["type"]) == (413, "invalid_request_error")


async def test_calls_without_a_session_run_at_once_and_do_not_mix(server: Agentd) -> None:
    answers = await asyncio.gather(*(create(server, ["paced", [3, 0.1]], ["say", f"number {n}"]) for n in range(8)))
    assert [answer["output"][0]["content"][0]["text"] for answer in answers] == [f"0 1 2 number {n}" for n in range(8)]
    assert len({answer["id"] for answer in answers}) == 8


async def test_who_hangs_up_frees_the_conversation(server: Agentd) -> None:
    async with client(server) as gone:
        await gone.ask(asked(["say", "a"], ["wait", 0], session_id="s"), PATH)
        await gone.head()
        created = await gone.until("response.created")
        await gone.until("response.output_text.delta")
        gone.vanish()
        async with asyncio.timeout(2):
            answer = await create(server, ["say", "next"], session_id="s")
    assert answer["output"][0]["content"][0]["text"] == "next"
    kept = await server.get(f"{PATH}/{created['response']['id']}")
    assert (kept["response"]["status"], kept["output"][0]["content"][0]["text"]) == ("cancelled", "a")
    assert faults(server) == []


async def test_a_worker_that_is_killed(server: Agentd) -> None:
    async with streamed(server, ["pid", 0], ["wait", 0], session_id="s") as stream:
        pid = int((await stream.until("response.output_text.delta"))["delta"])
        os.kill(pid, signal.SIGKILL)
        rest = await stream.all()
    assert [event["type"] for event in rest if event["type"] in ENDS] == ["response.failed"]
    response = rest[-1]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == str(pid)
    assert (await server.get(f"{PATH}/{response['id']}"))["response"]["error"] == response["error"]
    again = await create(server, ["say", "back"], session_id="s", previous_response_id=response["id"])
    assert again["output"][0]["content"][0]["text"] == "back"


async def test_a_server_that_is_killed(server: Agentd, successor: Agentd) -> None:
    """What was asked goes on (test_adopt_responses.py); what still waited for its turn was never asked."""
    done = await create(server, ["say", "done"])
    async with streamed(server, ["say", "a"], ["wait", 0], session_id="s") as first:
        await first.until("response.output_text.delta")
        begun = await create(server, ["say", "b"], session_id="s", background=True)
        await until_recorded(server, begun["id"])
        await server.kill()
    assert begun["response"]["status"] == "queued"
    install(successor, successor.folder / "second")
    await successor.start(graphs=GRAPHS)
    kept = (await successor.get(f"{PATH}/{done['id']}"))["response"]
    assert (kept["status"], kept["output"][0]["content"][0]["text"]) == ("completed", "done")
    lost = (await successor.get(f"{PATH}/{begun['id']}"))["response"]
    assert (lost["status"], lost["error"]["code"]) == ("failed", "server_error")
    assert (await successor.request("POST", f"{PATH}/{begun['id']}/cancel"))["status"] == 400
    again = await create(successor, ["history", 0], previous_response_id=done["id"])
    assert "assistant: done" in again["output"][0]["content"][0]["text"]


async def until_recorded(server: Agentd, response_id: str) -> None:
    """Wait until the store has it: its items are read from there."""
    async with asyncio.timeout(PATIENCE):
        while (await server.get(f"{PATH}/{response_id}/input_items"))["status"] != 200:
            await asyncio.sleep(0.02)


async def test_a_conversation_that_is_busy_and_an_agent_that_is_stuck(agentd: Agentd, tmp_path: Path) -> None:
    install(agentd, tmp_path)
    await agentd.start(graphs=GRAPHS, AGENTD_SESSION_WAIT_SECONDS="0.2", AGENTD_TURN_SILENCE_SECONDS="2")
    async with streamed(agentd, ["say", "a"], ["wait", 0], session_id="s") as first:
        await first.until("response.output_text.delta")
        for more in ({}, {"stream": True}):
            busy = await create(agentd, ["say", "b"], session_id="s", **more)
            assert (busy["status"], busy["error"]["type"]) == (409, "conflict_error")
        rest = await first.all()
    assert [event["type"] for event in rest if event["type"] in ENDS] == ["response.failed"]
    assert rest[-1]["response"]["error"]["code"] == "server_error"
    assert (await create(agentd, ["say", "b"], session_id="s"))["output"][0]["content"][0]["text"] == "b"
