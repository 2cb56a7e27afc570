"""Drain by HTTP: begin it, look who holds it up, undo it (docs/drain.md)."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

from aiohttp import web
from pydantic import Field

from supervisor.causes import Cause, Refusal
from supervisor.http.queries import Query, Seconds, read_query
from supervisor.http.replies import native
from supervisor.http.request_keys import PRINCIPAL
from supervisor.http.streams import Streams

if TYPE_CHECKING:
    from supervisor.channels.channel import Channel
    from supervisor.turns.drain import Drain
    from supervisor.turns.sessions import Sessions

MOST_SECONDS: Final = 365 * 86_400
MOST_WAIT: Final = 60.0  # seconds; proxies give an answer up that takes much longer to begin


class DrainQuery(Query):
    """How the server is drained."""

    deadline: Annotated[Seconds, Field(ge=0, le=MOST_SECONDS)] | None = Field(
        None, description="seconds after which the rest is stopped; none: never"
    )


class WaitQuery(Query):
    """When to answer."""

    wait: Annotated[Seconds, Field(ge=0, le=MOST_WAIT)] = Field(
        0.0, description="seconds to wait for the end of the drain before answering how it is"
    )


class DrainApi:
    """The handlers of the drain."""

    def __init__(self, drain: "Drain", sessions: "Sessions", streams: Streams) -> None:
        self._drain = drain
        self._sessions = sessions
        self._streams = streams

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.get("/drain", self.show), web.post("/drain", self.begin), web.delete("/drain", self.undo)]

    async def show(self, request: web.Request) -> web.Response:
        """``GET /drain``: how far it is, and who is still there; with `wait` not before it is over, if that is soon."""
        _check(request)
        await self._streams.pause(self._drain.over(), read_query(WaitQuery, request).wait)
        return self._answer()

    async def begin(self, request: web.Request) -> web.Response:
        """``POST /drain``: from now on no channel begins."""
        _check(request)
        await self._drain.begin(read_query(DrainQuery, request).deadline)
        return self._answer()

    async def undo(self, request: web.Request) -> web.Response:
        """``DELETE /drain``: channels begin again."""
        _check(request)
        await self._drain.undo()
        return self._answer()

    def _answer(self) -> web.Response:
        drain = self._drain
        monotonic, wall = time.monotonic(), time.time()
        return native(
            {
                "draining": drain.is_on,
                "since": drain.since,
                "time_left_seconds": drain.time_left,
                "cut": drain.cut,
                "channels": [self._holder(channel, monotonic, wall) for channel in drain.holders],
            }
        )

    def _holder(self, channel: "Channel", monotonic: float, wall: float) -> dict[str, Any]:
        last = channel.lease.last_ping
        return {
            "name": channel.name,
            "id": channel.id,
            "graph": channel.graph_name,
            "state": channel.state.value,
            "age_seconds": max(0.0, wall - channel.created_at),
            "last_ping_seconds": None if last is None else monotonic - last,
            "time_left_seconds": channel.lease.remaining(monotonic),
            "turns": self._sessions.turns_in(channel.name),
        }


def _check(request: web.Request) -> None:
    """Everybody's channels are concerned: nothing for a key that is bound to a user or a graph."""
    principal = request[PRINCIPAL]
    if principal.user or principal.graph is not None:
        text = f"key {principal.name} is bound to a user or a graph; a drain concerns all of them"
        raise Refusal(Cause.SCOPE_MISSING, text)
