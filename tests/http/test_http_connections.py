"""Bounds on connections: their number, the time to a first request and between two, readers that take nothing."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from supervisor.http import connections as bounds
from supervisor.http.connections import LEAST_CONNECTIONS, most_connections
from supervisor.settings import Settings

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALVES = [b"", b"G", b"GET /health HTTP/1.1\r\n", b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Le"]
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(house: Any, count: int = 1) -> AsyncIterator[list[Stream]]:
    streams = [await asyncio.open_connection("127.0.0.1", house.port) for _ in range(count)]
    try:
        yield streams
    finally:
        for _, writer in streams:
            writer.transport.abort()


async def ask(stream: Stream, request: bytes = HEALTH) -> bytes:
    reader, writer = stream
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if b"Content-Length: 0" not in head:
        await reader.readuntil(b"}")
    return head


async def at_end(stream: Stream) -> bytes:
    async with asyncio.timeout(10):
        return await stream[0].read()


async def none_left(house: Any) -> None:
    async with asyncio.timeout(10):
        while house.runner.server.connections:
            await asyncio.sleep(0.01)


async def test_a_first_request_has_to_come_in_time(build: Any) -> None:
    house = await build(head_seconds=0.3)
    async with connected(house) as [served], connected(house, 60) as streams:
        assert (await ask(served)).startswith(b"HTTP/1.1 200")
        for number, (_, writer) in enumerate(streams):
            writer.write(HALVES[number % len(HALVES)])
        assert [await at_end(stream) for stream in streams] == [b""] * 60
        assert (await ask(served)).startswith(b"HTTP/1.1 200")  # the time of its first request has gone by as well
        assert len(house.runner.server.connections) == 1


async def test_bytes_that_trickle_do_not_prolong_the_time(build: Any) -> None:
    house = await build(head_seconds=0.3)
    async with connected(house) as [stream]:
        end = asyncio.create_task(at_end(stream))
        stream[1].write(b"GET /")
        while not end.done():
            stream[1].write(b"a")
            await asyncio.wait([end], timeout=0.02)
        assert await end == b""


async def test_a_slow_answer_is_not_cut(build: Any) -> None:
    house = await build(head_seconds=0.1)
    house.table.gate.clear()
    start = asyncio.create_task(house.start())
    await house.table.waiting.wait()
    await asyncio.sleep(0.3)  # longer than a head may take: nothing must happen
    house.table.gate.set()
    assert (await start).name == "lobby"


async def test_the_next_request_has_its_time_too(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "KEEP_ALIVE_SECONDS", 0.3)
    house = await build()
    async with connected(house, 2) as [resting, half]:
        for stream in (resting, half):
            await ask(stream)
        half[1].write(b"GET /hea")
        assert [await at_end(stream) for stream in (resting, half)] == [b"", b""]


async def test_a_connection_too_many_is_told(build: Any) -> None:
    house = await build(connections_max=3)
    with capture_logs() as logs:
        async with connected(house, 3) as streams:
            for stream in streams:
                await ask(stream)
            async with connected(house, 2) as further:
                for stream in further:
                    answer = await at_end(stream)
                    assert answer.startswith(b"HTTP/1.1 503 ")
                    assert b"Connection: close\r\n" in answer
            assert (await ask(streams[0])).startswith(b"HTTP/1.1 200")
        await none_left(house)
        async with connected(house) as [stream]:
            assert (await ask(stream)).startswith(b"HTTP/1.1 200")
    full = [line for line in logs if line["event"] == "http.connections_full"]
    assert [(line["most"], line["refused"]) for line in full] == [(3, 1)]  # told once, not for each


@pytest.mark.parametrize(
    ("open_files", "workers_max", "expected"),
    [
        (resource.RLIM_INFINITY, 100, 4096),
        (1_000_000, 100, 4096),
        (64 + 400 + 3 * 4096, 100, 4096),
        (64 + 400 + 3 * 4095, 100, 4095),
        (1024, 100, 186),
        (1024, 1000, LEAST_CONNECTIONS),
        (20, 1, LEAST_CONNECTIONS),
    ],
)
def test_how_many_connections(open_files: int, workers_max: int, expected: Any) -> None:
    assert most_connections(Settings(workers_max=workers_max), open_files) == expected


async def test_a_lowered_number_is_told(build: Any) -> None:
    with capture_logs() as logs:
        house = await build(connections_max=2**31 - 1)
        await house.get("/health")
    told = [line for line in logs if line["event"] == "http.connections_bounded"]
    unlimited = resource.getrlimit(resource.RLIMIT_NOFILE)[0] == resource.RLIM_INFINITY
    assert unlimited or told[0]["most"] < told[0]["connections_max"]


async def test_an_answer_that_nobody_reads_ends(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "UNREAD_SECONDS", 0.5)
    house = await build()
    for number in range(30):
        folder = house.settings.addons_dir / f"a{number}"
        folder.mkdir(parents=True)
        (folder / "property.json").write_text('{"a": "' + "x" * 1_000_000 + '"}')
    _, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1)
    writer.write(b"GET /dev-tmp/addons/default-properties HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(10):
        while not house.runner.server.connections:
            await asyncio.sleep(0.01)
    await none_left(house)
    writer.transport.abort()


async def test_a_follower_that_stalls_does_not_hold_up_the_shutdown(house: Any) -> None:
    channel = await house.start()
    with channel.log_file.open("wb") as file:
        file.truncate(1 << 30)  # more than any socket buffer takes
    _, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1)
    writer.write(b"GET /channels/lobby/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(10):
        while not any(one.writing_paused for one in house.runner.server.connections):
            await asyncio.sleep(0.01)
    began = time.monotonic()
    await house.runner.cleanup()
    assert time.monotonic() - began < 0.9  # not the second that requests get to end
    writer.transport.abort()


async def test_heads_of_all_that_can_be_got(house: Any) -> None:
    channel = await house.start()
    channel.log_file.write_bytes(b"one\n")
    house.settings.addons_dir.mkdir(parents=True)
    paths = [
        route.resource.canonical.replace("{name}", "lobby")
        for route in house.runner.app.router.routes()
        if route.method == "GET" and not route.resource.canonical.endswith("/events")  # those do not end
    ]
    assert len(paths) == 26
    for path in (*paths, "/nowhere", "/channels/nobody", "/channels/nobody/logs", "/ping"):
        got, head = await house.get(path), await house.ask("HEAD", path)
        assert (head.status, head.content) == (got.status, b""), path
        assert head.headers.get("Content-Type") == got.headers["Content-Type"]
        assert head.headers["Access-Control-Allow-Origin"] == "*"
