"""TEN's API: sessions, listings and tokens (wire/ten.md sections 4 to 6, 8 and 9)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from supervisor import strict_json
from supervisor.agora import build_token
from supervisor.auth import Scope
from supervisor.causes import Cause, Refusal
from supervisor.channels.requests import StartRequest
from supervisor.http import bodies
from supervisor.http.addons import read_default_properties
from supervisor.http.intake import read_object
from supervisor.http.owned import OwnedTasks
from supervisor.http.principals import check_graph, found, may_ask, owner_of, require, shown_name, visible
from supervisor.http.replies import answer, ok
from supervisor.http.request_keys import MAX_NOTE, PRINCIPAL, REQUEST_ID, note

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.channels.table import ChannelTable
    from supervisor.settings import Settings


Interrupt = Callable[[web.Request, dict[str, Any]], Awaitable[web.Response]]


class ControlApi:
    """The handlers of TEN's API, without the vector documents."""

    def __init__(
        self,
        settings: "Settings",
        table: "ChannelTable",
        catalog: "GraphCatalog",
        owned: OwnedTasks,
        interrupt: Interrupt,
    ) -> None:
        """`interrupt` answers a stop that is AgentScope's."""
        self._settings = settings
        self._table = table
        self._catalog = catalog
        self._owned = owned
        self._interrupt = interrupt
        self._body_limit = settings.body_limit_bytes

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.post("/ping", self.ping),
            web.post("/start", self.start),
            web.post("/stop", self.stop),
            web.get("/list", self.list_running),
            web.get("/graphs", self.graphs),
            web.get("/dev-tmp/addons/default-properties", self.addon_defaults),
            web.get("/vector/document/preset/list", self.presets),
            web.post("/token/generate", self.token),
        ]

    async def ping(self, request: web.Request) -> web.Response:
        """``POST /ping``: the channel's lease begins anew. The hottest path: no log, no context, no disk."""
        body = await read_object(request, self._body_limit)
        name = bodies.require_channel(bodies.read_fields(body, bodies.CHANNEL))
        self._table.ping(found(request, self._table, name).name)
        return ok()

    async def start(self, request: web.Request) -> web.Response:
        """``POST /start``: answers when the worker is ready; a client that hangs up does not undo the start."""
        body = await read_object(request, self._body_limit, bodies.parse_start)
        values = bodies.read_fields(body, bodies.START)
        properties, limits = bodies.read_overrides(values), bodies.read_limits(values)
        name = bodies.require_channel(values)
        note(request, channel=name, client_request_id=values["request_id"])
        graph = values["graph_name"] or request[PRINCIPAL].graph or ""
        check_graph(request, graph)
        wanted = StartRequest(
            channel_name=name,
            graph_name=graph,
            user_uid=values["user_uid"],
            bot_uid=values["bot_uid"],
            timeout=values["timeout"],
            properties=properties,
            limits=limits,
            request_id=values["request_id"][:MAX_NOTE] or request[REQUEST_ID],
            user=request[PRINCIPAL].user,
            owner=owner_of(request),
        )
        await self._owned.finish(self._table.start(wanted))
        return ok()

    async def stop(self, request: web.Request) -> web.Response:
        """``POST /stop``: answers when nothing of the channel is left.

        AgentScope's interrupt has the same path and is told by its body (wire/agentscope.md section 10).
        """
        try:
            body = await read_object(request, self._body_limit)
        except Refusal:
            require(request, Scope.CONTROL)
            raise
        if body.get("channel_name") is None and body.get("session_id") is not None:
            require(request, Scope.TURNS)
            return await self._interrupt(request, body)
        require(request, Scope.CONTROL)
        values = bodies.read_fields(body, bodies.CHANNEL)
        name = bodies.require_channel(values)
        note(request, channel=name, client_request_id=values["request_id"])
        await self._owned.finish(self._table.stop(found(request, self._table, name).name))
        return ok()

    async def list_running(self, request: web.Request) -> web.Response:
        """``GET /list``: the running channels."""
        return answer(
            [
                {
                    "channelName": shown_name(request, channel.name),
                    "createTs": int(channel.created_at),
                    "graphName": channel.graph_name,
                    "pid": channel.pid,
                    "state": channel.state.value,
                }
                for channel in visible(request, self._table.running())
            ]
        )

    async def graphs(self, request: web.Request) -> web.Response:
        """``GET /graphs``: the predefined graphs in file order; `uuid` is what older UIs read."""
        return answer(
            [
                {"name": graph.name, "graph_id": graph.name, "uuid": graph.name, "auto_start": graph.auto_start}
                for graph in self._catalog.graphs()
                if may_ask(request, graph.name)
            ]
        )

    async def addon_defaults(self, _: web.Request) -> web.Response:
        """``GET /dev-tmp/addons/default-properties``."""
        return answer(await asyncio.to_thread(read_default_properties, self._settings.addons_dir))

    async def presets(self, _: web.Request) -> web.Response:
        """``GET /vector/document/preset/list``."""
        return answer(_parse_presets(self._settings.vector_document_preset_list))

    async def token(self, request: web.Request) -> web.Response:
        """``POST /token/generate``."""
        values = bodies.read_fields(await read_object(request, self._body_limit), bodies.TOKEN)
        name = bodies.require_channel(values)
        note(request, channel=name, client_request_id=values["request_id"])
        app_id = self._settings.agora_app_id or ""
        certificate = self._settings.agora_app_certificate
        token = build_token(app_id, certificate.get_secret_value() if certificate else "", name, values["uid"])
        return answer({"appId": app_id, "token": token, "channel_name": name, "uid": values["uid"]})


def _parse_presets(text: str) -> list[Any]:
    if not text.strip():
        return []
    try:
        presets = strict_json.parse(text.encode("utf-8", "surrogateescape"))
    except strict_json.JsonError as error:
        raise Refusal(Cause.PRESETS_INVALID, f"VECTOR_DOCUMENT_PRESET_LIST is not JSON: {error}") from error
    if not isinstance(presets, list):
        raise Refusal(Cause.PRESETS_INVALID)
    return presets
