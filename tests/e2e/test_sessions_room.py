"""Few slots: who is ending makes room for the next one, and only where all are at work somebody is refused."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.harness import Agentd
from tests.harness.scripted import graph, install
from tests.harness.server import PATIENCE
from tests.harness.talk import TALKER, ask, body, events, faults, recorded, stream, text_of, turn_rows

SLOW = """
import asyncio

from talkers import Talker


class Scripted(Talker):
    async def stop(self):
        await asyncio.sleep(1.2)
"""
SCRIPT = '[["say", "x"]]'


async def streamed(server: Agentd) -> dict[str, Any]:
    return {"status": 200, "text": text_of(await events(server, ["say", "x"], graph="scripted"))}


async def processed(server: Agentd) -> dict[str, Any]:
    async with stream(server, {"input": [{"role": "user", "content": SCRIPT}]}, "/process") as answer:
        said = (await answer.response.read()).decode()
    return {"status": 200 if '"completed"' in said and '"failed"' not in said else 500, "said": said}


Ask = Callable[[Agentd], Awaitable[dict[str, Any]]]

WAYS: dict[str, Ask] = {
    "turns": lambda server: ask(server, ["say", "x"], graph="scripted"),
    "turns streamed": streamed,
    "responses": lambda server: server.post("/v1/responses", {"model": "scripted", "input": SCRIPT}),
    "completions": lambda server: server.post(
        "/v1/chat/completions", {"model": "scripted", "messages": [{"role": "user", "content": SCRIPT}]}
    ),
    "process": processed,
}


async def test_one_client_without_sessions_needs_one_slot(agentd: Agentd, tmp_path: Path) -> None:
    install(agentd, tmp_path)
    await agentd.start(graphs=[graph("scripted", "scripted")], WORKERS_MAX="1", AGENTD_DEFAULT_GRAPH="scripted")
    for name, way in WAYS.items():
        for _ in range(4):
            answer = await way(agentd)
            assert answer["status"] in (200, "completed"), (name, answer)
    async with stream(agentd, body(["say", "on"], ["wait", None], graph="scripted")) as answer:
        await answer.until("text")
        refused = await ask(agentd, ["say", "x"], graph="scripted")
        assert (refused["status"], refused["error"]["cause"]) == (429, "workers_limit"), "it is at work"
    assert faults(agentd) == []


async def test_as_many_clients_as_slots_are_not_refused(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], WORKERS_MAX="4")
    refused: list[dict[str, Any]] = []

    async def loop(number: int) -> None:
        for turn in range(8):
            more = {"session": f"s{number}.{turn}"} if number % 2 else {}
            answer = await ask(agentd, ["say", "x"], **more)
            if answer["status"] != 200:
                refused.append(answer)

    await asyncio.gather(*(loop(number) for number in range(4)))
    assert refused == []
    assert faults(agentd) == []


async def test_a_session_keeps_its_worker_while_others_come_and_go(agentd: Agentd) -> None:
    await agentd.start(graphs=[TALKER], WORKERS_MAX="2")
    pid = (await ask(agentd, ["pid", None], session="s"))["text"]
    for _ in range(4):
        assert (await ask(agentd, ["say", "x"]))["status"] == 200
    assert (await ask(agentd, ["pid", None], session="s"))["text"] == pid


async def test_a_worker_that_ends_slowly_is_waited_for(agentd: Agentd, tmp_path: Path) -> None:
    install(agentd, tmp_path)
    (tmp_path / "scripted" / "scripted.py").write_text(SLOW)
    await agentd.start(graphs=[graph("slow", "scripted")], WORKERS_MAX="1", WORKER_STOP_GRACE_SECONDS="5")
    assert (await ask(agentd, ["say", "x"], graph="slow"))["status"] == 200
    both = await asyncio.gather(*(ask(agentd, ["say", "y"], graph="slow") for _ in range(2)))
    assert sorted(answer["status"] for answer in both) == [200, 429], "the one slot is spoken for"
    # Those who wait and go leave nothing behind, and the server stops without them.
    leaving = await waiting(agentd)
    [turn] = [row["id"] for row in turn_rows(agentd).values() if row["ended_at"] is None]
    leaving.cancel()
    await asyncio.wait({leaving})
    assert (await recorded(agentd, turn))["cause"] == "client_gone"
    assert (await ask(agentd, ["say", "last"], graph="slow"))["text"] == "last"
    left = await waiting(agentd)
    assert await agentd.stop() == 0
    await asyncio.wait({left})
    assert faults(agentd) == []


async def waiting(agentd: Agentd) -> "asyncio.Task[dict[str, Any]]":
    """A turn that is on record, and waits for its worker."""
    before = len(turn_rows(agentd))
    task = asyncio.create_task(ask(agentd, ["say", "x"], graph="slow"))
    async with asyncio.timeout(PATIENCE):
        while len(turn_rows(agentd)) == before:
            await asyncio.sleep(0.02)
    return task
