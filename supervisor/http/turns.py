"""agentd's own API of turns: ask a channel, or a session whose worker is started on demand; cancel."""

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.channels import CHANNEL
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.dialects.native import Native, SessionTurnBody, TurnBody
from supervisor.http.faults import checked
from supervisor.http.intake import read_body
from supervisor.http.principals import owns_turn, shown_name
from supervisor.http.replies import native
from supervisor.http.request_keys import note

if TYPE_CHECKING:
    from supervisor.settings import Settings
    from supervisor.turns.requests import TurnRequest
    from supervisor.turns.sessions import Sessions

Body = TypeVar("Body", bound=TurnBody)

TURN: Final = "{turn:[^/]+}"
MESSAGES: Final = ("messages", "history")
ENTRIES: Final = MappingProxyType({"properties": 1024})  # more nodes than a graph has


class TurnsApi:
    """The handlers of turns."""

    def __init__(self, settings: "Settings", sessions: "Sessions", handler: TurnHandler) -> None:
        self._sessions = sessions
        self._handler = handler
        self._body_limit = settings.body_limit_bytes

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.post("/turns", self.ask_session),
            web.post(f"{CHANNEL}/turns", self.ask_channel),
            web.delete(f"{CHANNEL}/turns/{TURN}", self.cancel),
        ]

    async def ask_session(self, request: web.Request) -> web.StreamResponse:
        """``POST /turns``: a turn in a session, or in a worker of its own."""
        wanted, stream = await read_body(request, self._body_limit, _in_session)
        return await self._handler.handle(request, wanted, Native(), stream=stream)

    async def ask_channel(self, request: web.Request) -> web.StreamResponse:
        """``POST /channels/{name}/turns``: a turn in a channel that runs."""
        name = request.match_info["name"]
        note(request, channel=name)
        wanted, stream = await read_body(request, self._body_limit, partial(_in_channel, name))
        return await self._handler.handle(request, wanted, Native(), stream=stream)

    async def cancel(self, request: web.Request) -> web.Response:
        """``DELETE /channels/{name}/turns/{turn}``: answers when the turn has ended."""
        name, turn_id = request.match_info["name"], request.match_info["turn"]
        note(request, channel=name, turn=turn_id)
        turn = self._sessions.find(turn_id)
        channel = None if turn is None else turn.channel
        here = channel is None or shown_name(request, channel.name) == name
        if turn is None or not here or not owns_turn(request, turn):
            raise Refusal(Cause.TURN_UNKNOWN, f"no turn {turn_id!r} waits or runs in channel {name!r}")
        turn.cancel(Cause.TURN_CANCELLED)
        ending = await turn.ended_by()
        note(request, cause=ending.cause.value)
        return native({"turn": turn_id, "channel": name, "cause": ending.cause.value, "ms": ending.ms})


def _in_session(given: dict[str, Any]) -> "tuple[TurnRequest, bool]":
    """The turn, and whether it is to be streamed."""
    body = _checked(SessionTurnBody, given)
    wanted = body.request(graph=body.graph, user=body.user, session=body.session, properties=body.properties)
    return wanted, body.stream


def _in_channel(name: str, given: dict[str, Any]) -> "tuple[TurnRequest, bool]":
    body = _checked(TurnBody, given)
    return body.request(channel=name), body.stream


def _checked(model: type[Body], given: dict[str, Any]) -> Body:
    return checked(model, given, messages=MESSAGES, entries=ENTRIES)
