"""What is kept of turns: the conversation a session goes on with, and the record of each turn."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import structlog

from supervisor.causes import Cause, Refusal
from supervisor.store.errors import StoreError
from supervisor.store.records import ConversationKey, TurnBegun, TurnEnded
from supervisor.store.texts import newest
from supervisor.turns.requests import Key
from supervisor.turns.turn import Turn

if TYPE_CHECKING:
    from supervisor.settings import Settings
    from supervisor.store.store import Store

log = structlog.get_logger("supervisor.archive")


@dataclass(slots=True)
class Conversation:
    """What was said in a session before, oldest first, and what its agent wants to remember."""

    history: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] | None = None


class Archive(Protocol):
    """Where turns are kept; each call is bounded."""

    async def load(self, key: Key) -> Conversation:
        """The conversation of a session, empty for a new one. Raises Refusal(STORE_UNAVAILABLE)."""

    async def begin(self, turn: Turn, key: Key, channel: str, conversation: Conversation) -> None:
        """Record that a turn of this conversation is to begin. Raises Refusal(STORE_UNAVAILABLE)."""

    async def end(self, turn: Turn) -> None:
        """Record how it ended, and the state its agent left. What cannot be kept now is kept later, or logged."""

    def remember(self, conversation: Conversation, turn: Turn) -> None:
        """Add a turn that has ended to the conversation in memory, within the bounds of a history."""


class StoreArchive:
    """The archive of a server: its store."""

    def __init__(self, store: "Store", settings: "Settings") -> None:
        self._store = store
        self._most_messages = settings.history_messages
        self._most_bytes = settings.history_bytes

    async def load(self, key: Key) -> Conversation:
        """The conversation of a session, empty for a new one. Raises Refusal(STORE_UNAVAILABLE)."""
        try:
            stored = await self._store.load(ConversationKey(*key))
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error
        return Conversation(list(stored.history), dict(stored.state))

    async def begin(self, turn: Turn, key: Key, channel: str, conversation: Conversation) -> None:
        """Record that a turn of this conversation is to begin. Raises Refusal(STORE_UNAVAILABLE)."""
        request = turn.request
        single = key.session == turn.id
        kept = ("id", "name", "mime_type")
        record = TurnBegun(
            id=turn.id,
            graph=key.graph,
            user=key.user,
            session=None if single else key.session,
            channel=channel,
            kind=request.kind,
            source=request.source,
            begun_at=turn.began_at,
            messages=request.messages,
            earlier=[] if single else self._earlier(conversation, turn),
            input=request.input,
            attachments=[{name: file.get(name) for name in kept} for file in request.attachments],
        )
        try:
            await self._store.begin_turn(record)
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error

    async def end(self, turn: Turn) -> None:
        """Record how it ended, and the state its agent left. What cannot be kept now is kept later, or logged."""
        transcript, ending = turn.transcript, turn.verdict
        if ending is None:
            raise RuntimeError("a turn is put on record before it has ended")
        record = TurnEnded(
            id=turn.id,
            ended_at=turn.began_at + ending.ms / 1000,
            cause=ending.cause.value,
            detail=ending.detail,
            ms=ending.ms,
            text=transcript.text,
            thoughts=transcript.thoughts,
            tool_calls=transcript.tool_calls,
            sources=transcript.sources,
            usage=transcript.usage or {},
            structured=transcript.structured,
            value=transcript.value,
            has_value=transcript.answers,
            state=turn.state,
        )
        try:
            await self._store.end_turn(record)
        except StoreError as error:
            log.warning("turn.unrecorded", turn=turn.id, error=str(error))

    def remember(self, conversation: Conversation, turn: Turn) -> None:
        """Add a turn that has ended to the conversation in memory, within the bounds of a history."""
        if turn.state is not None:
            conversation.state = turn.state
        transcript = turn.transcript
        text = transcript.text
        if not text and transcript.answers:
            text = orjson.dumps(transcript.value).decode()
        if turn.request.kind == "chat" and text:
            before = conversation.history or self._earlier(conversation, turn)
            said = [*before, *_lasting(turn.request.messages), {"role": "assistant", "content": text}]
            conversation.history = newest(said, self._most_messages, self._most_bytes)

    def _earlier(self, conversation: Conversation, turn: Turn) -> list[dict[str, Any]]:
        """What the caller says was said before: that counts as long as the conversation has nothing of its own."""
        if turn.request.kind != "chat" or conversation.history:
            return []
        return newest(_lasting(turn.request.history), self._most_messages, self._most_bytes)


def _lasting(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those that are said to the model for one turn only."""
    return [message for message in messages if message.get("role") != "system"]
