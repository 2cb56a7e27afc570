"""DocsGPT's API: questions, answered in one piece or as a stream, and what people think of the answers.

Uploads of attachments are a part of their own (docsgpt_attachments.py).
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from uuid import uuid4

import structlog
from aiohttp import web

from supervisor.causes import Cause, Refusal
from supervisor.http import docsgpt_paths
from supervisor.http.dialects import docsgpt_request
from supervisor.http.dialects.base import TurnHandler
from supervisor.http.dialects.docsgpt import PAGE, PROGRAM, DocsGpt
from supervisor.http.dialects.docsgpt_errors import STREAM
from supervisor.http.dialects.docsgpt_request import NO_CONVERSATION, Question
from supervisor.http.intake import read_body
from supervisor.http.replies import json_reply
from supervisor.options import GraphOptions
from supervisor.store.errors import StoreError
from supervisor.store.records import ConversationKey, TurnRow

if TYPE_CHECKING:
    from supervisor.auth import Principal
    from supervisor.catalog import GraphCatalog
    from supervisor.http.credentials import Credentials
    from supervisor.settings import Settings

log = structlog.get_logger("supervisor.docsgpt")

LEAST_BODY: Final = 16 * 1024 * 1024  # bytes that have to be taken: a long history comes along
JSON: Final = "application/json"
MOST_SHOWN: Final = 100
PAGES: Final = ("Origin", "Sec-Fetch-Mode")  # headers that pages in browsers send, and their like

Made = TypeVar("Made")


class Attachments(Protocol):
    """Where the files lie that users have uploaded."""

    async def given(self, user: str, ids: list[str]) -> list[dict[str, Any] | None]:
        """The files of these ids as a turn's attachments, in order; None for what is not there for this user.

        Raises StoreError.
        """


class Conversations(Protocol):
    """Where conversations are on record (`Store.conversation`)."""

    async def conversation(self, key: ConversationKey, limit: int = 100, before: int | None = None) -> list[TurnRow]:
        """Turns of a conversation, newest first; none when there is none. Raises StoreError."""


class DocsGptApi:
    """The handlers of DocsGPT's API. An agent is a graph; who asks is told by a key in the body, or by the header."""

    def __init__(
        self,
        settings: "Settings",
        catalog: "GraphCatalog",
        handler: TurnHandler,
        credentials: "Credentials",
        attachments: Attachments,
        conversations: Conversations,
    ) -> None:
        self._settings = settings
        self._body_limit = max(settings.body_limit_bytes, LEAST_BODY)
        self._catalog = catalog
        self._handler = handler
        self._credentials = credentials
        self._attachments = attachments
        self._conversations = conversations

    def routes(self) -> list[web.RouteDef]:
        """The routes of this API."""
        return [
            web.post("/api/answer", self.answer),
            web.post(STREAM, self.stream),
            web.get(docsgpt_paths.HEALTH, self.health),
            web.post("/api/feedback", self.feedback),
        ]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """``POST /api/answer``: a question, answered in one piece."""
        return await self._ask(request, stream=False)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """``POST /stream``: a question, answered as a stream."""
        return await self._ask(request, stream=True)

    async def health(self, _: web.Request) -> web.Response:
        """``GET /api/health``: that the server is there."""
        return json_reply(b'{"status":"ok"}')

    async def feedback(self, request: web.Request) -> web.Response:
        """``POST /api/feedback``: what somebody thinks of an answer. It goes to the log."""
        said = await self._read(request, docsgpt_request.feedback)
        user = self._credentials.owner(self._caller(request, said.api_key))
        if not await self._is_there(user, said.conversation):
            raise Refusal(Cause.CONVERSATION_UNKNOWN)
        log.info(
            "docsgpt.feedback", feedback=said.feedback, conversation=said.conversation, question=said.index, user=user
        )
        return json_reply(b'{"success":true}')

    async def _ask(self, request: web.Request, *, stream: bool) -> web.StreamResponse:
        asked = await self._read(request, partial(docsgpt_request.question, streams=stream))
        principal = self._caller(request, asked.api_key)
        graph = self._agent(principal, asked)
        options = self._catalog.options(graph) or GraphOptions()
        user = self._credentials.owner(principal)
        files = await self._given(user, asked.attachments)
        found = [file for file in files if file is not None]
        wanted = asked.turn_request(
            graph=graph, user="" if principal.user else user, new=str(uuid4()), attachments=found
        )
        told = (asked.save and wanted.session) or NO_CONVERSATION
        manner = PAGE if any(name in request.headers for name in PAGES) else PROGRAM
        translator = DocsGpt(told, left_out=len(files) - len(found), structured=options.structured, manner=manner)
        try:
            return await self._handler.handle(request, wanted, translator, stream=stream)
        except Refusal as refusal:
            # The limit is looked at before the conversation is; told is in the order of section 8.
            limited = refusal.cause is Cause.KEY_LIMIT and asked.conversation is not None
            if limited and not await self._is_there(user, asked.conversation or ""):
                raise Refusal(Cause.CONVERSATION_UNKNOWN) from refusal
            raise

    async def _read(self, request: web.Request, make: Callable[[dict[str, Any]], Made]) -> Made:
        """The body, checked. Raises Refusal(MEDIA_TYPE_REFUSED | BODY_INVALID | BODY_TOO_LARGE)."""
        if request.content_type != JSON:
            sent = request.content_type[:MOST_SHOWN]
            raise Refusal(Cause.MEDIA_TYPE_REFUSED, f"the content type is {sent!r}; send {JSON}")
        return await read_body(request, self._body_limit, make, docsgpt_request.parse)

    def _caller(self, request: web.Request, api_key: str) -> "Principal":
        """Who asks. Raises Refusal(KEY_UNKNOWN | UNAUTHORIZED | SCOPE_MISSING | ORIGIN_REFUSED)."""
        self._credentials.take_key(request, api_key)
        return self._credentials.caller(request)

    def _agent(self, principal: "Principal", asked: Question) -> str:
        """The graph that answers: a key's own one, else the one that is named, unless there is a key.

        Raises Refusal(UNAUTHORIZED) for the name of none, and what the default one may be refused for.
        """
        if principal.graph is not None:
            return principal.graph
        if asked.agent and not asked.api_key:
            options = self._catalog.options(asked.agent)
            if options is None or (options.handles is not None and "chat" not in options.handles):
                raise Refusal(Cause.UNAUTHORIZED)
            return asked.agent
        return self._catalog.default(self._settings.default_graph)

    async def _given(self, user: str, ids: list[str]) -> list[dict[str, Any] | None]:
        """The attachments of a turn. Raises Refusal(STORE_UNAVAILABLE)."""
        if not ids:
            return []
        try:
            return await self._attachments.given(user, ids)
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error

    async def _is_there(self, user: str, conversation: str) -> bool:
        """Whether a user has such a conversation. Raises Refusal(STORE_UNAVAILABLE)."""
        if not conversation:
            return False
        try:
            # Of no graph: it is the user's, whichever agent answers in it.
            return bool(await self._conversations.conversation(ConversationKey("", user, conversation), limit=1))
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error
