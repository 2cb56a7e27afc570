"""A server that leaves its workers: no request fails at a socket that stays, no worker is told, no stream is torn."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ZOO
from tests.harness import Agentd
from tests.harness.graphs import ECHO
from tests.harness.handover import Heir, Line, Load, listening
from tests.harness.leaks import processes_of
from tests.harness.server import PATIENCE
from tests.harness.talk import TALKER, Client, in_channel, parse, post, request_bytes, turn_rows

RESTARTS = 3
HAND_OVER = {"AGENTD_KEEP_WORKERS": "true"}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening() as listener:
        yield listener


@pytest.fixture
async def dynasty(listener: socket.socket, state_dir: Path, tmp_path: Path) -> AsyncIterator[Any]:
    """Makes servers that follow each other at one socket, with one state folder. What they left ends in the end."""
    heirs: list[Heir] = []

    def heir() -> Heir:
        heirs.append(Heir(listener, state_dir, tmp_path, extra_path=ZOO))
        return heirs[-1]

    yield heir
    for one in heirs:
        await one.stop()
    last = heir()
    await last.start()  # without the setting: its end is the end of all that its predecessors have left
    await last.stop()


async def left(agentd: Agentd, *, signals: int = 1) -> int | None:
    """The exit status of a server that is told to leave, so many times."""
    assert agentd.process is not None
    for _ in range(signals):
        agentd.process.send_signal(signal.SIGTERM)
        await agentd.event("server.leaving")
    async with asyncio.timeout(PATIENCE):
        await agentd.process.wait()
    return await agentd.stop()


async def test_no_request_fails_over_restarts(dynasty: Any, listener: socket.socket) -> None:
    server = await dynasty().start(graphs=[ECHO], WORKERS_MAX="1000", **HAND_OVER)
    load, ended = Load(listener.getsockname()[1]), asyncio.Event()
    running = asyncio.create_task(load.run(ended))
    for _ in range(RESTARTS):
        await asyncio.sleep(1.0)  # under load all the time: it is what is measured
        assert await left(server) == 0
        server = await dynasty().start(WORKERS_MAX="1000", **HAND_OVER)
    await asyncio.sleep(1.0)
    ended.set()
    await running
    assert load.failed == []
    assert load.answered > 100


async def test_no_session_is_lost_over_restarts(dynasty: Any, listener: socket.socket) -> None:
    server = await dynasty().start(graphs=[TALKER, ECHO], WORKERS_MAX="1000", **HAND_OVER)
    names = [f"session{number}" for number in range(20)]
    for name in names:
        await server.begin(name, "talker", timeout=-1)
    pids = {name: (await server.channel(name))["pid"] for name in names}
    load, ended = Load(listener.getsockname()[1]), asyncio.Event()
    running = asyncio.create_task(load.run(ended))
    for _ in range(RESTARTS):
        assert await left(server) == 0
        server = await dynasty().start(WORKERS_MAX="1000", **HAND_OVER)
        assert {name: (await server.channel(name))["pid"] for name in names} == pids
        for name in names:
            answer = await post(server, in_channel(["say", name]), f"/channels/{name}/turns")
            assert (answer["status"], answer.get("text")) == (200, name)
    ended.set()
    await running
    assert load.failed == []
    assert {life["name"] for life in (await server.get("/ledger?open=true&limit=1000"))["lives"]} >= set(names)


async def test_workers_are_told_nothing(dynasty: Any, state_dir: Path, tmp_path: Path) -> None:
    server = await dynasty().start(graphs=[ECHO], **HAND_OVER)
    await server.begin("kept")
    channel = await server.channel("kept")
    ready = await server.event("server.ready")
    assert await left(server) == 0
    assert {channel["pid"], ready["spawner_pid"]} <= processes_of(tmp_path).keys()
    assert (state_dir / "ch" / channel["id"]).is_dir()
    assert (state_dir / "records" / f"{channel['id']}.json").is_file()
    assert [e["event"] for e in server.events if e["event"] in ("channel.stopping", "channel.gone")] == []
    told = await server.event("server.left")
    assert (told["channels"], told["cut"]) == (1, 0)


async def test_ctrl_c_ends_all_the_same(agentd: Agentd, tmp_path: Path) -> None:
    await agentd.start(**HAND_OVER)
    await agentd.begin("c")
    assert agentd.process is not None
    agentd.process.send_signal(signal.SIGINT)
    assert (await agentd.gone("c"))["cause"] == "server_stopped"
    assert await agentd.process.wait() == 0
    await agentd.stop()
    assert processes_of(tmp_path) == {}


async def test_a_connection_that_is_kept_has_its_next_request_answered(dynasty: Any, listener: socket.socket) -> None:
    server = await dynasty().start(AGENTD_LEAVE_SECONDS="600", **HAND_OVER)
    async with AsyncExitStack() as stack:
        kept, idle = (Line(listener.getsockname()[1]) for _ in range(2))
        for line in (kept, idle):
            stack.push_async_callback(line.close)
            assert (await line.ask("GET", "/health"))[0] == 200
        leaving = asyncio.create_task(left(server))
        await server.event("server.leaving")
        assert (await kept.ask("POST", "/ping", {"channel_name": "x"}))[1]["code"] == "10002"
        assert kept._writer is None  # as it was told
        new = asyncio.create_task(Line(listener.getsockname()[1]).ask("GET", "/health", keep=False))
        assert await leaving == 0  # the one that asks nothing is not waited for much longer than that
        assert not new.done()
        await dynasty().start(**HAND_OVER)
        assert (await new)[0] == 200
        assert idle._reader is not None
        assert await idle._reader.read() == b""


async def test_an_answer_that_is_owed_has_its_time(dynasty: Any) -> None:
    server = await dynasty().start(graphs=[TALKER], AGENTD_LEAVE_SECONDS="600", **HAND_OVER)
    await server.begin("c", "talker")
    turn = await under_way(server, ["paced", [20, 0.05]])
    assert await left_while(server, turn) == 0
    answer = turn.result()
    assert (answer["status"], answer["text"].split()[-1]) == (200, "19")
    assert turn_rows(server)[answer["turn"]]["cause"] == "completed"


async def under_way(server: Agentd, *script: list[Any]) -> "asyncio.Task[dict[str, Any]]":
    """Somebody who waits for an answer in one piece, of which the agent in the channel `c` has said something."""
    client = Client(server, window=256 * 1024)
    try:
        await client.connect()
        await client.write(b"GET /channels/c/events?after=now HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.head()
        turn = asyncio.create_task(post(server, in_channel(*script), "/channels/c/turns"))
        await client.until("text")
    finally:
        client.close()
    return turn


async def left_while(server: Agentd, work: "asyncio.Task[Any]") -> int | None:
    """The exit status of a server that leaves while somebody waits for an answer, which comes first."""
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({work})
        await server.process.wait()
    return await server.stop()


async def test_what_takes_longer_is_told_to_come_back(dynasty: Any, tmp_path: Path) -> None:
    server = await dynasty().start(graphs=[TALKER], AGENTD_LEAVE_SECONDS="0.3", **HAND_OVER)
    await server.begin("c", "talker")
    pid = (await server.channel("c"))["pid"]
    turn = await under_way(server, ["say", "a"], ["wait", None])
    assert await left_while(server, turn) == 0
    answer = turn.result()
    assert (answer["status"], answer["error"]["cause"]) == (503, "shutting_down")
    assert pid in processes_of(tmp_path)
    assert [row["ended_at"] for row in turn_rows(server).values()] == [None]
    assert (await server.event("server.left"))["cut"] == 1


async def test_a_second_signal_ends_it_at_once_and_no_worker(dynasty: Any, tmp_path: Path) -> None:
    server = await dynasty().start(graphs=[TALKER], AGENTD_LEAVE_SECONDS="600", **HAND_OVER)
    await server.begin("c", "talker")
    pid = (await server.channel("c"))["pid"]
    turn = await under_way(server, ["say", "a"], ["wait", None])
    assert await left(server, signals=2) == 0
    assert (await turn)["error"]["cause"] == "shutting_down"
    assert pid in processes_of(tmp_path)


async def blocks_to_the_end(client: Client) -> tuple[list[bytes], bytes]:
    """The whole chunks of a body until the connection ends, and what comes behind them."""
    found = []
    rest = client._rest
    while True:
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(client.socket, 256 * 1024)
        if not data:
            break
        rest += data
    while b"\r\n" in rest:
        size, _, behind = rest.partition(b"\r\n")
        if len(behind) < int(size, 16) + 2 or not int(size, 16):
            break
        found.append(behind[: int(size, 16)])
        rest = behind[int(size, 16) + 2 :]
    return found, rest


async def test_a_stream_breaks_off_between_two_events(dynasty: Any, tmp_path: Path) -> None:
    server = await dynasty().start(graphs=[TALKER], AGENTD_LEAVE_SECONDS="0.3", **HAND_OVER)
    await server.begin("c", "talker")
    client = Client(server, window=256 * 1024)
    try:
        await client.connect()
        script = in_channel(["paced", [1_000_000, 0.001]])
        await client.write(request_bytes({**script, "stream": True}, "/channels/c/turns"))
        await client.head()
        assert await left(server) == 0
        blocks, rest = await blocks_to_the_end(client)
    finally:
        client.close()
    assert rest == b""  # neither half a chunk, nor the end of the body: it is told by nothing that all is there
    events = [parse(block) for block in blocks if not block.startswith(b":")]
    assert {event["event"] for event in events} == {"turn", "text"}
    numbers = [int(event["text"]) for event in events if event["event"] == "text"]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 10


@pytest.mark.parametrize("path", ["/events", "/channels/c/events", "/channels/c/logs?follow=1"])
async def test_what_has_no_end_is_ended_at_once(dynasty: Any, path: str) -> None:
    server = await dynasty().start(AGENTD_LEAVE_SECONDS="600", **HAND_OVER)
    await server.begin("c")
    client = Client(server, window=256 * 1024)
    try:
        await client.connect()
        await client.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await client.head()
        assert await left(server) == 0
        _, rest = await blocks_to_the_end(client)
    finally:
        client.close()
    assert rest == b"0\r\n\r\n"


async def test_starts_and_stops_under_way_are_carried_out(dynasty: Any, tmp_path: Path) -> None:
    sleeper = {"name": "slow", "graph": {"nodes": [{"type": "extension", "name": "s", "addon": "zoo_sleeper"}]}}
    server = await dynasty().start(graphs=[ECHO, sleeper], AGENTD_LEAVE_SECONDS="0.5", **HAND_OVER)
    await server.begin("c")
    stop = asyncio.create_task(server.end("c"))
    start = asyncio.create_task(server.post("/start", channel_name="slow", graph_name="slow"))
    while len((await server.get("/channels"))["channels"]) < 1 or not os.listdir(server.state_dir / "ch"):
        await asyncio.sleep(0)
    assert await left_while(server, start) == 0
    assert (await stop)["code"] == "0"
    assert (start.result()["code"], start.result()["detail"]) == ("10101", "the server is shutting down")
