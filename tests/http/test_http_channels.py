"""The native channel API: listings, stops, logs that are followed over rotations."""

import asyncio
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientPayloadError
from structlog.testing import capture_logs

from supervisor.causes import Cause, Refusal
from supervisor.http.logtail import CHUNK, GAP, LogReader

KEYS = [
    "name",
    "id",
    "graph",
    "user",
    "session",
    "source",
    "state",
    "health",
    "pid",
    "created_at",
    "age_seconds",
    "last_ping_seconds",
    "lease_seconds",
    "time_left_seconds",
    "rss_bytes",
    "cpu_percent",
    "processes",
    "limits",
    "isolation",
    "turn",
    "last_event",
]


async def test_listing(house: Any) -> None:
    assert (await house.get("/channels")).body == {"channels": []}
    await house.start("lobby", timeout=45)
    await house.start("for ever", timeout=-1)
    await house.post("/ping", {"channel_name": "lobby"})
    lobby, forever = (await house.get("/channels")).body["channels"]
    assert list(lobby) == list(forever) == KEYS
    assert (lobby["name"], lobby["id"], lobby["graph"]) == ("lobby", "c0", "greeter")
    assert (lobby["state"], lobby["health"], lobby["pid"], lobby["lease_seconds"]) == ("running", "ok", 4711, 45)
    assert 0 <= lobby["last_ping_seconds"] <= lobby["age_seconds"] + 1
    assert 0 < lobby["time_left_seconds"] <= 45
    assert (lobby["rss_bytes"], lobby["cpu_percent"], lobby["processes"]) == (1000, 1.5, 2)
    assert (forever["lease_seconds"], forever["time_left_seconds"], forever["last_ping_seconds"]) == (None, None, None)
    assert house.sampled == [[], ["lobby", "for ever"]]


async def test_a_channel_that_starts_is_listed(house: Any) -> None:
    house.table.gate.clear()
    start = asyncio.create_task(house.start())
    await house.table.waiting.wait()
    [channel] = (await house.get("/channels")).body["channels"]
    assert (channel["state"], channel["time_left_seconds"], channel["lease_seconds"]) == ("starting", None, 60)
    assert (await house.get("/list")).body["data"] == []
    house.table.gate.set()
    await start


@pytest.mark.parametrize("name", ["lobby", "日本語", "a b", "a:b", "50%", "a%2Fb", "{x}", "a?b#c", "%", "+", "~"])
async def test_one_channel_by_name(house: Any, name: str) -> None:
    await house.start(name)
    path = f"/channels/{quote(name, safe='')}"
    assert (await house.get(path)).body["name"] == name
    assert (await house.ask("DELETE", path)).body["name"] == name
    assert (await house.get(path)).status == 404


@pytest.mark.parametrize(("query", "kill"), [("", False), ("?kill=0", False), ("?kill=1", True), ("?kill=true", True)])
async def test_stop(house: Any, query: str, kill: bool) -> None:
    await house.start()
    answer = await house.ask("DELETE", f"/channels/lobby{query}")
    assert answer.status == 200
    assert answer.body == {
        "name": "lobby",
        "receipt": {
            "processes": 2,
            "killed": 1,
            "left": 0,
            "seconds": 0.25,
            "by": "sweep",
            "status": -9,
            "oom": False,
        },
    }
    assert house.table.stops == [("lobby", Cause.KILLED if kill else Cause.STOPPED, kill)]
    gone = await house.ask("DELETE", "/channels/lobby")
    assert (gone.status, gone.body["error"]["cause"]) == (404, "channel_unknown")
    assert gone.body["error"].keys() == {"cause", "message", "detail", "next_step"}


@pytest.mark.parametrize(
    "query", ["tail=-1", "tail=x", "tail=1.5", "tail=", "tail=99999999999", "tail=²", "follow=yes"]
)
async def test_queries_that_are_refused(house: Any, query: str) -> None:
    await house.start()
    answer = await house.get(f"/channels/lobby/logs?{quote(query, safe='=')}")
    assert (answer.status, answer.body["error"]["cause"]) == (400, "body_invalid")
    assert query.partition("=")[0] in answer.body["error"]["detail"]
    assert (await house.ask("DELETE", "/channels/lobby?kill=maybe")).status == 400


async def test_a_stop_that_fails(house: Any) -> None:
    await house.start()
    house.table.fault = Refusal(Cause.STOP_FAILED, "pid 7 outlives SIGKILL")
    answer = await house.ask("DELETE", "/channels/lobby")
    assert (answer.status, answer.body["error"]["detail"]) == (500, "pid 7 outlives SIGKILL")


async def test_samples_that_are_late_are_left_out(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.http.channels.SAMPLE_SECONDS", 0.01)
    house.table.sampling.clear()
    await house.start()
    [channel] = (await house.get("/channels")).body["channels"]
    assert channel["rss_bytes"] is None


def read_all(path: Path, tail: int | None = None) -> bytes:
    with LogReader(path) as reader:
        reader.open(tail)
        return b"".join(iter(reader.read, b""))


LINES = [b"line %d of the log\n" % number for number in range(20_000)]


@pytest.mark.parametrize("ending", [b"", b"unfinished"])
@pytest.mark.parametrize("cut", [0, 1, 7_000, 20_000])
@pytest.mark.parametrize("tail", [None, 0, 1, 2, 6_000, 15_000, 20_000, 30_000])
def test_tails_over_two_files(tmp_path: Path, tail: int | None, cut: int, ending: bytes) -> None:
    path = tmp_path / "log"
    if cut:
        (tmp_path / "log.1").write_bytes(b"".join(LINES[:cut]))
    path.write_bytes(b"".join(LINES[cut:]) + ending)
    lines = [*LINES, ending] if ending else LINES
    assert read_all(path, tail) == b"".join(lines if tail is None else lines[len(lines) - min(tail, len(lines)) :])


def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogReader(path) as reader:
        reader.open(5)
        assert reader.read() == b""
        path.write_bytes(b"now\n")
        assert reader.read() == b"now\n"
        assert reader.read() == b""


def test_rotations(tmp_path: Path) -> None:
    path, predecessor = tmp_path / "log", tmp_path / "log.1"
    path.write_bytes(b"one\n")
    with LogReader(path) as reader:
        reader.open()
        assert reader.read() == b"one\n"
        with path.open("ab") as file:
            file.write(b"two\n")
        path.rename(predecessor)
        assert reader.read() == b"two\n"
        assert reader.read() == b""  # between the renaming and the new file
        path.write_bytes(b"three\n")
        assert reader.read() == b"three\n"
        assert reader.read() == b""
        for text in (b"lost\n", b"four\n", b"five\n"):
            path.rename(predecessor)
            path.write_bytes(text)
        assert b"".join(iter(reader.read, b"")) == GAP + b"four\nfive\n"
        path.rename(predecessor)
        path.write_bytes(b"six\n")
        predecessor.unlink()
        assert b"".join(iter(reader.read, b"")) == GAP + b"six\n"


def test_reads_are_bounded_and_files_closed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * CHUNK * 3)
    before = len(os.listdir("/proc/self/fd"))
    with LogReader(path) as reader:
        reader.open()
        assert len(reader.read()) == CHUNK
    assert len(os.listdir("/proc/self/fd")) == before


async def test_logs(house: Any) -> None:
    channel = await house.start()
    assert (await house.get("/channels/lobby/logs")).content == b""
    channel.log_file.write_bytes(b"one\ntwo\n\xff\xfe\n")
    answer = await house.get("/channels/lobby/logs")
    assert answer.content == b"one\ntwo\n\xff\xfe\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["X-Request-ID"]
    assert (await house.get("/channels/lobby/logs?tail=1")).content == b"\xff\xfe\n"
    assert (await house.get("/channels/nobody/logs")).status == 404


async def test_following_over_a_rotation_until_the_channel_ends(house: Any) -> None:
    channel = await house.start()
    channel.log_file.write_bytes(b"zero\none\n")
    async with house.session.get(f"{house.base}/channels/lobby/logs?follow=1&tail=1") as response:
        assert await response.content.readline() == b"one\n"
        with channel.log_file.open("ab") as file:
            file.write(b"two\n")
        assert await response.content.readline() == b"two\n"
        channel.log_file.rename(channel.log_file.with_name(f"{channel.log_file.name}.1"))
        channel.log_file.write_bytes(b"three\n")
        assert await response.content.readline() == b"three\n"
        with channel.log_file.open("ab") as file:
            file.write(b"last words\n")
        await house.post("/stop", {"channel_name": "lobby"})
        assert await response.content.read() == b"last words\n"


async def test_followers_end_when_a_new_channel_has_the_name(house: Any) -> None:
    await house.start()
    async with house.session.get(f"{house.base}/channels/lobby/logs?follow=1") as response:
        await house.post("/stop", {"channel_name": "lobby"})
        await house.start()
        assert await response.content.read() == b""


async def test_followers_do_not_hold_up_the_shutdown(house: Any) -> None:
    channel = await house.start()
    channel.log_file.write_bytes(b"one\n")
    async with house.session.get(f"{house.base}/channels/lobby/logs?follow=1") as response:
        assert await response.content.readline() == b"one\n"
        await house.runner.cleanup()
        assert await response.content.read() == b""


async def test_a_follower_that_hangs_up_is_noticed(house: Any) -> None:
    await house.start()
    before = len(asyncio.all_tasks())
    async with house.session.get(f"{house.base}/channels/lobby/logs?follow=1"):
        assert len(asyncio.all_tasks()) > before
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)


async def test_a_log_on_stdout(build: Any) -> None:
    house = await build(log_stdout=True)
    await house.start()
    answer = await house.get("/channels/lobby/logs")
    assert (answer.status, answer.body["error"]["cause"]) == (404, "not_found")
    assert "LOG_STDOUT" in answer.body["error"]["detail"]


async def test_a_stream_that_fails_breaks_off(house: Any) -> None:
    channel = await house.start()
    channel.log_file.mkdir()
    with capture_logs() as logs, pytest.raises(ClientPayloadError):
        await house.get("/channels/lobby/logs")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["http.failed"]


async def test_a_reader_that_takes_nothing_is_dropped(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.http.streams.STALL_SECONDS", 0.05)
    channel = await house.start()
    with channel.log_file.open("wb") as file:
        file.truncate(1 << 30)  # more than any socket buffer takes
    before = len(asyncio.all_tasks())
    _, writer = await asyncio.open_connection("127.0.0.1", house.port, limit=1)
    writer.write(b"GET /channels/lobby/logs HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with capture_logs() as logs:
        async with asyncio.timeout(20):
            while not logs:
                await asyncio.sleep(0.01)
    assert next(line["event"] for line in logs) == "http.disconnected"
    writer.transport.abort()
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)
