"""A server on loopback that speaks the API of turns, as agentd does, as it is told to, well or badly."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.envelope import ROWS, native_failure
from tests.harness.caller import Caller

TOKEN = "t0ken"


class Exchange:
    """One turn as the server sees it."""

    def __init__(self, request: web.Request, body: Any, number: int) -> None:
        self.request = request
        self.body = body
        self.id = f"turn-{number}"
        self.cancelled = asyncio.Event()
        self.gone = asyncio.Event()  # the client hung up before the end
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})

    async def begin(self) -> None:
        await self.response.prepare(self.request)
        session = self.body["session"]
        await self.event("turn", turn=self.id, channel="the/channel", graph=self.body["graph"], session=session)

    async def raw(self, data: bytes) -> None:
        await self.response.write(data)

    async def event(self, kind: str, /, **data: Any) -> None:
        data = data if kind == "turn" else {"turn": self.id, "type": kind, **data}
        await self.raw(f"id: c:1\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())

    async def say(self, *texts: str) -> None:
        for text in texts:
            await self.event("text", text=text)

    async def final(self, **more: Any) -> None:
        await self.event("final", cause="completed", ms=1234.5, **more)

    async def fail(self, cause: str, message: str = "", **more: Any) -> None:
        await self.event("error", cause=cause, kind="", message=message, next_step="do this", ms=1.0, **more)

    def cut(self) -> None:
        assert self.request.transport is not None
        self.request.transport.abort()


Reply = Callable[[Exchange], Awaitable[web.StreamResponse | None]]


def says(*texts: str, **final: Any) -> Reply:
    """An answer in these pieces."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say(*texts)
        await exchange.final(**final)

    return reply


def refuses(cause: Cause, detail: str) -> Reply:
    """No turn at all."""

    async def reply(_: Exchange) -> web.Response:
        body = native_failure(Refusal(cause, detail))
        return web.Response(body=body, status=ROWS[cause].status, content_type="application/json")

    return reply


class Impostor(Caller):
    """The server: each turn is answered by the next of `replies`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, token=TOKEN)
        self.replies: deque[Reply] = deque()
        self.exchanges: list[Exchange] = []
        self.deleted: list[str] = []
        self.asked = asyncio.Event()
        self.deleting = asyncio.Event()
        self.deletes = True  # it answers who cancels

    async def open(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/turns", self.turn)
        app.router.add_delete("/channels/{channel}/turns/{turn}", self.delete)
        self.runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await self.runner.setup()
        await self.listen()

    async def listen(self, port: int = 0) -> None:
        self.site = web.TCPSite(self.runner, "127.0.0.1", port)
        await self.site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def stop_listening(self) -> None:
        await self.site.stop()

    async def turn(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return await refuses(Cause.UNAUTHORIZED, "no token")(None) or web.Response()
        exchange = Exchange(request, await request.json(), len(self.exchanges) + 1)
        self.exchanges.append(exchange)
        self.asked.set()
        try:
            answer = await self.replies.popleft()(exchange)
        except (asyncio.CancelledError, ConnectionError):
            exchange.gone.set()
            raise
        return exchange.response if answer is None else answer

    async def delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.path)
        self.deleting.set()
        if not self.deletes:
            await asyncio.Event().wait()
        for exchange in self.exchanges:
            if exchange.id == request.match_info["turn"]:
                exchange.cancelled.set()
        return web.json_response({"turn": request.match_info["turn"], "cause": "turn_cancelled"})
