"""A first request, in the zygote, to a server of its own on loopback.

What the client's library makes when it is first used, 10 MB in a tenth of a second, is then there for all workers.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import orjson
import structlog

from worker.addons.openai_client import ModelClient
from worker.addons.openai_errors import ModelError
from worker.addons.openai_settings import ChatProperties
from worker.addons.openai_tls import tls_context
from worker.agent import Text, Thought

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

T = TypeVar("T")

SECONDS: Final = 5.0
CALL: Final = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USAGE: Final = {
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "total_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
CHOICES: Final = (
    {"index": 0, "delta": {"role": "assistant", "content": "a"}, "logprobs": None, "finish_reason": None},
    {"index": 0, "delta": {"tool_calls": [CALL]}, "logprobs": None, "finish_reason": "tool_calls"},
)
ENVELOPE: Final = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CHUNKS: Final = (
    *({**ENVELOPE, "choices": [choice]} for choice in CHOICES),
    {**ENVELOPE, "choices": [], "usage": USAGE},
)
RESPONSE: Final = b"".join(
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
        *(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in CHUNKS),
        b"data: [DONE]\n\n",
    ]
)


class Inline(ThreadPoolExecutor):
    """Runs in place what is to run in a thread: a zygote must have none, not even one that is just ending."""

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The result, in a future; raises what the function raises."""
        future: Future[T] = Future()
        future.set_result(function(*args, **kwargs))
        return future


def preload() -> None:
    """Import the library, read the certificates and rehearse a request, in the zygote; no thread, no loop is left."""
    tls_context()
    loop = asyncio.new_event_loop()
    loop.set_default_executor(Inline())
    try:
        loop.run_until_complete(_rehearse())
        loop.run_until_complete(loop.shutdown_asyncgens())
    except (ModelError, OSError) as error:  # the first turn of each worker is slower then, and nothing else
        log.warning("openai.rehearsal_failed", error=str(error))
    finally:
        loop.close()


async def _rehearse() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        properties = ChatProperties(base_url=f"http://127.0.0.1:{port}/v1", retries=0, request_timeout=SECONDS)
        client = ModelClient(properties, "rehearsal")
        messages = [{"role": "user", "content": "a"}]
        try:
            await client.ask({"model": "m", "messages": messages, "stream_options": {"include_usage": True}}, _hear)
        finally:
            await client.retire()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(RESPONSE)
    await writer.drain()
    writer.close()


async def _hear(_piece: Text | Thought) -> None:
    """Nobody is there."""
