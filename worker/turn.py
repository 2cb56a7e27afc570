"""A turn as its handler sees it: what is asked, by whom, with what before it, and the ways to answer."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.events import Event, ToolCall, ToolResult
from worker.texts import said
from worker.tools import Tool, ToolError

CHAT: Final = "chat"
INVOKE: Final = "invoke"
VERBS: Final = (CHAT, INVOKE)

Emit = Callable[[Event | str], Awaitable[None]]


class RequestError(ValueError):
    """A turn's request that is not what it should be; the text names the field and its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that came with the question. `path` is where it lies; `text` what was read out of it, if anything was."""

    id: str
    name: str
    mime_type: str
    path: str
    text: str | None = None


class Turn:
    """One question and the way to answer it. The handler is the only one who reads or changes it."""

    def __init__(
        self, turn_id: str, *, kind: str, request: Mapping[str, Any], emit: Emit, state: dict[str, Any] | None = None
    ) -> None:
        """`emit` takes the events. Raises RequestError for a request that is not what it should be."""
        self.id = turn_id
        self.kind = kind  # "chat" or "invoke"
        self.messages: list[dict[str, Any]] = _objects(request, "messages")  # of this turn, never empty in a chat
        self.history: list[dict[str, Any]] = _objects(request, "history")  # before this turn, oldest first
        self.input: Any = request.get("input")  # of an invoke: any JSON value
        self.instructions: str | None = request.get("instructions")
        self.session: str | None = request.get("session")
        self.user: str = request.get("user") or ""
        self.conversation: str | None = request.get("conversation")
        self.context: dict[str, Any] = _object(request, "context")
        self.options: dict[str, Any] = _object(request, "options")  # parameters for a model
        self.attachments = tuple(_attachment(entry) for entry in _objects(request, "attachments"))
        self.state: dict[str, Any] = {} if state is None else state
        self._emit = emit
        self._calls = 0

    @property
    def question(self) -> str:
        """The text of the last message of the user, its parts joined by newlines; empty when there is none."""
        asked = (message for message in reversed(self.messages) if message.get("role", "user") == "user")
        last = next(asked, None)
        return "" if last is None else text_of(last.get("content"))

    @property
    def transcript(self) -> list[dict[str, Any]]:
        """What a model is shown: what was said before and the messages of this turn, oldest first."""
        return [*self.history, *self.messages]

    async def emit(self, event: Event | str) -> None:
        """Tell an event now; waits while the reader is behind.

        Raises ResponseError for what cannot be sent, CancelledError once the turn is cancelled, RuntimeError after it
        has ended.
        """
        await self._emit(event)

    async def say(self, text: str) -> None:
        """Tell a piece of the answer now."""
        await self._emit(text)

    async def call(self, tool: Tool, /, **arguments: Any) -> Any:
        """Call a tool and tell of the call and of its result; the result. Raises ToolError when it has none."""
        return await self.use(tool, arguments)

    async def use(self, tool: Tool, arguments: dict[str, Any], *, id: str = "") -> Any:  # noqa: A002 - as in ToolCall
        """`call` for arguments, and an id of the call, that a model has chosen."""
        if not isinstance(tool, Tool):
            raise TypeError(f"a turn calls tools, functions with @tool, not {tool!r:.100}")
        self._calls += 1
        call = id or f"call_{self.id}_{self._calls}"
        await self._emit(ToolCall(call, tool.name, arguments))
        began = time.monotonic()
        try:
            output = await tool(arguments)
        except ToolError as error:
            await self._emit(ToolResult(call, tool.name, said(error), failed=True, ms=_ms_since(began)))
            raise
        await self._emit(ToolResult(call, tool.name, output, ms=_ms_since(began)))
        return output


def text_of(content: Any) -> str:
    """The text of a message's content: a string, a list of parts, or an object with a ``text`` or ``content``."""
    match content:
        case str():
            return content
        case list():
            return "\n".join(filter(None, map(text_of, content)))
        case {"text": str(text)} | {"content": str(text)}:
            return text
    return ""


def _ms_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)


def _object(request: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = request.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"the request's {name!r} is an object, not {value!r:.100}")
    return value


def _objects(request: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = request.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise RequestError(f"the request's {name!r} is a list of objects, not {values!r:.100}")
    return values


def _attachment(entry: Mapping[str, Any]) -> Attachment:
    try:
        return Attachment(
            id=entry["id"],
            name=entry["name"],
            mime_type=entry["mime_type"],
            path=entry["path"],
            text=entry.get("text"),
        )
    except KeyError as error:
        raise RequestError(f"an attachment of the request has no {error}: {entry!r:.100}") from None
