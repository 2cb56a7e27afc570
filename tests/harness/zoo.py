"""One beast let loose in a server, beside a channel that must not notice."""

import asyncio
from typing import Any

from tests.harness.graphs import ECHO, Graph
from tests.harness.server import Agentd, Event
from tests.harness.witness import Witness

UNHARMED_SECONDS = 1.0  # what a ping or a stop of another channel may take meanwhile
PING_EVERY_SECONDS = 0.05

SETTINGS = {"WORKER_STOP_GRACE_SECONDS": "0.4", "WORKER_START_TIMEOUT_SECONDS": "10", "AGENTD_BEAT_SECONDS": "0.2"}


class Zoo:
    """A server with the channel ``bystander``, which is pinged all the time, and room for the channel ``beast``."""

    def __init__(self, agentd: Agentd, witness: Witness, containment: str) -> None:
        self.agentd = agentd
        self.witness = witness
        self._containment = containment
        self._over = asyncio.Event()
        self._pinging: asyncio.Task[int] | None = None

    async def open(self, *graphs: Graph, **settings: str) -> None:
        """Start the server with these graphs, and the bystander."""
        await self.agentd.start(
            graphs=[ECHO, *graphs], AGENTD_CONTAINMENT=self._containment, **{**SETTINGS, **settings}
        )
        await self.agentd.begin("bystander", timeout=-1)
        self._pinging = asyncio.create_task(self._ping(), name="bystander")

    async def start(self, name: str = "beast") -> dict[str, Any]:
        """POST /start of a beast, in a channel with the name of its graph; the answer."""
        return await self.agentd.post("/start", channel_name=name, graph_name=name)

    async def loose(self, name: str = "beast") -> None:
        """Start a beast, which must succeed."""
        await self.agentd.begin(name, name)

    async def stop(self, name: str = "beast") -> Event:
        """POST /stop of a beast, which must succeed and leave nothing alive; the event of its end."""
        answer = await self.agentd.end(name)
        assert answer["code"] == "0", answer
        return await self.ended(name)

    async def ended(self, name: str = "beast") -> Event:
        """The event of a beast's end, once nothing of it is left."""
        event = await self.agentd.gone(name)
        assert self.witness.alive() == [], f"these live on behind the receipt: {event}"
        assert not (self.agentd.state_dir / "ch" / event["id"]).exists()
        assert (await self.agentd.post("/ping", channel_name=name))["code"] == "10002"
        return event

    async def close(self) -> None:
        """The bystander has lived through it all, and is stopped as quickly as ever."""
        if self._pinging is None:
            return
        self._over.set()
        assert await self._pinging > 0
        async with asyncio.timeout(UNHARMED_SECONDS):
            answer = await self.agentd.end("bystander")
        assert answer["code"] == "0", answer
        assert (await self.agentd.gone("bystander"))["killed"] == 0
        assert await self.agentd.stop() == 0

    async def abort(self) -> None:
        """After a failure the pings end too."""
        self._over.set()
        if self._pinging is not None:
            await asyncio.wait([self._pinging])

    async def _ping(self) -> int:
        count = 0
        over = asyncio.create_task(self._over.wait(), name="the beast's end")
        try:
            while not over.done():
                async with asyncio.timeout(UNHARMED_SECONDS):
                    answer = await self.agentd.post("/ping", channel_name="bystander")
                assert answer["code"] == "0", answer
                count += 1
                await asyncio.wait([over], timeout=PING_EVERY_SECONDS)
        finally:
            over.cancel()
        return count
