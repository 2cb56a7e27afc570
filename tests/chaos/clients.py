"""Clients of a server that comes and goes: one reads a turn to its end, one starts and stops sessions, one pings."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.harness.talk import Stream, in_channel

LOST = (aiohttp.ClientError, ConnectionError, EOFError, TimeoutError, json.JSONDecodeError)
POLL_SECONDS = 0.05
ANSWER_SECONDS = 40.0


@dataclass
class Client:
    """What all clients of one house share: where it answers, and for how long they go on."""

    address: str
    session: aiohttp.ClientSession
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer's JSON with its ``status``; None when there is no answer, so that nobody knows what was done."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self.session.post(self.address + path, json=body) as response:
                return {"status": response.status, **await response.json()}
        except LOST:
            return None

    async def pause(self) -> None:
        """A moment, or less when it is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self.over.wait()


@dataclass
class Reader:
    """Asks a turn of numbered pieces and reads it to its end, resuming behind the last event it has got."""

    client: Client
    channel: str
    pieces: int
    pace: float
    texts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    ending: str = ""
    resumed: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    turn: str = ""
    place: str = ""

    async def run(self) -> None:
        """Until the turn ends, or its channel is no more."""
        try:
            await self._ask()
            while not self.ending:
                await self.client.pause()
                await self._resume()
        finally:
            self.begun.set()

    async def _ask(self) -> None:
        body = {**in_channel(["paced", [self.pieces, self.pace]]), "stream": True}
        url = f"{self.client.address}/channels/{self.channel}/turns"
        with contextlib.suppress(*LOST):
            async with self.client.session.post(url, json=body) as response:
                if response.status != 200:
                    self.ending = f"refused: {await response.text()}"
                    return
                await self._read(Stream(response))
        if not self.turn:
            self.ending = "never begun"

    async def _resume(self) -> None:
        self.resumed += 1
        url = f"{self.client.address}/channels/{self.channel}/events?turn={self.turn}"
        headers = {"Last-Event-ID": self.place} if self.place else {}
        with contextlib.suppress(*LOST):
            async with self.client.session.get(url, headers=headers) as response:
                if response.status == 200:
                    await self._read(Stream(response))
                    return
                answer = await response.json()
                self.ending = f"refused: {answer['error']['cause'] if 'error' in answer else answer}"

    async def _read(self, stream: Stream) -> None:
        while not self.ending:
            event = await stream.next()
            self.place = event["place"] or self.place
            match event["event"]:
                case "turn":
                    self.turn = event["turn"]
                case "text":
                    self.texts.append(event["text"])
                    self.begun.set()
                case "gap":
                    self.faults.append(f"a gap: {event}")
                case "final" | "error":
                    self.ending = event["cause"]
                    if event.get("lost"):
                        self.faults.append(f"events are lost: {event}")
                case "ended":
                    self.ending = f"ended: {event['cause']}"


@dataclass
class Churner:
    """Starts, pings and stops one channel, over and over."""

    client: Client
    channel: str
    graph: str
    accepted: int = 0
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def run(self) -> None:
        """Until it is over; what was begun may be left."""
        while not self.client.over.is_set():
            answer = await self._ask("/start", graph_name=self.graph)
            if answer is not None and answer["code"] == "0":
                self.accepted += 1
                await self._ask("/ping")
                await self._ask("/stop")
            await self.client.pause()

    async def _ask(self, path: str, **fields: Any) -> dict[str, Any] | None:
        answer = await self.client.post(path, {"channel_name": self.channel, **fields})
        if answer is not None:
            self.answers.append((path, answer))
        return answer


@dataclass
class Pinger:
    """Keeps the leases of channels."""

    client: Client
    channels: list[str]
    answers: int = 0

    async def run(self) -> None:
        """Until it is over."""
        while not self.client.over.is_set():
            for channel in self.channels:
                self.answers += await self.client.post("/ping", {"channel_name": channel}) is not None
            await self.client.pause()
