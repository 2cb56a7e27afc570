"""An agent that does what the question's context tells it, step by step: the script of a test."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

from worker.agent import Agent, Final, Source, Structured, Text, Thought, ToolCall, ToolResult, Turn, Usage, tool


@tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def fail(reason: str) -> str:
    """Fail."""
    raise RuntimeError(reason)


class Talker(Agent):
    """``context["script"]`` is a list of steps ``[verb, value]``."""

    tools = (add, fail)

    async def chat(self, turn: Turn) -> AsyncIterator[Any]:
        for verb, value in turn.context.get("script", [["say", turn.question]]):
            async for event in getattr(self, f"_{verb}")(turn, value):
                yield event

    async def invoke(self, turn: Turn) -> AsyncIterator[Any]:
        for verb, value in turn.context.get("script", [["final", turn.input]]):
            async for event in getattr(self, f"_{verb}")(turn, value):
                yield event

    async def _say(self, _turn: Turn, text: str) -> AsyncIterator[Any]:
        yield text

    async def _count(self, _turn: Turn, most: int) -> AsyncIterator[Any]:
        for number in range(most):
            yield f"{number} "

    async def _pieces(self, _turn: Turn, value: list[Any]) -> AsyncIterator[Any]:
        for piece in value:
            yield Text(piece)

    async def _endless(self, _turn: Turn, size: int) -> AsyncIterator[Any]:
        piece = "x" * size
        while True:
            yield piece

    async def _paced(self, _turn: Turn, value: list[float]) -> AsyncIterator[Any]:
        most, seconds = value
        for number in range(int(most)):
            yield f"{number} "
            await asyncio.sleep(seconds)

    async def _think(self, _turn: Turn, text: str) -> AsyncIterator[Any]:
        yield Thought(text)

    async def _call(self, turn: Turn, arguments: dict[str, Any]) -> AsyncIterator[Any]:
        yield f"{await turn.call(add, **arguments)}"

    async def _part(self, turn: Turn, count: int) -> AsyncIterator[Any]:
        """The first one or two events of a call, which goes on for ever then."""
        yield ToolCall("c", "add", {"a": 1, "b": 2})
        if count > 1:
            yield ToolResult("c", "add", 3)

    async def _source(self, _turn: Turn, fields: dict[str, str]) -> AsyncIterator[Any]:
        yield Source(**fields)

    async def _structured(self, _turn: Turn, value: Any) -> AsyncIterator[Any]:
        yield Structured(value)

    async def _usage(self, _turn: Turn, value: list[int]) -> AsyncIterator[Any]:
        yield Usage(input_tokens=value[0], output_tokens=value[1])

    async def _final(self, _turn: Turn, value: Any) -> AsyncIterator[Any]:
        yield Final(value)

    async def _huge(self, _turn: Turn, bits: int) -> AsyncIterator[Any]:
        yield Final(2**bits)

    async def _yield(self, _turn: Turn, value: Any) -> AsyncIterator[Any]:
        yield value

    async def _raise(self, _turn: Turn, text: str) -> AsyncIterator[Any]:
        if text:
            raise ValueError(text)
        yield ""

    async def _numbered(self, _turn: Turn, value: list[int]) -> AsyncIterator[Any]:
        """So many pieces, of so many characters, each with its number."""
        most, size = value
        for number in range(most):
            yield f"{number} ".ljust(size, ".")

    async def _write(self, turn: Turn, value: list[Any]) -> AsyncIterator[Any]:
        """Write straight into the pipe, past all that agentd does: a line so many times, with numbers from 10^9 on."""
        line, times = value
        pipe = os.open("up", os.O_WRONLY)

        def write() -> None:
            for number in range(times):
                data = line.replace("NUMBER", str(10**9 + number)).replace("TURN", turn.id).encode() + b"\n"
                while data:
                    data = data[os.write(pipe, data) :]

        os.set_blocking(pipe, True)
        try:
            await asyncio.to_thread(write)
        finally:
            os.close(pipe)
        yield "written"

    async def _wait(self, _turn: Turn, _: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield ""

    async def _deaf(self, _turn: Turn, _: Any) -> AsyncIterator[Any]:
        """Go on although it is cancelled."""
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        yield ""

    async def _block(self, _turn: Turn, seconds: float) -> AsyncIterator[Any]:
        time.sleep(seconds)
        yield "blocked"

    async def _die(self, _turn: Turn, how: str) -> AsyncIterator[Any]:
        if how == "exit":
            os._exit(7)
        os.kill(os.getpid(), signal.SIGKILL)
        yield ""

    async def _hoard(self, _turn: Turn, _: Any) -> AsyncIterator[Any]:
        """Take memory without an end."""
        kept = []
        while True:
            kept.append(bytes(1) * (1024 * 1024))
            yield ""

    async def _pid(self, _turn: Turn, _: Any) -> AsyncIterator[Any]:
        yield f"{os.getpid()}"

    async def _remember(self, turn: Turn, value: dict[str, Any]) -> AsyncIterator[Any]:
        turn.state.update(value)
        yield "remembered"

    async def _recall(self, turn: Turn, key: str) -> AsyncIterator[Any]:
        yield f"{turn.state.get(key)}"

    async def _history(self, turn: Turn, _: Any) -> AsyncIterator[Any]:
        yield " | ".join(f"{message['role']}: {message['content']}" for message in turn.history)

    async def _request(self, turn: Turn, _: Any) -> AsyncIterator[Any]:
        yield Structured(
            {
                "question": turn.question,
                "messages": turn.messages,
                "instructions": turn.instructions,
                "options": turn.options,
                "session": turn.session,
                "user": turn.user,
                "attachments": len(turn.attachments),
            }
        )


class Mute(Agent):
    """Answers invokes only."""

    async def invoke(self, turn: Turn) -> Any:
        return turn.input
