"""What is asked of a server that went on with the channels of another one."""

import asyncio
from typing import Any

import aiohttp

from tests.harness.server import PATIENCE, Agentd
from tests.harness.talk import Stream


async def pids(agentd: Agentd) -> dict[str, int]:
    """The process of each channel."""
    return {one["name"]: one["pid"] for one in (await agentd.get("/channels"))["channels"]}


async def rows(agentd: Agentd, **wanted: Any) -> list[dict[str, Any]]:
    """The ledger, newest first."""
    query = "&".join(f"{name}={value}" for name, value in wanted.items())
    found: list[dict[str, Any]] = (await agentd.get(f"/ledger?{query}"))["lives"]
    return found


async def claimed(agentd: Agentd, channel: str) -> None:
    """Return when a channel's start is in the ledger, which is written a little later."""
    async with asyncio.timeout(PATIENCE):
        while not await rows(agentd, channel=channel):
            await asyncio.sleep(0.02)


async def ending(agentd: Agentd, channel: str) -> dict[str, Any]:
    """What the ledger says of a channel's last life, once it says that it has ended."""
    async with asyncio.timeout(PATIENCE):
        while (row := (await rows(agentd, channel=channel))[0])["ended_at"] is None:
            await asyncio.sleep(0.02)
    return row


async def follow(agentd: Agentd, channel: str, after: str, **query: str) -> list[dict[str, Any]]:
    """The events of a channel behind one that is known, up to the end of the stream."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{agentd.address}/channels/{channel}/events", headers={"Last-Event-ID": after}, params=query
        ) as response,
    ):
        assert response.status == 200, await response.text()
        return await Stream(response).all()
