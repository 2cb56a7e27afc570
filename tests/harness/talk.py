"""Turns with a real server: the talker's script out, events in."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.harness.server import PATIENCE, Agentd

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
