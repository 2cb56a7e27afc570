"""Reminix's API: agents that are chatted with or invoked, and the list of them."""

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects import reminix_request
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.dialects.reminix import PLURAL, SINGULAR, Form, Reminix
from supervisor.http.dialects.reminix_errors import not_implemented
from supervisor.http.dialects.reminix_request import AGENT, Call
from supervisor.http.intake import read_body
from supervisor.http.principals import may_ask
from supervisor.http.replies import native as json_of

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.options import GraphOptions
    from supervisor.settings import Settings

Read = Callable[[dict[str, Any]], Call]

NAME: Final = "{agent:[^/]*}"
RUNTIME: Final = {"name": "agentd", "version": version("agentd"), "language": "python"}


class ReminixApi:
    """The handlers of Reminix's API. An agent is a graph; its options say which kinds of turns it handles."""

    def __init__(self, settings: "Settings", catalog: "GraphCatalog", handler: TurnHandler) -> None:
        self._catalog = catalog
        self._handler = handler
        self._body_limit = settings.body_limit_bytes

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.post(f"/agent/{NAME}/invoke", self.invoke),
            web.post(f"/agent/{NAME}/chat", self.chat),
            web.post(f"/agents/{NAME}/invoke", self.call),
            web.get("/manifest", self.manifest),
        ]

    async def invoke(self, request: web.Request) -> web.StreamResponse:
        """``POST /agent/{name}/invoke``: a call with any input."""
        agent, options = self._agent(request)
        return await self._ask(request, agent, options, reminix_request.invoke, SINGULAR)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """``POST /agent/{name}/chat``: messages, and the assistant's answer."""
        agent, options = self._agent(request)
        return await self._ask(request, agent, options, reminix_request.chat, SINGULAR)

    async def call(self, request: web.Request) -> web.StreamResponse:
        """``POST /agents/{name}/invoke``: newer clients' way for both; who cannot be invoked is chatted with."""
        agent, options = self._agent(request)
        chats = options.handles is not None and "invoke" not in options.handles
        read = reminix_request.chat_as_invoke if chats else reminix_request.invoke
        return await self._ask(request, agent, options, read, PLURAL)

    async def manifest(self, request: web.Request) -> web.Response:
        """``GET /manifest``: every agent whose options say what it handles, and that may be asked."""
        names = list(dict.fromkeys(graph.name for graph in self._catalog.graphs()))
        endpoints = [
            {
                "kind": "agent",
                "path": f"/agent/{name}/{kind}",
                "name": name,
                "description": options.description,
                "capabilities": {"streaming": True},
            }
            for name in names
            if AGENT.fullmatch(name) and may_ask(request, name)
            if (options := self._catalog.options(name)) is not None
            for kind in options.handles or ()
        ]
        return json_of({"runtime": RUNTIME, "endpoints": endpoints})

    def _agent(self, request: web.Request) -> "tuple[str, GraphOptions]":
        """The agent a path names. Raises Refusal(GRAPH_UNKNOWN)."""
        name = request.match_info["agent"]
        options = self._catalog.options(name) if AGENT.fullmatch(name) and may_ask(request, name) else None
        if options is None:
            raise Refusal(Cause.GRAPH_UNKNOWN, f"Agent {name!r:.100} not found")
        return name, options

    async def _ask(
        self, request: web.Request, agent: str, options: "GraphOptions", read: Read, form: Form
    ) -> web.StreamResponse:
        asked = await read_body(request, self._body_limit, read)
        if options.handles is not None and asked.kind not in options.handles:
            raise Refusal(Cause.NOT_IMPLEMENTED, not_implemented(agent, asked.kind))
        translator = Reminix(agent, asked.kind, form, stream=asked.stream)
        try:
            return await self._handler.handle(request, asked.turn_request(agent), translator, stream=asked.stream)
        except Refusal as refusal:
            if refusal.cause is Cause.NOT_IMPLEMENTED:  # its worker says so
                raise Refusal(refusal.cause, not_implemented(agent, asked.kind)) from refusal
            raise
