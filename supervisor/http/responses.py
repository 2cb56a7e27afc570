"""OpenAI's Responses endpoint: create, retrieve, follow, cancel, delete (wire/openai-responses.md)."""

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from supervisor.causes import Cause, Refusal
from supervisor.http.completions import PREFIXES
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.dialects.openai_errors import SOURCE, ParameterRefusal
from supervisor.http.dialects.responses import Responses, as_lost, doubled
from supervisor.http.dialects.responses_request import Origin, check_body, turn_request
from supervisor.http.envelope import encode
from supervisor.http.faults import checked
from supervisor.http.intake import read_body
from supervisor.http.kept import Kept, Restored, Run
from supervisor.http.principals import as_named, graph_for, owns
from supervisor.http.queries import Integer, Switch
from supervisor.http.recording import Recording
from supervisor.http.replies import json_reply
from supervisor.http.request_keys import note
from supervisor.http.sse import HEADERS, EventStream
from supervisor.http.streams import Streams

if TYPE_CHECKING:
    from supervisor.catalog import GraphCatalog
    from supervisor.settings import Settings
    from supervisor.store.records import ResponseRow

RESPONSE: Final = "/responses/{response:[A-Za-z0-9_-]+}"
UNFINISHED: Final = frozenset({"queued", "in_progress"})

Number = Annotated[int, Field(ge=0, le=2**53), Integer]


class RetrieveQuery(BaseModel):
    """How a response is retrieved. What else clients send is about parts of it that there are not."""

    stream: Switch = False
    starting_after: Number | None = None


class ItemsQuery(BaseModel):
    """Which of the items: a page."""

    order: Literal["asc", "desc"] = "asc"
    limit: Annotated[int, Field(ge=1, le=100), Integer] = 20
    after: str | None = None


class ResponsesApi:
    """The handlers of the Responses endpoint."""

    def __init__(
        self,
        settings: "Settings",
        catalog: "GraphCatalog",
        handler: TurnHandler,
        kept: Kept,
        streams: Streams,
    ) -> None:
        self._catalog = catalog
        self._handler = handler
        self._kept = kept
        self._streams = streams
        self._settings = settings
        self._body_limit = settings.body_limit_bytes

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API, under each of its prefixes."""
        return [
            route
            for prefix in PREFIXES
            for route in (
                web.post(f"{prefix}/responses", self.create),
                web.get(f"{prefix}{RESPONSE}", self.retrieve),
                web.delete(f"{prefix}{RESPONSE}", self.delete),
                web.post(f"{prefix}{RESPONSE}/cancel", self.cancel),
                web.get(f"{prefix}{RESPONSE}/input_items", self.input_items),
            )
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        """``POST /responses``: a turn, streamed, in one piece, or in the background."""
        body, said, items = await read_body(request, self._body_limit, check_body)
        origin = await self._origin(request, body.previous_response_id)
        named = body.model if body.model is not None and self._catalog.has(body.model) else None
        graph = origin.graph if origin else graph_for(request, self._catalog, named, self._settings.default_graph)
        wanted = turn_request(body, said, graph, named=named, origin=origin)
        translator = Responses.to(body, wanted, id=f"resp_{secrets.token_hex(16)}", created_at=time.time())
        if body.background:
            run = self._kept.start(self._handler.admit(request, wanted), translator, input=items)
            note(request, turn=run.turn.id)
            if body.stream and run.recording is not None:
                return await self._follow(request, run.recording, 0)
            return _reply(translator.snapshot())
        keeper = self._kept.keeper(translator, input=items) if wanted.store else None
        return await self._handler.handle(request, wanted, translator, stream=bool(body.stream), keeper=keeper)

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        """``GET /responses/{id}``; with ``?stream=true`` the events after ``starting_after``."""
        response_id = request.match_info["response"]
        query = checked(RetrieveQuery, dict(request.query))
        if query.stream:
            return await self._replay(request, response_id, query.starting_after)
        run = self._running(request, response_id)
        if run is not None:
            return _reply(run.translator.snapshot())
        return _reply(_told(await self._row(request, response_id)))

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /responses/{id}``: it is kept no longer; its conversation lives on."""
        response_id = request.match_info["response"]
        await self._row(request, response_id)
        if not await self._kept.delete(response_id):
            raise _unknown(response_id)
        return json_reply(encode({"id": response_id, "object": "response", "deleted": True}))

    async def cancel(self, request: web.Request) -> web.Response:
        """``POST /responses/{id}/cancel``: answers when its turn has ended."""
        response_id = request.match_info["response"]
        run = self._running(request, response_id)
        if run is None:
            row = await self._row(request, response_id)
            raise Refusal(Cause.RESPONSE_ENDED, f"response {response_id!r} is {_told(row)['status']} already")
        note(request, turn=run.turn.id)
        await self._kept.cancel(run)
        response = run.translator.snapshot()
        if response["status"] in UNFINISHED:  # its client takes nothing; that it will be cancelled is certain
            response["status"] = "cancelled"
        return _reply(response)

    async def input_items(self, request: web.Request) -> web.Response:
        """``GET /responses/{id}/input_items``: what was asked."""
        query = checked(ItemsQuery, dict(request.query))
        row = await self._row(request, request.match_info["response"])
        return json_reply(encode(_page(orjson.loads(row.input or b"[]"), query)))

    async def _origin(self, request: web.Request, previous: str | None) -> Origin | None:
        """Whose conversation is continued. Raises Refusal."""
        if previous is None:
            return None
        row = await self._kept.row(previous)
        if row is None or row.source != SOURCE or not owns(request, row.user, row.graph):
            raise ParameterRefusal(
                "previous_response_id",
                "previous_response_not_found",
                f"no response {previous!r:.100} is kept, so it cannot be continued",
            )
        return Origin(row.graph, as_named(request, row.user), row.session)

    def _running(self, request: web.Request, response_id: str) -> Run | None:
        """The response of this id that is at work, if it is there for who asks."""
        run = self._kept.running(response_id, SOURCE)
        return run if run is not None and owns(request, run.turn.request.user, run.turn.request.graph) else None

    async def _row(self, request: web.Request, response_id: str) -> "ResponseRow":
        row = await self._kept.row(response_id)
        if row is None or row.source != SOURCE or not owns(request, row.user, row.graph):
            raise _unknown(response_id)
        return row

    async def _replay(self, request: web.Request, response_id: str, after: int | None) -> web.StreamResponse:
        recording = self._kept.recording(response_id, SOURCE, partial(owns, request))
        if recording is None:
            await self._row(request, response_id)
            raise ParameterRefusal(
                "stream",
                "invalid_value",
                f"the events of response {response_id!r} are not kept, only those of responses in the background, "
                "for some minutes after their end; retrieve it without stream",
            )
        return await self._follow(request, recording, 0 if after is None else after + 1)

    async def _follow(self, request: web.Request, recording: Recording, number: int) -> web.StreamResponse:
        """The events of an answer in the background, from this number on, as long as there are any."""
        if number < recording.first:
            raise ParameterRefusal(
                "starting_after",
                "invalid_value",
                f"the events before {recording.first} are not kept any more; "
                f"starting_after must be {recording.first - 1} at least, or retrieve the response without stream",
            )
        if request.method == hdrs.METH_HEAD:
            return web.StreamResponse(headers=HEADERS)
        events = EventStream(request, self._streams)
        try:
            with recording.reader(number) as reader:
                await events.open()
                while True:
                    if frames := recording.read(reader):
                        await events.send(frames)
                    elif recording.closed:
                        break
                    else:
                        await recording.wait(reader.number)
            await events.close()
        finally:
            events.abandon()
        return events.response


def restored(row: "ResponseRow") -> Restored:
    """A response that an earlier server began."""
    translator = Responses.again(orjson.loads(row.body))
    if translator.id != row.id:
        raise ValueError(f"its object is {translator.id!r:.100}")
    return Restored(translator, is_background=translator.snapshot()["background"] is True)


def _page(items: list[dict[str, Any]], query: ItemsQuery) -> dict[str, Any]:
    """Some of the items. Raises ParameterRefusal for an `after` that none of them is called."""
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        ids = [item["id"] for item in items]
        if query.after not in ids:
            raise ParameterRefusal("after", "invalid_value", f"after is {query.after!r:.100}, which is no item's id")
        items = items[ids.index(query.after) + 1 :]
    page = items[: query.limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {
        "object": "list",
        "data": page,
        "first_id": first,
        "last_id": last,
        "has_more": len(items) > len(page),
    }


def _unknown(response_id: str) -> Refusal:
    return Refusal(Cause.RESPONSE_UNKNOWN, f"no response {response_id!r:.100} is kept")


def _told(row: "ResponseRow") -> dict[str, Any]:
    """A response on record, which is not at work here. Raises Refusal for one that was too large to be kept."""
    if not row.body:
        raise Refusal(Cause.RESPONSE_UNKNOWN, f"response {row.id!r:.100} was too large to be kept")
    response: dict[str, Any] = orjson.loads(row.body)
    return as_lost(response) if response["status"] in UNFINISHED else response


def _reply(response: dict[str, Any]) -> web.Response:
    return json_reply(encode(doubled(response)))
