"""agentd's own API of turns: bodies to turn requests, events to server-sent events, endings to JSON. Pure."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from supervisor.causes import EXPLANATIONS
from supervisor.http.dialects.base import Manner
from supervisor.http.envelope import ROWS, encode, shorten
from supervisor.http.replies import error_reply, json_reply
from supervisor.turns.requests import MAX_KEY_BYTES, TurnRequest
from supervisor.turns.turn import Item, Turn, TurnEnding

Part = dict[str, Any]
Name = Annotated[str, Field(min_length=1, max_length=MAX_KEY_BYTES)]


class ChatMessage(BaseModel):
    """One message of a conversation; fields beyond these go to the agent as they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | Part | None = None


def _way(name: str, value: dict[str, Any], kind: str) -> dict[str, Any]:
    """A way to say what is asked, as JSON schema."""
    return {"required": [name], "properties": {name: value, "kind": {"enum": [kind, None]}}}


class TurnBody(BaseModel):
    """A turn in a channel that runs."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "oneOf": [
                _way("message", {"type": "string"}, "chat"),
                _way("messages", {"type": "array"}, "chat"),
                _way("input", {}, "invoke"),
            ]
        },
    )

    message: str | None = Field(None, description="the question; short for one user message")
    messages: list[ChatMessage] | None = Field(None, min_length=1, description="the whole input of a chat")
    input: Any = Field(None, description="the input of an invoke, any JSON value")
    kind: Literal["chat", "invoke"] | None = Field(None, description="chat, or invoke when there is an input")
    stream: bool = Field(False, description="answer by server-sent events")
    instructions: str | None = Field(None, description="for the agent, for this turn only")
    history: list[ChatMessage] = Field([], description="what was said before, if the session does not know")
    context: dict[str, Any] = Field({}, description="handed to the agent as it is")
    options: dict[str, Any] = Field({}, description="model parameters, handed to the agent as they are")
    store: bool = Field(True, description="keep the turn")

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        given = [name for name in ("message", "messages", "input") if name in self.model_fields_set]
        if len(given) != 1:
            raise ValueError(f"exactly one of message, messages and input is needed, not {given or 'none'}")
        if (self.kind or self.implied) != self.implied:
            raise ValueError(f"kind is {self.kind!r}, but with {given[0]} it is {self.implied!r}")
        return self

    @property
    def implied(self) -> Literal["chat", "invoke"]:
        """The kind of turn by what is given."""
        return "invoke" if "input" in self.model_fields_set else "chat"

    def request(self, **more: Any) -> TurnRequest:
        """The turn request of this body."""
        messages = self.messages or []
        listed = [message.model_dump(exclude_unset=True) for message in messages]
        return TurnRequest(
            kind=self.implied,
            messages=listed if self.message is None else [{"role": "user", "content": self.message}],
            input=self.input,
            instructions=self.instructions,
            history=[message.model_dump(exclude_unset=True) for message in self.history],
            context=self.context,
            options=self.options,
            store=self.store,
            **more,
        )


class SessionTurnBody(TurnBody):
    """A turn in a session, whose worker is started on demand; without a session, in a worker of its own."""

    graph: Name = Field(description="the graph that answers")
    user: str = Field("", max_length=MAX_KEY_BYTES, description="whose session it is")
    session: Name | None = Field(None, description="the session; none: a worker for this turn alone")
    properties: dict[str, dict[str, Any] | None] = Field(
        {}, description="overrides {node: {property: value}} for a worker that is started"
    )


class Native:
    """One turn in this API."""

    manner = Manner()

    def opening(self, turn: Turn) -> list[bytes]:
        """The event ``turn``: what it is called, and where it runs."""
        return [b"event: turn\ndata: %b\n\n" % encode(_about(turn))]

    def events(self, items: list[Item]) -> Sequence[bytes]:
        """Every event as the channel's stream has it."""
        return [item.encoded for item in items]

    def body(self, turn: Turn, ending: TurnEnding) -> web.Response:
        """What the turn's events add up to, and how it ended."""
        answer = {**_about(turn), "cause": ending.cause.value, **collected(turn), "ms": ending.ms}
        if ending.completed:
            return json_reply(encode(answer))
        explanation = EXPLANATIONS[ending.cause]
        error = {
            "cause": ending.cause.value,
            "message": explanation.message,
            "detail": shorten(ending.detail),
            "next_step": explanation.next_step,
        }
        if ending.kind:
            error["kind"] = ending.kind
        return error_reply(ending.cause, ROWS[ending.cause].status, encode({"error": error, **answer}))


def _about(turn: Turn) -> dict[str, Any]:
    channel = turn.channel
    return {
        "turn": turn.id,
        "channel": channel and turn.request.owner.shown(channel.name),
        "graph": channel.graph_name if channel else turn.request.graph,
        "session": turn.request.session,
    }


def collected(turn: Turn) -> dict[str, Any]:
    """The answer of a turn, as far as it got."""
    transcript = turn.transcript
    answer: dict[str, Any] = {
        "text": transcript.text,
        "thoughts": transcript.thoughts,
        "tool_calls": transcript.tool_calls,
        "sources": transcript.sources,
        "usage": transcript.usage,
    }
    if transcript.has_value:
        answer["value"] = transcript.value
    if transcript.structured is not None:
        answer["structured"] = transcript.structured
    if transcript.truncated:
        answer["truncated"] = True
    if transcript.gaps:
        answer["lost"] = transcript.gaps
    return answer
