"""Bodies of OpenAI's chat completions to turn requests. Pure.

A call is whole in itself: all that was said before comes with it. With our extension `session_id` it is a turn of that
session, which knows by itself what was said.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from supervisor.http.dialects.fields import (
    MOST_STOPS,
    MOST_TOOLS,
    TOOL_NAME,
    Known,
    Name,
    Open,
    SessionName,
    Word,
    as_parts,
    fault,
)
from supervisor.http.dialects.messages import Said, beginning
from supervisor.http.dialects.openai_errors import SOURCE, ParameterRefusal
from supervisor.http.faults import checked
from supervisor.turns.requests import TurnRequest

CHOICES: Final = ("none", "auto", "required")
INSTRUCTING: Final = ("system", "developer")

# Parameters that only agents with a model understand; they get them as they are.
OPTIONS: Final = frozenset(
    {"temperature", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "max_completion_tokens", "stop"}
    | {"seed", "response_format", "reasoning_effort", "tools", "tool_choice", "parallel_tool_calls"}
)

# What would change the answer and cannot be had, and the values that do not ask for it.
UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
INSTEAD: Final = {"functions": "; use tools", "function_call": "; use tool_choice"}


def _as_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_choice(value: Any) -> Any:
    if value in CHOICES or (isinstance(value, dict) and isinstance(value.get("type"), str)):
        return value
    raise fault("choice_type", "must be one of {words} or an object with a type", words=", ".join(CHOICES))


class Url(Open):
    """Where an image or a video is; also as a plain string."""

    url: str


class Audio(Open):
    """A recording in base64."""

    data: str
    format: str


class File(Open):
    """A file, by its content or by a reference."""

    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class Part(Known):
    """A part of a message; its payload is the field that is called as its type."""

    type: Literal["text", "refusal", "image_url", "input_audio", "file", "video_url"]
    text: str | None = None
    refusal: str | None = None
    image_url: Annotated[Url, BeforeValidator(_as_url)] | None = None
    input_audio: Audio | None = None
    file: File | None = None
    video_url: Annotated[Url, BeforeValidator(_as_url)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if getattr(self, self.type) is None:
            raise fault("missing_payload", "a part of the type {type} needs {type}", type=self.type)
        return self

    @property
    def words(self) -> str | None:
        """Its text, if it is one."""
        return self.text if self.type == "text" else self.refusal if self.type == "refusal" else None


class CalledFunction(Known):
    """What a call calls; the arguments are JSON, as the model wrote them."""

    name: str
    arguments: str = "{}"


class Call(Known):
    """A call of a tool in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_agent(self) -> dict[str, Any]:
        """The call as agents get it."""
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return {"id": self.id, "type": self.type, "function": function}


class Message(Known):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[Part], Field(fail_fast=True), BeforeValidator(as_parts)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[Call], Field(fail_fast=True)] = Field([])
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.role == "tool" and self.tool_call_id is None:
            raise fault("missing_id", "a message of the role tool needs tool_call_id")
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise fault("missing_content", "a message of the role {role} needs content", role=self.role)
        return self

    @property
    def text(self) -> str:
        """All of its text, the parts one below the other."""
        return "\n".join(part.words for part in self.content or () if part.words is not None)

    def for_agent(self) -> dict[str, Any]:
        """The message as agents get it: a text is one string, whatever it came in."""
        told: dict[str, Any] = {"role": self.role, "content": self._content()}
        if self.name is not None:
            told["name"] = self.name
        if self.tool_calls:
            told["tool_calls"] = [call.for_agent() for call in self.tool_calls]
        if self.tool_call_id is not None:
            told["tool_call_id"] = self.tool_call_id
        return told

    def _content(self) -> str | list[dict[str, Any]] | None:
        if self.content is None:
            return None
        if all(part.words is not None for part in self.content):
            return self.text
        return [_part(part) for part in self.content]


def _part(part: Part) -> dict[str, Any]:
    if part.words is not None:
        return {"type": "text", "text": part.words}
    return {"type": part.type, part.type: getattr(part, part.type).given()}


class Function(Open):
    """What a tool of the client is called, takes and does."""

    name: str = Field(pattern=TOOL_NAME)


class Tool(Open):
    """A tool of the client."""

    type: Literal["function"]
    function: Function


def _distinct(tools: list[Tool]) -> list[Tool]:
    names = [tool.function.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"these tools are defined more than once: {', '.join(twice)}")
    return tools


class StreamOptions(Known):
    """What a stream tells besides the answer."""

    include_usage: bool = False


class CompletionBody(Known):
    """A chat completion. Fields that are not here are ignored."""

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1)]
    model: Word = ""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    store: bool | None = None
    user: Name | None = None
    user_id: Name | None = None
    session_id: Annotated[SessionName, Field(min_length=1)] | None = None

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Annotated[list[str], Field(max_length=MOST_STOPS), BeforeValidator(_as_list)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS), AfterValidator(_distinct)] | None = None
    tool_choice: Annotated[Any, BeforeValidator(_as_choice)] = None
    parallel_tool_calls: bool | None = None

    def said(self) -> Said:
        """What the messages say."""
        told = [message for message in self.messages if message.role in INSTRUCTING]
        said = [message for message in self.messages if message.role not in INSTRUCTING]
        if not said:  # nobody has said anything: the last instruction is what is asked
            said.append(told.pop())
        chats = [message.for_agent() for message in said]
        first = beginning(chats) or 0
        instructions = "\n\n".join(text for message in told if (text := message.text))
        return Said(chats[:first], chats[first:], instructions or None)

    def turn_request(self, said: Said, graph: str) -> TurnRequest:
        """The turn of `graph` that this asks for; `said` is what its messages say."""
        options = self.given(*OPTIONS)
        if self.model not in ("", graph):
            options["model"] = self.model
        return TurnRequest(
            kind="chat",
            graph=graph,
            user=self.user_id or self.user or self.session_id or "",
            session=self.session_id,
            messages=said.messages,
            history=said.history,
            instructions=said.instructions,
            options=options,
            store=self.session_id is not None if self.store is None else self.store,
            source=SOURCE,
        )


def check_body(body: dict[str, Any]) -> CompletionBody:
    """The body, checked. Raises BodyRefusal, ParameterRefusal for what no agent here can do."""
    for name, harmless in UNSUPPORTED.items():
        if (value := body.get(name)) is not None and value not in harmless:
            allowed = " or ".join(map(repr, harmless))
            but = f"only {allowed} is" if harmless else "it is not"
            raise ParameterRefusal(name, "unsupported_parameter", f"{name}: {but} supported{INSTEAD.get(name, '')}")
    return checked(CompletionBody, body, messages=("messages",))
