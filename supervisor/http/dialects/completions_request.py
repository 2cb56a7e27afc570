"""Bodies of OpenAI's chat completions to turn requests. Pure.

A call is whole in itself: all that was said before comes with it. With our extension `session_id` it is a turn of that
session, which knows by itself what was said.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from supervisor.http.dialects.fields import MOST_TOOLS, TOOL_NAME, Known, Open, fault
from supervisor.http.dialects.openai_errors import ParameterRefusal
from supervisor.http.faults import checked
from supervisor.turns.requests import TurnRequest

MAX_STOPS: Final = 16
MAX_MODEL: Final = 256
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


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise fault("content_type", "must be a string or an array of parts")
    return value


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


class Message(Known):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)] | None = None
    name: str | None = None
    tool_calls: list[Call] = Field([])
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
            told["tool_calls"] = [{**call.model_dump(), "type": call.type} for call in self.tool_calls]
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
    return {"type": part.type, part.type: getattr(part, part.type).model_dump(exclude_unset=True)}


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

    messages: list[Message] = Field(min_length=1)
    model: str = Field("", max_length=MAX_MODEL)  # it is in every chunk
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    store: bool | None = None
    user: str | None = None
    user_id: str | None = None
    session_id: str | None = None

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Annotated[list[str], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS), AfterValidator(_distinct)] | None = None
    tool_choice: Annotated[Any, BeforeValidator(_as_choice)] = None
    parallel_tool_calls: bool | None = None

    def turn_request(self, graph: str) -> TurnRequest:
        """The turn of `graph` that this asks for."""
        told = [message for message in self.messages if message.role in INSTRUCTING]
        said = [message for message in self.messages if message.role not in INSTRUCTING]
        if not said:  # nobody has said anything: the last instruction is what is asked
            said.append(told.pop())
        first = _first_of_turn(said)
        options = self.model_dump(include=set(OPTIONS), exclude_unset=True)
        if self.model not in ("", graph):
            options["model"] = self.model
        return TurnRequest(
            kind="chat",
            graph=graph,
            user=next((name for name in (self.user_id, self.user, self.session_id) if name is not None), ""),
            session=self.session_id,
            messages=[message.for_agent() for message in said[first:]],
            history=[message.for_agent() for message in said[:first]],
            instructions="\n\n".join(text for message in told if (text := message.text)) or None,
            options=options,
            store=self.session_id is not None if self.store is None else self.store,
            source="openai",
        )


def read_body(body: dict[str, Any]) -> CompletionBody:
    """The body, checked. Raises BodyRefusal, ParameterRefusal for what no agent here can do."""
    for name, harmless in UNSUPPORTED.items():
        if (value := body.get(name)) is not None and value not in harmless:
            allowed = " or ".join(map(repr, harmless))
            but = f"only {allowed} is" if harmless else "it is not"
            raise ParameterRefusal(name, "unsupported_parameter", f"{name}: {but} supported{INSTEAD.get(name, '')}")
    return checked(CompletionBody, body, messages=("messages",))


def _first_of_turn(said: list[Message]) -> int:
    """Where the turn's own messages begin: the outputs of tools at the end, else from the user's last one on."""
    index = len(said)
    while index and said[index - 1].role == "tool":
        index -= 1
    if index < len(said):
        return index
    return next((index for index in reversed(range(len(said))) if said[index].role == "user"), 0)
