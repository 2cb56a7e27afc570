"""The one handler of turns for every API: it does all the I/O, a translator says how things look (law 2)."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.principals import bound
from supervisor.http.rates import Rates
from supervisor.http.request_keys import PRINCIPAL, note
from supervisor.http.sse import COMMENT, NO_CACHE, EventStream, Pace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How an API streams.

    `patience` is how many seconds the head waits for the worker (None: until it was asked), and `first_seconds` how
    many it then waits for something to tell of what the agent says (None: until there is). A turn that fails before is
    answered by `Translator.body`, with a status of its own. `keep_alive` is said in silence; after `batch` events the
    reader's pace is looked at. `cache` is what caches are told, `pace` how fast events may leave (None: at any pace).
    """

    keep_alive: bytes = COMMENT
    patience: float | None = None
    first_seconds: float | None = 0.0
    batch: int = BATCH
    cache: str = NO_CACHE
    pace: Pace | None = None


class Translator(Protocol):
    """How one turn looks in one API. Pure: it may remember what it has translated of this turn."""

    manner: Manner

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
        self._rates: Final = Rates()

    def admit(self, request: web.Request, wanted: TurnRequest) -> TurnRequest:
        """The turn as who asks may have it, counted. Raises Refusal(GRAPH_UNKNOWN | KEY_LIMIT)."""
        wanted = bound(request, wanted)
        principal = request[PRINCIPAL]
        most = principal.bounds.turns_per_minute
        if most is not None and (seconds := self._rates.take(principal.account, most, time.monotonic())):
            text = f"key {principal.account} may ask {most} turns a minute"
            raise Refusal(Cause.KEY_LIMIT, text, retry_after=math.ceil(seconds))
        return wanted

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
        turn = self._sessions.begin(self.admit(request, wanted))
        note(request, turn=turn.id)
        try:
            await _ready(turn, translator.manner.patience if stream else None)
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
        first: list[bytes] = []
        if translator.manner.first_seconds != 0:
            first = await _first(turn, translator)
            if turn.over:  # before anything was told of it
                ending = await turn.ended_by()
                if not (first and ending.completed):
                    return translator.body(turn, ending)
        manner = translator.manner
        events = EventStream(request, self._streams, manner.keep_alive, cache=manner.cache, pace=manner.pace)
        batch = manner.batch
        try:
            await events.open()
            await events.send([*opening, *first])
            while not turn.over:
                items = turn.take()
                if (
                    turn.left and turn.over
                ):  # it goes on elsewhere: no end is told, and between two events it breaks off
                    raise ConnectionAbortedError("the server leaves the turn to its successor")
                if not items:
                    await turn.wait()
                for start in range(0, len(items), batch):
                    frames = translator.events(items[start : start + batch])
                    if keeper is not None:
                        await _keep(turn, keeper)
                    await events.send(frames)
            await events.close()
        finally:
            events.abandon()
        return events.response


async def _first(turn: Turn, translator: Translator) -> list[bytes]:
    """The first events that there are to tell, or all of a turn that is over with them; none: the time is up."""
    told: list[bytes] = []
    try:
        async with asyncio.timeout(translator.manner.first_seconds):
            while not told and not turn.over:
                if items := turn.take():
                    told += translator.events(items)
                else:
                    await turn.wait()
    except TimeoutError:
        pass
    return told


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
