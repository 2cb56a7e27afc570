"""Huawei Cloud's agent call: one question in a conversation, answered as a stream."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.dialects.huawei import Huawei
from supervisor.http.dialects.huawei_request import check_stream, place_of, turn_request
from supervisor.http.intake import read_object
from supervisor.http.principals import may_ask

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.settings import Settings

# Both are published for the same call.
PATHS: Final = tuple(
    f"/v1/{{project}}{part}/agents/{{agent}}/conversations/{{conversation}}" for part in ("", "/agent-run")
)


class HuaweiApi:
    """The handler of the agent call. An agent is a graph; who may call is told by the door."""

    def __init__(self, settings: "Settings", catalog: "GraphCatalog", handler: TurnHandler) -> None:
        self._catalog = catalog
        self._handler = handler
        self._body_limit = settings.body_limit_bytes

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [web.post(path, self.ask) for path in PATHS]

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/{project}/agents/{agent}/conversations/{conversation}``: a turn, answered as a stream."""
        named = request.match_info
        place = place_of(named["project"], named["agent"], named["conversation"])
        options = self._catalog.options(place.agent) if may_ask(request, place.agent) else None
        if options is None or (options.handles is not None and "chat" not in options.handles):
            raise Refusal(Cause.GRAPH_UNKNOWN, f"there is no agent {place.agent!r}")
        check_stream(request.headers.get("stream"))
        wanted = turn_request(place, await read_object(request, self._body_limit))
        return await self._handler.handle(request, wanted, Huawei(wall_clock()), stream=True)


def wall_clock() -> Callable[[], int]:
    """A clock of the time of day in milliseconds of the epoch that never goes back, whoever sets the machine's."""
    offset = time.time_ns() - time.monotonic_ns()
    return lambda: (offset + time.monotonic_ns()) // 1_000_000
