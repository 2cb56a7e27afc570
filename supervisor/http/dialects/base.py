"""The one handler of turns for every API: it does all the I/O, a translator says how things look (law 2)."""

from collections.abc import Mapping
from typing import Final, Protocol

from aiohttp import web

from supervisor.http.request_keys import note
from supervisor.http.sse import COMMENT, HEADERS, EventStream
from supervisor.http.streams import Streams
from supervisor.turns.requests import TurnRequest
from supervisor.turns.sessions import Sessions
from supervisor.turns.turn import Item, Turn, TurnEnding


class Translator(Protocol):
    """How one turn looks in one API. Pure: it may remember what it has translated of this turn."""

    headers: Mapping[str, str] = HEADERS
    keep_alive: bytes | None = COMMENT

    def opening(self, turn: Turn) -> list[bytes]:
        """The events a stream begins with, before the agent says anything."""

    def event(self, item: Item) -> bytes | None:
        """One event of the agent, or the ending; None: this API does not tell of it."""

    def body(self, turn: Turn, ending: TurnEnding) -> web.Response:
        """The whole answer to a request that does not stream."""


class TurnHandler:
    """Carries out turns for the APIs."""

    def __init__(self, sessions: Sessions, streams: Streams) -> None:
        self._sessions: Final = sessions
        self._streams: Final = streams

    async def handle(
        self, request: web.Request, wanted: TurnRequest, translator: Translator, *, stream: bool
    ) -> web.StreamResponse:
        """Begin a turn, and answer `request` with it. Raises Refusal as long as no head is sent.

        A client that goes away cancels its turn: aiohttp then cancels this call.
        """
        turn = self._sessions.begin(wanted)
        note(request, turn=turn.id)
        try:
            await turn.started()
            if not stream:
                return translator.body(turn, await turn.done())
            return await self._relay(request, turn, translator)
        finally:
            turn.leave()

    async def _relay(self, request: web.Request, turn: Turn, translator: Translator) -> web.StreamResponse:
        events = EventStream(request, self._streams, translator.headers, translator.keep_alive)
        try:
            await events.open()
            await events.send(translator.opening(turn))
            while not turn.over:
                items = turn.take()
                if items:
                    await events.send([event for item in items if (event := translator.event(item)) is not None])
                else:
                    await turn.wait()
            await events.close()
        finally:
            events.abandon()
        return events.response
