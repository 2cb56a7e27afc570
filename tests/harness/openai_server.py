"""A chat completions server on loopback: the protocol as OpenAI speaks it and, on demand, all that goes wrong."""

import asyncio
import contextlib
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]
KNOWN = frozenset(
    {"model", "messages", "stream", "stream_options", "temperature", "top_p", "frequency_penalty", "presence_penalty"}
    | {"max_tokens", "max_completion_tokens", "stop", "seed", "response_format", "reasoning_effort", "tools"}
    | {"tool_choice", "parallel_tool_calls"}
)


class Exchange:
    """One request and the ways to answer it."""

    def __init__(self, request: web.Request, body: Json) -> None:
        self.request = request
        self.body = body
        self.at = time.monotonic()
        assert request.transport is not None
        self.peer = request.transport.get_extra_info("peername")  # which connection it came by
        self.gone = asyncio.Event()  # the client hung up before the answer was over
        self.over = asyncio.Event()
        self.response: web.StreamResponse | None = None

    @property
    def messages(self) -> list[Json]:
        return list(self.body["messages"])

    async def begin(self, kind: str = "text/event-stream; charset=utf-8") -> None:
        """Send the head of the response."""
        self.response = web.StreamResponse(headers={"Content-Type": kind, "x-request-id": "req_1"})
        await self.response.prepare(self.request)

    async def raw(self, data: bytes) -> None:
        if self.response is None:
            await self.begin()
        assert self.response is not None
        await self.response.write(data)

    async def data(self, data: Any) -> None:
        """One event of the stream."""
        await self.raw(b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n")

    def envelope(self, **fields: Any) -> Json:
        usage = {"usage": None} if self.body.get("stream_options", {}).get("include_usage") else {}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": f"{self.body['model']}-2024",
            "system_fingerprint": "fp_1",
            **usage,
            **fields,
        }

    async def delta(self, finish: str | None = None, **delta: Any) -> None:
        """One chunk with one choice."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        await self.data(self.envelope(choices=[choice]))

    async def role(self) -> None:
        await self.delta(role="assistant", content="", refusal=None)

    async def done(self, finish: str = "stop") -> None:
        """The last chunks: why it ended, the usage if it was asked for, and the end."""
        await self.delta(finish)
        if self.body.get("stream_options", {}).get("include_usage"):
            usage = {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 1},
            }
            await self.data(self.envelope(choices=[], usage=usage))
        await self.data(b"[DONE]")

    def cut(self) -> None:
        """Cut the connection."""
        assert self.request.transport is not None
        self.request.transport.abort()


Reply = Callable[[Exchange], Awaitable[web.StreamResponse | None]]


def words(*texts: str, finish: str = "stop") -> Reply:
    """An answer in these pieces."""

    async def reply(exchange: Exchange) -> None:
        await exchange.role()
        for text in texts:
            await exchange.delta(content=text)
        await exchange.done(finish)

    return reply


def calls(*wanted: tuple[str, str], said: str = "", pieces: int = 3, ids: bool = True) -> Reply:
    """Tool calls, each a name and its arguments as JSON, that arrive in pieces and mixed up."""

    async def reply(exchange: Exchange) -> None:
        await exchange.role()
        if said:
            await exchange.delta(content=said)
        number = len(exchange.messages)
        for index, (name, _) in enumerate(wanted):
            known = {"id": f"call_{number}_{index}"} if ids else {}
            function = {"name": name, "arguments": ""}
            await exchange.delta(tool_calls=[{"index": index, **known, "type": "function", "function": function}])
        for piece in range(pieces):
            for index, (_, arguments) in enumerate(wanted):
                size = -(-len(arguments) // pieces)
                text = arguments[piece * size : (piece + 1) * size]
                await exchange.delta(tool_calls=[{"index": index, "function": {"arguments": text}}])
        await exchange.done("tool_calls")

    return reply


def deltas(*given: Json, finish: str = "stop") -> Reply:
    """Chunks with exactly these deltas."""

    async def reply(exchange: Exchange) -> None:
        for delta in given:
            await exchange.delta(**delta)
        await exchange.done(finish)

    return reply


def events(*given: Any) -> Reply:
    """A stream of exactly these events, JSON or bytes, and a clean end."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        for data in given:
            await exchange.data(data)

    return reply


def bytewise(*texts: str) -> Reply:
    """An answer of which each byte is a write of its own."""

    async def reply(exchange: Exchange) -> None:
        await exchange.role()
        for text in texts:
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            line = json.dumps(exchange.envelope(choices=[choice]), ensure_ascii=False).encode()
            for byte in b"data: " + line + b"\r\n\r\n":
                await exchange.raw(bytes([byte]))
        await exchange.done()

    return reply


def cut(*texts: str, head: bool = True) -> Reply:
    """These pieces, then the connection is cut; without head before any of the response."""

    async def reply(exchange: Exchange) -> None:
        if head:
            await exchange.role()
        for text in texts:
            await exchange.delta(content=text)
        exchange.cut()

    return reply


def silent(*texts: str, head: bool = True) -> Reply:
    """These pieces, then nothing for ever."""

    async def reply(exchange: Exchange) -> None:
        if head:
            await exchange.role()
        for text in texts:
            await exchange.delta(content=text)
        await asyncio.Event().wait()

    return reply


def slow(gate: asyncio.Event, *texts: str) -> Reply:
    """An answer whose first token comes when the gate opens."""

    async def reply(exchange: Exchange) -> None:
        await exchange.role()
        await gate.wait()
        await words(*texts)(exchange)

    return reply


def whole(body: str, kind: str) -> Reply:
    """A response of another content type."""

    async def reply(exchange: Exchange) -> web.StreamResponse:
        return web.Response(text=body, content_type=kind)

    return reply


def status(code: int, message: str = "", *, error: Json | None = None, **headers: str) -> Reply:
    """An error as OpenAI tells it."""

    async def reply(exchange: Exchange) -> web.StreamResponse:
        body = {"error": {"message": message, "type": "error", "param": None, "code": None, **(error or {})}}
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=code, headers=names)

    return reply


class OpenAIServer:
    """The server: answers with the replies that were queued, in order, then with `default`.

    With a `key` it takes nobody without it and echoes what it was given, as OpenAI does. A request that OpenAI would
    not take is refused as it would: unknown parameters, tools' answers that answer nothing, calls without an answer.
    """

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.default: Reply = words("Hello", " there", ".")
        self.replies: deque[Reply] = deque()
        self.exchanges: list[Exchange] = []
        self.refused: frozenset[str] = frozenset()  # parameters it does not know
        self.port = 0
        self._scheme = "http"
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"{self._scheme}://127.0.0.1:{self.port}/v1"

    @property
    def bodies(self) -> list[Json]:
        """What was asked, in order."""
        return [exchange.body for exchange in self.exchanges]

    def will(self, *replies: Reply) -> None:
        """Answer the next requests with these."""
        self.replies.extend(replies)

    async def exchange(self, number: int) -> Exchange:
        """The request of this number, from 0, waited for."""
        async with self._changed, asyncio.timeout(30):
            await self._changed.wait_for(lambda: len(self.exchanges) > number)
        return self.exchanges[number]

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        """Serve on a free port."""
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_post("/{path:.*}", self._handle)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            self._scheme = "https" if tls else "http"
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(request, await request.json())
        async with self._changed:
            self.exchanges.append(exchange)
            self._changed.notify_all()
        try:
            refusal = self._refusal(exchange)
            reply = refusal or (self.replies.popleft() if self.replies else self.default)
            response = await reply(exchange) or exchange.response
            assert response is not None
        except (asyncio.CancelledError, ConnectionResetError):
            exchange.gone.set()
            raise
        finally:
            exchange.over.set()
        return response

    def _refusal(self, exchange: Exchange) -> Reply | None:
        given = exchange.request.headers.get("Authorization", "")
        if self.key and given != f"Bearer {self.key}":
            key = given.removeprefix("Bearer ")
            masked = f"{key[:8]}{'*' * 12}{key[-4:]}"
            return status(401, f"Incorrect API key provided: {masked} ({key}).", error={"code": "invalid_api_key"})
        if not exchange.request.path.endswith("/chat/completions"):
            return status(404, f"Invalid URL (POST {exchange.request.path})")
        for name in exchange.body:
            if name not in KNOWN or name in self.refused:
                return status(400, f"Unrecognized request argument supplied: {name}", error={"param": name})
        if problem := mismatch(exchange.messages):
            return status(400, problem, error={"param": "messages"})
        return None


def mismatch(messages: list[Json]) -> str:
    """What OpenAI says of messages whose tool calls and answers do not fit; empty when they do."""
    if not messages:
        return "[] is too short - 'messages'"
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                return (
                    f"messages with role 'tool' must be a response to a preceding message with 'tool_calls' ({index})"
                )
            waiting.discard(message["tool_call_id"])
        elif waiting:
            return f"these tool_call_ids did not have response messages: {sorted(waiting)} ({index})"
        waiting |= {call["id"] for call in message.get("tool_calls", ())}
    return f"these tool_call_ids did not have response messages: {sorted(waiting)}" if waiting else ""
