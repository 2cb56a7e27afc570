"""Readers that stop reading: they hold up their own worker, and nothing else."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.harness import Agentd
from tests.harness.server import PATIENCE
from tests.harness.talk import (
    TALKER,
    Client,
    Event,
    ask,
    body,
    client,
    cpu_seconds,
    faults,
    in_channel,
    recorded,
    resident_bytes,
    stalled,
    stream,
)

ENDLESS: list[list[Any]] = [["numbered", [10**9, 1000]]]
MUCH = 9000  # pieces of 1,000 characters: more than all buffers between worker and reader hold
SOON = 5.0
MIB = 1024 * 1024


@pytest.fixture
async def server(agentd: Agentd) -> Agentd:
    return await agentd.start(graphs=[TALKER], AGENTD_BEAT_SECONDS="0.1")


async def stall(server: Agentd, reader: Client, request: dict[str, Any], path: str = "/turns") -> tuple[Event, int]:
    """Ask and read the first event only; its data, and the worker, which has to wait now."""
    await reader.ask(request, path)
    await reader.head()
    first = await reader.event()
    assert first is not None
    pid = (await server.channel(first["channel"]))["pid"]
    await stalled(server, pid)
    return first, pid


async def test_a_reader_that_stops_and_reads_on_gets_everything_once(server: Agentd) -> None:
    async with client(server) as reader:
        first, pid = await stall(server, reader, body(["numbered", [MUCH, 1000]], session="s"))
        found = [event for _ in range(500) if (event := await reader.event()) is not None]
        await stalled(server, pid)
        found += await reader.all()
    assert [int(event["text"].rstrip(".")) for event in found[:-1]] == list(range(MUCH))
    assert (found[-1]["event"], found[-1]["turn"]) == ("final", first["turn"])
    assert (await recorded(server, first["turn"]))["cause"] == "completed"


async def test_the_worker_of_a_stalled_reader_waits_and_counts_as_well(server: Agentd) -> None:
    async with client(server) as reader:
        first, pid = await stall(server, reader, body(*ENDLESS, session="s"))
        before = cpu_seconds(pid)
        for _ in range(60):
            channel = await server.channel(first["channel"])
            assert (channel["state"], channel["health"]) == ("running", "ok")
            await asyncio.sleep(0.1)  # the time a beat takes
        assert cpu_seconds(pid) - before < 0.3
        assert server.process is not None
        before = cpu_seconds(server.process.pid)
        await asyncio.sleep(0.5)
        assert cpu_seconds(server.process.pid) - before < 0.2


@pytest.mark.parametrize("how", ["DELETE", "stop", "kill", "vanish"])
async def test_a_stalled_turn_can_be_ended(server: Agentd, how: str) -> None:
    name = "lobby"
    await server.begin(name, "talker")
    loop = asyncio.get_running_loop()
    async with client(server) as reader:
        first, _ = await stall(server, reader, in_channel(*ENDLESS), f"/channels/{name}/turns")
        began = loop.time()
        if how == "DELETE":
            answer = await server.request("DELETE", f"/channels/{name}/turns/{first['turn']}")
            assert (answer["status"], answer["cause"]) == (200, "turn_cancelled")
            cause = "turn_cancelled"
        elif how == "vanish":
            reader.vanish()
            cause = "client_gone"
        else:
            answer = await server.request("DELETE", f"/channels/{name}{'?kill=1' if how == 'kill' else ''}")
            assert answer["status"] == 200
            cause = "killed" if how == "kill" else "stopped"
        assert loop.time() - began < SOON
        if how != "vanish":
            found = await reader.all()
            texts = [int(event["text"].rstrip(".")) for event in found[:-1]]
            assert texts == list(range(len(texts)))
            assert (found[-1]["event"], found[-1]["cause"]) == ("error", cause)
        assert (await recorded(server, first["turn"]))["cause"] == cause
    if how in ("DELETE", "vanish"):
        answer = await server.post(f"/channels/{name}/turns", in_channel(["say", "next"]))
        assert answer["text"] == "next"
    assert faults(server) == []


async def test_a_server_stops_quickly_with_stalled_readers(server: Agentd) -> None:
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(client(server)) for _ in range(20)]
        firsts = await asyncio.gather(*(stall(server, reader, body(*ENDLESS)) for reader in readers))
        began = asyncio.get_running_loop().time()
        assert await server.stop() == 0
        assert asyncio.get_running_loop().time() - began < SOON
    for first, _ in firsts:
        assert (await recorded(server, first["turn"]))["cause"] == "server_stopped"
    assert faults(server) == []


async def test_sixty_four_stalled_readers_disturb_nobody_and_take_no_more_memory(agentd: Agentd) -> None:
    server = await agentd.start(graphs=[TALKER])
    assert server.process is not None
    await server.begin("lobby", "talker")
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(client(server)) for _ in range(64)]
        await asyncio.gather(*(reader.ask(body(*ENDLESS)) for reader in readers))
        await asyncio.gather(*(reader.head() for reader in readers))
        channels = (await server.get("/channels"))["channels"]
        await stalled(server, *(channel["pid"] for channel in channels if channel["name"] != "lobby"))
        memory = resident_bytes(server.process.pid)
        for _ in range(20):
            began = loop.time()
            assert (await server.post("/ping", channel_name="lobby"))["code"] == "0"
            answer = await server.post("/channels/lobby/turns", in_channel(["count", 100]))
            assert answer["status"] == 200
            async with stream(server, in_channel(["count", 100]), "/channels/lobby/turns") as other:
                assert len(await other.all()) == 102
            assert loop.time() - began < 2.0
        assert resident_bytes(server.process.pid) - memory < 16 * MIB
        states = {channel["health"] for channel in (await server.get("/channels"))["channels"]}
        assert states == {"ok"}
    async with asyncio.timeout(PATIENCE):
        while len((await server.get("/channels"))["channels"]) > 1:
            await asyncio.sleep(0.05)
    assert faults(server) == []


# ---------------------------------------------------------------------- workers that do not wait

FRAME = '{"t":"event","n":NUMBER,"turn":"TURN",%s}'
FLOODS = {
    "text": '"type":"text","text":"' + "x" * 1000 + '"',
    "source": '"type":"source","title":"t","source":"s","text":"' + "x" * 200_000 + '"',
    "tool_call": '"type":"tool_call","id":"i","name":"n","arguments":{"x":"' + "x" * 200_000 + '"}',
    "large": '"type":"text","text":"' + "x" * 200_000 + '"',
}


@pytest.mark.parametrize("reading", ["stalled", "collected"])
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_worker_that_ignores_its_window_takes_no_memory_of_the_server(
    agentd: Agentd, kind: str, reading: str
) -> None:
    server = await agentd.start(graphs=[TALKER], AGENTD_TURN_SILENCE_SECONDS="1")
    assert server.process is not None
    line = FRAME % FLOODS[kind]
    script: list[list[Any]] = [["say", "on"], ["write", [line, 50 * MIB // len(line)]], ["wait", None]]
    await ask(server, ["say", "x"], session="s")
    before = resident_bytes(server.process.pid)
    async with client(server) as reader:
        if reading == "stalled":
            await stall(server, reader, body(*script, session="s"))
        else:
            answer = await ask(server, *script, session="s", stream=False)
            assert (answer["status"], answer["error"]["cause"]) == (504, "turn_silent")
        assert resident_bytes(server.process.pid) - before < 40 * MIB
    assert (await ask(server, ["say", "well"]))["text"] == "well"


@pytest.mark.parametrize("line", ["rubbish", '{"t":"event","n":NUMBER,"type":"text","text":7}'])
async def test_a_worker_that_writes_rubbish_is_ended(server: Agentd, line: str) -> None:
    answer = await ask(server, ["paced", [1, 0.05]], ["write", [line, 1000]], ["wait", None], session="s")
    assert (answer["status"], answer["error"]["cause"]) == (502, "protocol_violated")
    assert answer["text"] in ("0 ", "0 written")
    assert (await ask(server, ["say", "well"], session="s"))["text"] == "well"


async def test_a_flood_of_events_of_no_turn_is_read_past(server: Agentd) -> None:
    line = '{"t":"event","n":NUMBER,"turn":"another","type":"text","text":"x"}'
    async with stream(server, body(["paced", [1, 0.05]], ["write", [line, 200_000]], ["wait", None])) as flooding:
        await flooding.until("text")
        for _ in range(5):
            assert (await ask(server, ["say", "quick"], session="other"))["text"] == "quick"
