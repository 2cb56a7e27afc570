"""OpenAI's chat completions and its list of models, which are our graphs."""

import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from supervisor.causes import Cause
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.dialects.completions import Completion
from supervisor.http.dialects.completions_request import CompletionBody, check_body
from supervisor.http.dialects.messages import Said
from supervisor.http.dialects.openai_errors import ParameterRefusal
from supervisor.http.intake import read_body
from supervisor.http.principals import graph_for, may_ask
from supervisor.http.replies import native

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.settings import Settings

PREFIXES: Final = ("/v1", "/compatible-mode/v1")  # where OpenAI's API is served, the same at both
MODEL: Final = "{model:.+}"  # a graph's name may have slashes


class CompletionsApi:
    """The handlers of chat completions and models."""

    def __init__(self, settings: "Settings", catalog: "GraphCatalog", handler: TurnHandler) -> None:
        self._catalog = catalog
        self._handler = handler
        self._settings = settings
        self._body_limit = settings.body_limit_bytes
        self._since = int(time.time())  # nobody knows since when a graph is there; since then it is served

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            route
            for prefix in PREFIXES
            for route in (
                web.post(f"{prefix}/chat/completions", self.complete),
                web.get(f"{prefix}/models", self.list_models),
                web.get(f"{prefix}/models/{MODEL}", self.show_model),
            )
        ]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """``POST /chat/completions``: a turn that is whole in itself, or one of a session."""
        body, said = await read_body(request, self._body_limit, _asked)
        graph = graph_for(request, self._catalog, body.model, self._settings.default_graph)
        translator = Completion(body.model or graph, include_usage=body.stream_options.include_usage)
        return await self._handler.handle(request, body.turn_request(said, graph), translator, stream=body.stream)

    async def list_models(self, request: web.Request) -> web.Response:
        """``GET /models``: every graph that `model` can name."""
        return native({"object": "list", "data": [self._model(name) for name in self._names(request)]})

    async def show_model(self, request: web.Request) -> web.Response:
        """``GET /models/{model}``: one of them."""
        name = request.match_info["model"]
        if name not in self._names(request):
            text = f"there is no model {name!r:.100}; a model is a graph"
            raise ParameterRefusal("model", "model_not_found", text, Cause.NOT_FOUND)
        return native(self._model(name))

    def _names(self, request: web.Request) -> list[str]:
        names = dict.fromkeys(graph.name for graph in self._catalog.graphs() if graph.name)
        return [name for name in names if may_ask(request, name)]

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "agentd"}


def _asked(given: dict[str, Any]) -> tuple[CompletionBody, Said]:
    body = check_body(given)
    return body, body.said()
