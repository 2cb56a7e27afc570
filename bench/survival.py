"""The control server is killed under load: how soon the next one answers, and what its sessions and readers notice."""

import asyncio
import json
import re
import time
from typing import Final

from bench.figures import Figure, percentile
from bench.server import PATIENCE, BenchServer
from bench.streams import STREAM, request

RATE: Final = 20  # events a second of each channel
BEFORE: Final = 3  # seconds of streaming before the kill
AFTER: Final = 12
AT_ONCE: Final = 8  # turns that begin
POLL_SECONDS: Final = 0.1
ASK_SECONDS: Final = 0.005
LOOK: Final = b"GET /list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Follower:
    """Reads one turn to its end, over as many connections as it takes: it goes on behind the last event it has."""

    def __init__(self, server: BenchServer, channel: str, count: int) -> None:
        self.places: list[bytes] = []  # ids of the pieces of text
        self.gaps = 0
        self.ending = ""
        self.silence = 0.0  # the longest time between two events, seconds
        self._host, self._port = server.address.removeprefix("http://").split(":")
        self._channel = channel
        self._ask = request(f"/channels/{channel}/turns", count=count, rate=RATE)
        self._place = b""
        self._last = 0.0

    async def run(self) -> None:
        """Until the turn ends."""
        async with asyncio.timeout(PATIENCE):
            while not self.ending:
                try:
                    reader, writer = await asyncio.open_connection(self._host, int(self._port))
                except ConnectionError:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                try:
                    writer.write(self._ask)
                    await self._read(reader)
                except (ConnectionError, asyncio.IncompleteReadError):
                    await asyncio.sleep(POLL_SECONDS)
                finally:
                    writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{self._channel} was refused: {head!r}")
        while not self.ending:
            block = await reader.readuntil(b"\n\n")
            found = re.search(rb"(?:id: (\S+)\n)?event: (\w+)\ndata: (.*)\n\n", block)
            if found is not None:
                self._take(*found.groups())

    def _take(self, place: bytes, kind: bytes, data: bytes) -> None:
        now = time.perf_counter()
        if kind == b"text":
            if not self._place:
                turn = json.loads(data)["turn"]
                self._head = f"GET /channels/{self._channel}/events?turn={turn} HTTP/1.1\r\nHost: localhost\r\n"
            else:
                self.silence = max(self.silence, now - self._last)
            self._last = now
            self._place = place
            self._ask = f"{self._head}Last-Event-ID: {place.decode()}\r\n\r\n".encode()
            self.places.append(place)
        elif kind == b"gap":
            self.gaps += 1
        elif kind in (b"final", b"error"):
            self.ending = json.loads(data)["cause"]


async def _answers(server: BenchServer) -> float:
    """Wait until the control API lists its sessions; when that was."""
    host, port = server.address.removeprefix("http://").split(":")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                await asyncio.sleep(ASK_SECONDS)
                continue
            writer.write(LOOK)
            answer = await reader.read()
            writer.close()
            if answer.startswith(b"HTTP/1.1 200 "):
                return time.perf_counter()


async def survive(quick: bool) -> list[Figure]:
    """kill -9 of the server while its channels stream, and another one at once; readers resume by id.

    First below a standby, as the systemd unit has it; then without one, where what starts the next one starts it cold.
    """
    channels = 40 if quick else 200
    return [*await _survive(channels, "standby", "true"), *await _survive(channels, "cold", "false")]


async def _survive(channels: int, kind: str, standby: str) -> list[Figure]:
    count = RATE * (BEFORE + AFTER)
    async with BenchServer(graphs=[STREAM], WORKERS_MAX="300", AGENTD_STANDBY=standby) as server:
        for number in range(channels):
            await server.must("/start", channel_name=f"s{number}", graph_name="stream", timeout=-1)
        before = await _workers(server)
        followers = [Follower(server, f"s{number}", count) for number in range(channels)]
        async with asyncio.TaskGroup() as group:
            for number, follower in enumerate(followers):
                group.create_task(follower.run())
                async with asyncio.timeout(PATIENCE):
                    while not all(one.places for one in followers[: max(number + 1 - AT_ONCE, 0)]):
                        await asyncio.sleep(ASK_SECONDS)
            async with asyncio.timeout(PATIENCE):
                while not all(follower.places for follower in followers):
                    await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(BEFORE)
            began = await server.replace()
            took = await _answers(server) - began
            after = await _workers(server)
        stopped = [event for event in server.events if event["event"] == "channel.gone"]
    lost = sum(count - len(set(follower.places)) + follower.gaps for follower in followers)
    twice = sum(len(follower.places) - len(set(follower.places)) for follower in followers)
    on = sum(
        before[name] == after.get(name) and follower.ending == "completed"
        for name, follower in zip(before, followers, strict=True)
    )
    if stopped:
        raise RuntimeError(f"{len(stopped)} sessions ended: {stopped[0]}")
    return [
        Figure(f"kill -9 with {channels} channels, {kind}: answers again after", took, "s", at_most=1),
        Figure("  sessions that go on, their streams to the end", on, "", at_least=channels),
        Figure("  events lost for readers that resume", lost, "", at_most=0),
        Figure("  events that came twice", twice, "", at_most=0),
        Figure("  silence that a reader noticed, p50", percentile([f.silence for f in followers], 0.5), "s"),
        Figure("  silence that a reader noticed, longest", max(f.silence for f in followers), "s"),
    ]


async def _workers(server: BenchServer) -> dict[str, int]:
    """The process of each channel, in the order of their start."""
    async with server.session.get("/channels") as response:
        listed = (await response.json())["channels"]
    pids = {one["name"]: one["pid"] for one in listed}
    return dict(sorted(pids.items(), key=lambda item: int(item[0][1:])))


SCENARIOS: Final = {"survive": survive}
