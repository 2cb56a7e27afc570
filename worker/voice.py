"""How a turn is heard outside: its events as frames, in order, up to the one that ends it."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from worker import events
from worker.events import Event, ResponseError, Text, Thought, as_fields
from worker.frames import MAX_FRAME, Frame, FrameError, Up
from worker.texts import MOST_ESCAPED, mend, split
from worker.turn import CHAT, Emit

MOST_HEAD: Final = 1024  # bytes of an event's frame without its text: its numbers, and a turn's id
MOST_TEXT: Final = MAX_FRAME - MOST_HEAD
SURE_TO_FIT: Final = MOST_TEXT // MOST_ESCAPED
STRETCH_EVENTS: Final = 32
STRETCH_SECONDS: Final = 0.001
_EVENT: Final = Up.EVENT.value  # a plain string is written faster than a member of an enumeration

Send = Callable[[Frame], Awaitable[int]]
Listen = Callable[[str], Awaitable[None]]


class Pace:
    """Lets the loop turn now and then while a handler talks that never waits by itself.

    Beats, a cancel and the written frames depend on it. Not for each event, which would cost more than the event: only
    when a millisecond has gone by, or after STRETCH_EVENTS.
    """

    __slots__ = ("_left", "_until")

    def __init__(self) -> None:
        self._left = STRETCH_EVENTS
        self._until = time.monotonic() + STRETCH_SECONDS

    @property
    def due(self) -> bool:
        """Whether the loop has to turn, now that one more event was sent."""
        self._left -= 1
        return self._left <= 0 or time.monotonic() >= self._until

    async def turn(self) -> None:
        """Let the loop turn once."""
        await asyncio.sleep(0)
        self._left = STRETCH_EVENTS
        self._until = time.monotonic() + STRETCH_SECONDS


class Voice:
    """Sends the events of one turn."""

    __slots__ = ("_listen", "_pace", "_send", "_silence", "turn")

    def __init__(self, turn: str, send: Send) -> None:
        self.turn = turn
        self._send = send
        self._listen: Listen | None = None
        self._pace = Pace()
        self._silence: Callable[[], BaseException] | None = None

    def silence(self, reason: Callable[[], BaseException]) -> None:
        """From now on `emit` raises what this makes."""
        self._silence = reason

    def listen(self, listen: Listen) -> None:
        """Let this hear each piece of the answer as well."""
        self._listen = listen

    async def emit(self, event: Event | str) -> None:
        """Send one event; waits while the window of unacknowledged frames is full.

        Raises ResponseError for what cannot be sent, and what `silence` was given.
        """
        if self._silence is not None:
            raise self._silence()
        if isinstance(event, str):
            await self._say("text", event)
        elif isinstance(event, Text | Thought):
            fields = as_fields(event)
            await self._say(fields["type"], fields["text"])
        else:
            await self._tell(event)
        if self._pace.due:
            await self._pace.turn()

    async def _say(self, kind: str, text: str) -> None:
        """Text is never refused: what is too long for a frame goes in pieces, and without its lone surrogates."""
        fits = len(text) <= SURE_TO_FIT
        if fits:
            try:
                await self._send({"t": _EVENT, "turn": self.turn, "type": kind, "text": text})
            except FrameError:  # a lone surrogate
                fits = False
        if not fits:
            text = mend(text)
            for piece in split(text, MOST_TEXT):
                await self._send({"t": _EVENT, "turn": self.turn, "type": kind, "text": piece})
        if self._listen is not None and kind == "text":
            await self._listen(text)

    async def _tell(self, event: Event) -> None:
        if isinstance(event, events.Final):
            raise ResponseError("Final ends a turn: yield it or return it, do not emit it")
        fields = as_fields(event)
        try:
            await self._send({"t": _EVENT, "turn": self.turn, **fields})
        except FrameError as error:
            raise ResponseError(f"{type(event).__name__}: {error}") from error


async def perform(verb: str, answer: Any, emit: Emit) -> events.Final | None:
    """See a handler's answer through: emit what it yields, or wait for what it returns; the value it ends with, if any.

    A string that a chat returns is its answer's text. Raises what the handler raises. What `emit` raises is raised in
    the handler, at its ``yield``; it may clean up then but not go on.
    """
    if isinstance(answer, Awaitable):
        answer = await answer
    if isinstance(answer, AsyncIterator):
        return await _stream(answer, emit)
    if answer is None or isinstance(answer, events.Final):
        return answer
    if verb == CHAT and isinstance(answer, str):
        await emit(answer)
        return None
    return events.Final(answer)


async def _stream(answer: AsyncIterator[Event | str], emit: Emit) -> events.Final | None:
    try:
        async for event in answer:
            if type(event) is events.Final:
                return event
            try:
                await emit(event)
            except GeneratorExit:
                raise
            except BaseException as error:
                if isinstance(answer, AsyncGenerator):
                    with suppress(StopAsyncIteration):
                        await answer.athrow(error)
                raise
    finally:
        if isinstance(answer, AsyncGenerator):
            await answer.aclose()
    return None
