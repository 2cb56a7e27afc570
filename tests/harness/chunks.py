"""Streams of published APIs as they come, chunk by chunk, from a real server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from tests.harness.server import PATIENCE, Agentd


class Chunks:
    """The body of a response."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.chunks: list[bytes] = []

    async def next(self) -> bytes:
        """The next chunk, comments too; empty at the end."""
        async with asyncio.timeout(PATIENCE):
            chunk = b""
            while True:
                data, ended = await self.response.content.readchunk()
                chunk += data
                if ended and chunk:
                    self.chunks.append(chunk)
                    return chunk
                if not data and not ended:
                    return b""

    async def rest(self) -> list[bytes]:
        """All chunks, read to the end."""
        while await self.next():
            pass
        return self.chunks


@contextlib.asynccontextmanager
async def asked(agentd: Agentd, path: str, body: dict[str, Any], **headers: str) -> AsyncIterator[Chunks]:
    """A request that is answered as a stream; leaving the block hangs up if it has not ended."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.post(agentd.address + path, json=body, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-cache"
        assert "Content-Length" not in response.headers
        yield Chunks(response)
