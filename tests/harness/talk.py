"""Turns with a real server: the talker's script out, events in."""

import asyncio
import contextlib
import io
import json
import os
import socket
import sqlite3
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness.server import PATIENCE, Agentd
from worker.spawner.identity import read_stat

TALKER = {"name": "talker", "graph": {"nodes": [{"type": "extension", "name": "talker", "addon": "zoo_talker"}]}}
MUTE = {"name": "mute", "graph": {"nodes": [{"type": "extension", "name": "mute", "addon": "zoo_mute"}]}}

Event = dict[str, Any]
Script = list[list[Any]]


def body(*script: list[Any], graph: str = "talker", **more: Any) -> dict[str, Any]:
    """The body of POST /turns for a script."""
    return {"graph": graph, "message": "?", "context": {"script": list(script)}, **more}


def in_channel(*script: list[Any], **more: Any) -> dict[str, Any]:
    """The body of POST /channels/{name}/turns for a script."""
    return {"message": "?", "context": {"script": list(script)}, **more}


class Stream:
    """The events of one response, as they come."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.chunks: list[bytes] = []
        self._pending = b""

    async def next(self) -> Event:
        """The next event: its data, with its name as ``event`` and its id as ``place``."""
        async with asyncio.timeout(PATIENCE):
            while True:
                chunk, ended = await self.response.content.readchunk()
                self._pending += chunk
                if ended and self._pending:
                    self.chunks.append(self._pending)
                    block, self._pending = self._pending, b""
                    if not block.startswith(b":"):
                        return parse(block)
                elif not chunk and self.response.content.at_eof():
                    raise EOFError

    async def all(self) -> list[Event]:
        """Every event until the body ends."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(await self.next())
        return found

    async def until(self, kind: str) -> Event:
        """The first event of this name, waited for."""
        while True:
            event = await self.next()
            if event["event"] == kind:
                return event


def parse(block: bytes) -> Event:
    """One server-sent event: exactly one block, with the lines agentd sends."""
    assert block.endswith(b"\n\n"), block
    fields = dict(line.split(b": ", 1) for line in block[:-2].split(b"\n"))
    assert fields.keys() <= {b"id", b"event", b"data"}, block
    event: Event = json.loads(fields[b"data"])
    return {**event, "event": fields[b"event"].decode(), "place": fields.get(b"id", b"").decode()}


@contextlib.asynccontextmanager
async def stream(
    agentd: Agentd, request: dict[str, Any], path: str = "/turns", status: int = 200
) -> AsyncIterator[Stream]:
    """A turn that is streamed; leaving the block hangs up if it has not ended."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.post(
            agentd.address + path, data=io.BytesIO(json.dumps({**request, "stream": True}).encode())
        ) as response,
    ):
        assert response.status == status, await response.text()
        yield Stream(response)


async def ask(agentd: Agentd, *script: list[Any], **more: Any) -> dict[str, Any]:
    """A turn that is answered in one piece; its JSON with its status."""
    return await post(agentd, body(*script, **more))


async def post(agentd: Agentd, request: dict[str, Any], path: str = "/turns") -> dict[str, Any]:
    """Any turn that is answered in one piece."""
    return await agentd.request("POST", path, data=io.BytesIO(json.dumps(request).encode()))


async def events(agentd: Agentd, *script: list[Any], **more: Any) -> list[Event]:
    """All events of a turn that is streamed."""
    async with stream(agentd, body(*script, **more)) as answer:
        return await answer.all()


def text_of(found: list[Event]) -> str:
    """The answer in these events."""
    return "".join(event["text"] for event in found if event["event"] == "text")


class Client:
    """A client that reads only when it is told to: a socket with a small window, and no more between it and us."""

    def __init__(self, agentd: Agentd, window: int) -> None:
        host, port = agentd.address.removeprefix("http://").split(":")
        self._address = host, int(port)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.setblocking(False)
        self._rest = b""

    async def connect(self) -> "Client":
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_connect(self.socket, self._address)
        return self

    async def write(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def ask(self, request: dict[str, Any], path: str = "/turns", **more: Any) -> "Client":
        """Send a request for a stream of events, read nothing."""
        await self.write(request_bytes({**request, "stream": True, **more}, path))
        return self

    async def head(self) -> bytes:
        """The status line and the headers."""
        return await self._until(b"\r\n\r\n")

    async def event(self) -> Event | None:
        """The next event, each a chunk of its own; None after the last one."""
        while True:
            size = int(await self._until(b"\r\n"), 16)
            while len(self._rest) < size + 2:
                await self._read()
            block, self._rest = self._rest[:size], self._rest[size + 2 :]
            if not size:
                return None
            if not block.startswith(b":"):
                return parse(block)

    async def all(self) -> list[Event]:
        """Every event that is left."""
        found = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found

    async def until(self, kind: str) -> Event:
        """The first event of this name, waited for."""
        while True:
            event = await self.event()
            assert event is not None, f"the stream ended without {kind}"
            if event["event"] == kind:
                return event

    def vanish(self) -> None:
        """Be gone without a word: what is on its way is refused."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            await self._read()
        found, _, self._rest = self._rest.partition(mark)
        return found

    async def _read(self) -> None:
        async with asyncio.timeout(PATIENCE):
            data = await asyncio.get_running_loop().sock_recv(self.socket, 256 * 1024)
        if not data:
            raise EOFError
        self._rest += data


def request_bytes(request: dict[str, Any], path: str = "/turns") -> bytes:
    """A request as a client without a library writes it."""
    data = json.dumps(request).encode()
    return b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data


@contextlib.asynccontextmanager
async def client(agentd: Agentd, window: int = 4096) -> AsyncIterator[Client]:
    """One such client; leaving the block hangs up."""
    one = Client(agentd, window)
    try:
        yield await one.connect()
    finally:
        one.close()


def turn_rows(agentd: Agentd, store: Path | None = None) -> dict[str, dict[str, Any]]:
    """What the store has of each turn, by the turn's id."""
    return {row["id"]: row for row in rows(store or agentd.state_dir / "store.db", "turns")}


async def recorded(agentd: Agentd, turn: str) -> dict[str, Any]:
    """What the store has of a turn that has ended, waited for."""
    async with asyncio.timeout(PATIENCE):
        while (row := turn_rows(agentd).get(turn)) is None or row["ended_at"] is None:
            await asyncio.sleep(0.02)
    return row


def rows(store: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table of a store in SQLite, oldest first."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=PATIENCE)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY number")]


async def ended_life(agentd: Agentd, channel_id: str) -> dict[str, Any]:
    """The row of the ledger of a channel that has ended, waited for."""
    gone = await agentd.event("channel.gone", lambda event: event["id"] == channel_id)
    lives = (await agentd.get(f"/ledger?channel={gone['channel']}&open=false&limit=1000"))["lives"]
    [life] = [life for life in lives if life["id"] == channel_id]
    return life


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processor's time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def stalled(agentd: Agentd, *pids: int) -> None:
    """Wait until these workers do nothing but beat, and are not held up by their server: for a while all have slept.

    One that waits for a processor does nothing either, but does not sleep.
    """
    assert agentd.process is not None
    everyone = (agentd.process.pid, *pids)
    async with asyncio.timeout(PATIENCE):
        used, quiet = -1.0, 0
        while quiet < 4:
            await asyncio.sleep(0.1)
            before, used = used, sum(map(cpu_seconds, everyone))
            asleep = all(stat is not None and stat.state == "S" for stat in map(read_stat, everyone))
            quiet = quiet + 1 if asleep and used - before < 0.015 else 0


def resident_bytes(pid: int) -> int:
    """The memory a process has at present."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def faults(agentd: Agentd) -> list[Event]:
    """What the server's log calls an error, and what is no event at all."""
    return [event for event in agentd.events if event.get("level") in ("error", "critical") or event["event"] == "text"]
