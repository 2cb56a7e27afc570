"""The one handler of turns for every API: it does all the I/O, a translator says how things look (law 2)."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.request_keys import note
from supervisor.http.sse import COMMENT, HEADERS, EventStream
from supervisor.http.streams import Streams
from supervisor.turns.requests import TurnRequest
from supervisor.turns.sessions import Sessions
from supervisor.turns.turn import Item, Turn, TurnEnding

# A start takes milliseconds, and so does one that fails: within this time a refusal still has its own status. After
# it the head of the stream is sent, so that a slow start does not look like a server that hangs.
PATIENCE_SECONDS: Final = 0.25


# Events that are translated before the reader's pace is looked at: of small ones. It bounds what is written for a
# reader that takes nothing, and how long one stream holds up the others.
BATCH: Final = 512


class Translator(Protocol):
    """How one turn looks in one API. Pure: it may remember what it has translated of this turn."""

    headers: Mapping[str, str] = HEADERS
    keep_alive: bytes | None = COMMENT
    patience: float | None = None  # seconds a stream's head waits for the worker; None: until the worker was asked
    batch: int = BATCH

    def opening(self, turn: Turn) -> list[bytes]:
        """The events a stream begins with, before the agent says anything. Called once, before all else."""

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """What there is to tell of these events of the agent, or of the ending, which is the last of all."""

    def body(self, turn: Turn, ending: TurnEnding) -> web.Response:
        """The whole answer to a request that does not stream, after all events."""


class Keeper(Protocol):
    """Who keeps what a turn answers, for those who ask for it later."""

    def begun(self, turn: Turn) -> None:
        """The turn has a worker, or is told as a stream from now on."""

    async def over(self, turn: Turn) -> None:
        """The turn has ended and was translated whole; the reader does not know yet."""

    def left(self, turn: Turn) -> None:
        """The reader has gone; the turn ends by itself."""


class TurnHandler:
    """Carries out turns for the APIs."""

    def __init__(self, sessions: Sessions, streams: Streams) -> None:
        self._sessions: Final = sessions
        self._streams: Final = streams

    async def handle(
        self,
        request: web.Request,
        wanted: TurnRequest,
        translator: Translator,
        *,
        stream: bool,
        keeper: Keeper | None = None,
    ) -> web.StreamResponse:
        """Begin a turn, and answer `request` with it. Raises Refusal as long as no head is sent.

        A client that goes away cancels its turn: aiohttp then cancels this call.
        """
        turn = self._sessions.begin(wanted)
        note(request, turn=turn.id)
        try:
            await _ready(turn, translator.patience if stream else None)
            opening = translator.opening(turn)
            if keeper is not None:
                keeper.begun(turn)
            if stream:
                return await self._relay(request, turn, translator, opening, keeper)
            return translator.body(turn, await collect(turn, translator, keeper))
        finally:
            turn.leave()
            if keeper is not None:
                keeper.left(turn)

    async def _relay(
        self, request: web.Request, turn: Turn, translator: Translator, opening: list[bytes], keeper: Keeper | None
    ) -> web.StreamResponse:
        events = EventStream(request, self._streams, translator.headers, translator.keep_alive)
        try:
            await events.open()
            await events.send(opening)
            while not turn.over:
                items = turn.take()
                if not items:
                    await turn.wait()
                for start in range(0, len(items), translator.batch):
                    frames = translator.events(items[start : start + translator.batch])
                    if keeper is not None:
                        await _keep(turn, keeper)
                    await events.send(frames)
            await events.close()
        finally:
            events.abandon()
        return events.response


async def collect(turn: Turn, translator: Translator, keeper: Keeper | None) -> TurnEnding:
    """Let `translator` see a turn whole that nobody reads as a stream; how it ended."""
    while not turn.over:
        items = turn.take()
        if items:
            translator.events(items)
        else:
            await turn.wait()
    if keeper is not None:
        await keeper.over(turn)
    return await turn.ended_by()


async def _keep(turn: Turn, keeper: Keeper) -> None:
    if turn.over:
        await keeper.over(turn)


async def _ready(turn: Turn, patience: float | None) -> None:
    """Wait until the head of an answer may be sent. Raises Refusal."""
    if patience is None:
        await turn.started()
        return
    try:
        await turn.admitted()
        async with asyncio.timeout(patience):
            await turn.started()
    except TimeoutError:
        return
    except Refusal as refusal:
        if refusal.cause is not Cause.TURN_CANCELLED:  # that is an ending, and told as one
            raise
