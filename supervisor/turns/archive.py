"""What is kept of turns: the conversation a session goes on with, and the record of each turn."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import structlog

from supervisor.causes import Cause, Refusal
from supervisor.store.errors import StoreError
from supervisor.store.records import ConversationKey, TurnBegun, TurnEnded
from supervisor.store.texts import name_of, newest
from supervisor.turns.requests import Key
from supervisor.turns.turn import Turn

if TYPE_CHECKING:
    from supervisor.settings import Settings
    from supervisor.store.store import Store

log = structlog.get_logger("supervisor.archive")


@dataclass(slots=True)
class Conversation:
    """What was said in a session before, oldest first, and what its agent wants to remember.

    `known`: there is such a conversation; `graph` is the one whose agent's state it is. It was read up to the turn at
    place `before` (None: whole), whose number is `first` (None: beyond the end), `earlier` what was said before that if
    it was the very first. `is_reset`: the state begins anew with its next turn, whose agent is another one, or must not
    know of turns that were taken back.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] | None = None
    known: bool = False
    graph: str = ""
    before: int | None = None
    first: int | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)
    is_reset: bool = False

    def for_graph(self, graph: str) -> "Conversation":
        """As this graph's agent may have it: without the state of another one's."""
        own = self.graph in ("", name_of(graph))
        return self if own else replace(self, state={}, is_reset=True)


class Archive(Protocol):
    """Where turns are kept; each call is bounded."""

    async def load(self, key: Key, before: int | None = None) -> Conversation:
        """The conversation of a session, empty for a new one; up to the turn at a place. Raises Refusal."""

    async def begin(self, turn: Turn, key: Key, channel: str, conversation: Conversation) -> None:
        """Record that a turn of this conversation is to begin. Raises Refusal(STORE_UNAVAILABLE)."""

    async def end(self, turn: Turn, conversation: Conversation | None = None) -> None:
        """Record how it ended, and the state its agent left. What cannot be kept now is kept later, or logged.

        With an answer it takes the place of the turns that the `conversation` was read without.
        """

    def remember(self, conversation: Conversation, turn: Turn) -> None:
        """Add a turn that has ended to the conversation in memory, within the bounds of a history."""


class StoreArchive:
    """The archive of a server: its store."""

    def __init__(self, store: "Store", settings: "Settings") -> None:
        self._store = store
        self._most_messages = settings.history_messages
        self._most_bytes = settings.history_bytes

    async def load(self, key: Key, before: int | None = None) -> Conversation:
        """The conversation of a session, empty for a new one; up to the turn at a place, from 0 on.

        Raises Refusal(STORE_UNAVAILABLE).
        """
        try:
            stored = await self._store.load(ConversationKey(*key), before)
        except StoreError as error:
            raise Refusal(Cause.STORE_UNAVAILABLE, str(error)) from error
        return Conversation(
            list(stored.history),
            dict(stored.state),
            known=stored.turns > 0,
            graph=stored.graph,
            before=before,
            first=stored.first,
            earlier=stored.earlier,
            is_reset=stored.first is not None,
        )

    async def begin(self, turn: Turn, key: Key, channel: str, conversation: Conversation) -> None:
        """Record that a turn of this conversation is to begin. Raises Refusal(STORE_UNAVAILABLE)."""
        request = turn.request
        single = key.session == turn.id
        kept = ("id", "name", "mime_type")
        record = TurnBegun(
            id=turn.id,
            graph=request.graph or key.graph,
            user=key.user,
            session=None if single else key.session,
            shared=request.shared,
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
        conversation.known = True

    async def end(self, turn: Turn, conversation: Conversation | None = None) -> None:
        """Record how it ended, and the state its agent left. What cannot be kept now is kept later, or logged.

        With an answer it takes the place of the turns that the `conversation` was read without.
        """
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
            state=_new_state(turn, conversation),
            first=None if conversation is None else conversation.first,
        )
        try:
            await self._store.end_turn(record)
        except StoreError as error:
            log.warning("turn.unrecorded", turn=turn.id, error=str(error))

    def remember(self, conversation: Conversation, turn: Turn) -> None:
        """Add a turn that has ended to the conversation in memory, within the bounds of a history."""
        transcript = turn.transcript
        if conversation.is_reset:
            if not _has_answered(turn):  # then nothing of it counts, and the store knows the conversation as it is
                return
            conversation.is_reset = False
            conversation.graph = name_of(turn.request.graph)
        if turn.state is not None:
            conversation.state = turn.state
            conversation.graph = name_of(turn.request.graph or conversation.graph)
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
        given = conversation.earlier or turn.request.history
        return newest(_lasting(given), self._most_messages, self._most_bytes)


def _has_answered(turn: Turn) -> bool:
    """Whether a turn that has ended is in the history."""
    ending, transcript = turn.verdict, turn.transcript
    return bool(transcript.text) or (ending is not None and ending.completed and transcript.answers)


def _new_state(turn: Turn, conversation: Conversation | None) -> dict[str, Any] | None:
    """The state that is kept with a turn, None: the one there is stays.

    Where it begins anew, one without an answer does not begin it.
    """
    if conversation is None or not conversation.is_reset:
        return turn.state
    return (turn.state or {}) if _has_answered(turn) else None


def _lasting(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those that are said to the model for one turn only."""
    return [message for message in messages if message.get("role") != "system"]
