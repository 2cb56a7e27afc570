"""Answers that are kept go on when the server is lost, or leaves: in the background and in the foreground."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError

from tests.harness import Agentd
from tests.harness.scripted import graph, install
from tests.harness.server import PATIENCE
from worker.outbox import PAST_FRAMES

PIECES = 300
PACED = json.dumps([["think", "hm"], ["call", {"a": 1, "b": 2}], ["paced", [PIECES, 0.005]]])
WHOLE = "3" + "".join(f"{number} " for number in range(PIECES))  # the call's result comes first
ENDLESS = json.dumps([["wait", 0]])
HAND_OVER = {"AGENTD_KEEP_WORKERS": "true"}


@pytest.fixture
async def server(agentd: Agentd, successor: Agentd, tmp_path: Path) -> Agentd:
    install(agentd, tmp_path)
    successor.add_path(tmp_path / "scripted")
    return await agentd.start(graphs=[graph("scripted", "scripted")], AGENTD_DEFAULT_GRAPH="scripted", **HAND_OVER)


def sdk_of(server: Agentd) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0, timeout=PATIENCE)


async def follow_on(successor: Agentd) -> None:
    await successor.start(AGENTD_DEFAULT_GRAPH="scripted")


async def until_over(server: Agentd, response_id: str) -> dict[str, Any]:
    """The response once it has ended."""
    async with asyncio.timeout(PATIENCE):
        while (response := await server.get(f"/v1/responses/{response_id}"))["response"]["status"] in (
            "queued",
            "in_progress",
        ):
            await asyncio.sleep(0.05)
    return response["response"]  # type: ignore[no-any-return]


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


async def at_work(server: Agentd) -> int:
    """The process of the one worker, which has been asked."""
    async with asyncio.timeout(PATIENCE):
        while not any(one["turn"] for one in (await server.get("/channels"))["channels"]):
            await asyncio.sleep(0.02)
    [channel] = (await server.get("/channels"))["channels"]
    return int(channel["pid"])


@pytest.fixture(params=["killed", "leaves"])
def lose(request: pytest.FixtureRequest) -> Callable[[Agentd], Awaitable[object]]:
    """How the first server goes."""
    return Agentd.kill if request.param == "killed" else Agentd.stop


async def test_a_stream_in_the_background_goes_on_behind_the_event_that_was_read_last(
    server: Agentd, successor: Agentd, lose: Callable[[Agentd], Awaitable[object]]
) -> None:
    first = []
    async with sdk_of(server) as sdk:
        stream = await sdk.responses.create(model="scripted", input=PACED, background=True, stream=True)
        async for event in stream:
            first.append(event)
            if len(first) == 60:
                break
        await stream.close()
    await lose(server)
    await follow_on(successor)
    response_id, last = first[0].response.id, first[-1].sequence_number
    async with sdk_of(successor) as sdk:
        rest = [event async for event in await sdk.responses.retrieve(response_id, stream=True, starting_after=last)]
        all_again = [event async for event in await sdk.responses.retrieve(response_id, stream=True)]
    events = [*first, *rest]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == WHOLE
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == WHOLE
    assert rest[-1].response.created_at == first[0].response.created_at
    # What was told by either server is the same, to the names of items.
    assert [event.to_dict() for event in all_again][2:60] == [event.to_dict() for event in first][2:]
    assert (await until_over(successor, response_id))["status"] == "completed"


async def test_what_nobody_reads_is_on_record_in_the_end(
    server: Agentd, successor: Agentd, lose: Callable[[Agentd], Awaitable[object]]
) -> None:
    begun = await server.post("/v1/responses", input=PACED, background=True)
    task = await server.post("/process/task", input=PACED, session_id="task")
    async with asyncio.timeout(PATIENCE):
        while sum(one["turn"] is not None for one in (await server.get("/channels"))["channels"]) < 2:
            await asyncio.sleep(0.02)
    await lose(server)
    await follow_on(successor)
    response = await until_over(successor, begun["response"]["id"])
    assert (response["status"], text_of(response)) == ("completed", WHOLE)
    async with asyncio.timeout(PATIENCE):
        while (told := await successor.get(f"/process/task/{task['task_id']}"))["status"] == "running":
            await asyncio.sleep(0.05)
    assert told["status"] == "finished", told
    assert WHOLE in json.dumps(told["result"])
    assert told["result"]["session_id"] == "task"
    again = await successor.get(f"/v1/responses/{begun['response']['id']}/input_items")
    assert again["data"][0]["content"][0]["text"] == PACED


async def test_one_in_the_foreground_is_whole_on_record_though_its_client_was_cut_off(
    server: Agentd, successor: Agentd, lose: Callable[[Agentd], Awaitable[object]]
) -> None:
    async with sdk_of(server) as sdk:
        stream = await sdk.responses.create(model="scripted", input=PACED, stream=True)
        event = await anext(stream)
        losing = asyncio.create_task(_lose_while_read(lose, server))
        with contextlib.suppress(APIError, OSError):  # one that leaves may have the time to tell all of it
            async for _ in stream:
                pass
        await losing
    await follow_on(successor)
    response = await until_over(successor, event.response.id)
    assert (response["status"], text_of(response)) == ("completed", WHOLE)


async def _lose_while_read(lose: Callable[[Agentd], Awaitable[object]], server: Agentd) -> None:
    await at_work(server)
    await lose(server)


async def test_one_that_goes_on_can_be_cancelled(server: Agentd, successor: Agentd) -> None:
    begun = await server.post("/v1/responses", input=ENDLESS, background=True)
    await at_work(server)
    await server.kill()
    await follow_on(successor)
    response_id = begun["response"]["id"]
    assert (await successor.get(f"/v1/responses/{response_id}"))["response"]["status"] == "in_progress"
    cancelled = await successor.request("POST", f"/v1/responses/{response_id}/cancel")
    assert cancelled["response"]["status"] == "cancelled"
    assert (await until_over(successor, response_id))["status"] == "cancelled"


async def test_one_whose_worker_dies_meanwhile_fails(server: Agentd, successor: Agentd) -> None:
    begun = await server.post("/v1/responses", input=ENDLESS, background=True)
    pid = os.pidfd_open(await at_work(server))
    await server.kill()
    signal.pidfd_send_signal(pid, signal.SIGKILL)
    os.close(pid)
    await follow_on(successor)
    response = await until_over(successor, begun["response"]["id"])
    assert response["status"] == "failed"


async def test_a_task_has_no_more_time_than_it_was_given(server: Agentd, successor: Agentd) -> None:
    task = await server.post("/process/task", input=ENDLESS, timeout=1.5)
    await at_work(server)
    await server.kill()
    await follow_on(successor)
    async with asyncio.timeout(PATIENCE):
        while (told := await successor.get(f"/process/task/{task['task_id']}"))["status"] == "running":
            await asyncio.sleep(0.05)
    assert told["status"] == "error"
    assert "no answer within" in told["result"]


async def test_one_that_was_never_asked_is_lost(server: Agentd, successor: Agentd) -> None:
    ahead = await server.post("/v1/responses", input=ENDLESS, background=True, session_id="s")
    behind = await server.post("/v1/responses", input=ENDLESS, background=True, session_id="s")
    await at_work(server)
    await server.kill()
    await follow_on(successor)
    lost = (await successor.get(f"/v1/responses/{behind['response']['id']}"))["response"]
    assert lost["status"] == "failed"
    assert (await successor.get(f"/v1/responses/{ahead['response']['id']}"))["response"]["status"] == "in_progress"


async def test_one_whose_beginning_cannot_be_told_again_is_lost_not_wrong(server: Agentd, successor: Agentd) -> None:
    """A worker keeps so many frames: numbers that begin anew in the middle would be lies."""
    script = json.dumps([["count", 2 * PAST_FRAMES], ["wait", 0]])
    async with sdk_of(server) as sdk:
        stream = await sdk.responses.create(model="scripted", input=script, background=True, stream=True)
        first = await anext(stream)
        async for event in stream:
            if event.sequence_number > 2 * PAST_FRAMES - 100:
                break
        await stream.close()
    await server.kill()
    await follow_on(successor)
    response = await until_over(successor, first.response.id)
    assert response["status"] == "failed"
    async with sdk_of(successor) as sdk:
        with pytest.raises(BadRequestError):
            await sdk.responses.retrieve(first.response.id, stream=True, starting_after=1)
    assert (await successor.get("/channels"))["channels"][0]["turn"] is not None  # it goes on, all the same


async def test_what_ends_while_the_server_is_lost_is_complete_on_record(server: Agentd, successor: Agentd) -> None:
    """Between the end of a turn and that of its response nothing must be lost, whenever the server is."""
    scripts = [json.dumps([["paced", [10 + number, 0.02]]]) for number in range(16)]  # 0.2 to 0.5 s
    begun = await asyncio.gather(*(server.post("/v1/responses", input=one, background=True) for one in scripts))
    async with asyncio.timeout(PATIENCE):
        while True:
            rows = await asyncio.gather(*(server.get(f"/v1/responses/{one['response']['id']}") for one in begun))
            told = [row["response"] for row in rows]
            if all(row["status"] == "completed" or row["output"] for row in told) and any(
                row["status"] == "completed" for row in told
            ):
                break  # all were asked, and some have ended
    await server.kill()
    await follow_on(successor)
    for number, one in enumerate(begun):
        response = await until_over(successor, one["response"]["id"])
        assert (response["status"], text_of(response)) == (
            "completed",
            "".join(f"{piece} " for piece in range(10 + number)),
        )
