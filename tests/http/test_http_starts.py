"""A client that hangs up, and a server that goes down, leave no start half-done."""

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor.causes import Cause, Refusal
from supervisor.channels.lifecycle import State
from supervisor.http.owned import OwnedTasks


async def send_start(house: Any, name: str = "lobby") -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", house.port)
    body = json.dumps({"channel_name": name, "graph_name": "greeter"}).encode()
    writer.write(b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await house.table.waiting.wait()
    return writer


async def test_a_start_completes_without_its_client(house: Any) -> None:
    house.table.gate.clear()
    writer = await send_start(house)
    writer.close()
    await writer.wait_closed()
    assert (await house.post("/ping", {"channel_name": "lobby"})).code == "0"  # the loop has seen the hang-up
    house.table.gate.set()
    await house.table.finished.wait()
    assert house.table.channels["lobby"].state is State.RUNNING


async def test_clean_up_waits_for_starts(house: Any) -> None:
    house.table.gate.clear()
    writer = await send_start(house)
    writer.close()
    await writer.wait_closed()
    await house.post("/ping", {"channel_name": "lobby"})
    down = asyncio.create_task(house.runner.cleanup())
    await asyncio.sleep(0)
    house.table.gate.set()
    await down
    assert house.table.channels["lobby"].state is State.RUNNING


async def test_owned_work_outlives_its_caller_and_its_failure_is_heard() -> None:
    owned, gate = OwnedTasks(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise Refusal(Cause.START_TIMEOUT, "too late")

    caller = asyncio.create_task(owned.finish(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    with capture_logs() as logs:
        await owned.drain(10)
        await asyncio.sleep(0)
    assert [(line["event"], line["error"]) for line in logs] == [("http.unheard_failure", "too late")]


async def test_owned_work_that_never_ends_is_cancelled() -> None:
    owned = OwnedTasks()
    caller = asyncio.create_task(owned.finish(asyncio.Event().wait()))
    await asyncio.sleep(0)
    with capture_logs() as logs:
        await owned.drain(0.01)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert [line["event"] for line in logs] == ["http.work_cancelled"]


async def test_results_and_refusals_reach_the_caller() -> None:
    owned = OwnedTasks()

    async def work(fault: Exception | None) -> int:
        if fault:
            raise fault
        return 7

    assert await owned.finish(work(None)) == 7
    with pytest.raises(Refusal):
        await owned.finish(work(Refusal(Cause.INTERNAL)))
    await owned.drain(1)
