"""Bodies of OpenAI's Responses to turn requests (wire/openai-responses.md sections 2 to 4). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self
from uuid import uuid4

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from supervisor.http.dialects.fields import MOST_TOOLS, TOOL_NAME, Known, Name, Open, SessionName, Word, fault
from supervisor.http.dialects.messages import Message, Said, beginning
from supervisor.http.dialects.openai_errors import EXCLUSIVE, SOURCE, ParameterRefusal
from supervisor.http.dialects.responses_input import Items, instructions_of, listed, messages_of
from supervisor.http.faults import MISSING, checked
from supervisor.turns.requests import TurnRequest

CHOICES: Final = ("auto", "none", "required")
ALLOWED_TOOLS: Final = "allowed_tools"

# Parameters that agents with a model understand by the same name.
OPTIONS: Final = ("temperature", "top_p", "max_output_tokens", "parallel_tool_calls")
FUNCTION: Final = ("name", "description", "parameters", "strict")
SCHEMA: Final = ("name", "description", "schema", "strict")

MOST_METADATA: Final = 16  # pairs


class Tool(Open):
    """A tool of the client's, or one that OpenAI hosts."""

    model_config = ConfigDict(validate_default=True)

    type: str
    name: str | None = Field(None, pattern=TOOL_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("name")
    @classmethod
    def _a_function_has_a_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("type") == "function":
            raise fault(MISSING, "is missing")
        return value

    def for_agent(self) -> dict[str, Any]:
        """The tool as chat completions define it."""
        return {"type": "function", "function": self.given(*FUNCTION)}


def _distinct(tools: list[Tool]) -> list[Tool]:
    names = [tool.name for tool in tools if tool.type == "function"]
    if twice := sorted({name or "" for name in names if names.count(name) > 1}):
        raise fault("tools_alike", "these are defined more than once: {names}", names=", ".join(twice))
    return tools


class TextFormat(Open):
    """What the text shall be like."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _a_schema_is_whole(self) -> Self:
        if self.type == "json_schema" and (self.name is None or self.schema_ is None):
            raise fault("schema_missing", "of the type json_schema needs name and schema")
        return self

    def for_agent(self) -> dict[str, Any]:
        """The format as chat completions have it; plain text needs none."""
        if self.type == "text":
            return {}
        told = self.given()
        schema = {"json_schema": {name: told[name] for name in SCHEMA if name in told}}
        return {"type": self.type, **(schema if self.type == "json_schema" else {})}


class TextConfig(Open):
    """The parameter `text`."""

    format: TextFormat = TextFormat()


class Reasoning(Open):
    """The parameter `reasoning`."""

    effort: str | None = None


class ToolChoice(Open):
    """A choice that is more than a word."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MOST_TOOLS)] | None = None


def _as_conversation(value: Any) -> Any:
    if isinstance(value, dict):
        value = value.get("id")
    if not isinstance(value, str):
        raise fault("conversation_type", "must be a string, or an object with an id that is one")
    return value


def _as_metadata(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MOST_METADATA:
        raise fault("too_long", "has {count} pairs; at most {most} are allowed", count=len(value), most=MOST_METADATA)
    return value


MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


def _as_choice(value: Any) -> Any:
    """A word is an object whose type it is: what follows knows one kind only."""
    if isinstance(value, str):
        if value not in CHOICES:
            raise fault("choice_unknown", "must be one of {allowed}, or an object", allowed=", ".join(CHOICES))
        return {"type": value}
    return value


class ResponsesBody(Known):
    """A response that is asked for. Fields that are not here are ignored."""

    input: Items
    model: Word | None = None
    stream: bool = False
    instructions: str | None = None
    previous_response_id: Name | None = None
    conversation: Annotated[SessionName, Field(min_length=1), BeforeValidator(_as_conversation)] | None = None
    store: bool = True
    background: bool = False
    user: Name | None = None
    user_id: Name | None = None
    session_id: Annotated[SessionName, Field(min_length=1)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], BeforeValidator(_as_metadata)] = Field({})

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    max_tool_calls: int | None = Field(None, ge=0)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    parallel_tool_calls: bool | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MOST_TOOLS), AfterValidator(_distinct)] = Field([])
    tool_choice: Annotated[ToolChoice, BeforeValidator(_as_choice)] | None = None
    text: TextConfig = TextConfig()
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: Word | None = None
    safety_identifier: Word | None = None
    prompt_cache_key: Word | None = None

    @field_validator("conversation")
    @classmethod
    def _one_conversation(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("previous_response_id") is not None:
            raise fault(EXCLUSIVE, "cannot be given together with previous_response_id, which names one already")
        return value

    @field_validator("background")
    @classmethod
    def _can_be_asked_for(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("store") is False:
            raise fault("background_unstored", "needs store, for a response that is not stored cannot be retrieved")
        return value

    @property
    def session(self) -> str | None:
        """The session that is named."""
        return self.session_id if self.session_id is not None else self.conversation


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose conversation a response belongs to."""

    graph: str
    user: str
    session: str


def check_body(given: dict[str, Any]) -> tuple[ResponsesBody, Said, list[Message]]:
    """A body, checked, what it says, and its items if they are to be kept. Raises BodyRefusal."""
    body = checked(ResponsesBody, given, messages=("input",))
    return body, said_of(body), input_items(body) if body.store else []


def said_of(body: ResponsesBody) -> Said:
    """What a body says; of a conversation that is continued all of it is new.

    Raises ParameterRefusal for an input that asks nothing.
    """
    messages = messages_of(body.input)
    place = beginning(messages)
    if place is None:
        raise ParameterRefusal(
            "input", "invalid_value", "input asks nothing: it needs a user message, or function_call_output at its end"
        )
    if body.previous_response_id is not None or body.conversation is not None:
        place = 0
    told = ([body.instructions] if body.instructions else []) + instructions_of(body.input)
    return Said(messages[:place], messages[place:], "\n\n".join(told) or None)


def turn_request(
    body: ResponsesBody, said: Said, graph: str, *, named: str | None, origin: Origin | None
) -> TurnRequest:
    """The turn of `graph` that is asked for; `named` is the graph that `model` names, if it names one.

    `origin` is what `previous_response_id` stands for. Raises ParameterRefusal when `named` is another graph than the
    one whose conversation is continued.
    """
    if origin is not None and named not in (None, origin.graph):
        raise ParameterRefusal(
            "model",
            "invalid_value",
            f"model names the graph {named!r:.100}, but the response that is continued is of {origin.graph!r:.100}; "
            "leave out previous_response_id, or name that graph",
        )
    session = origin.session if origin else body.session or str(uuid4())
    user = origin.user if origin else body.user_id or body.user or session
    return TurnRequest(
        kind="chat",
        graph=origin.graph if origin else graph,
        user=user,
        session=session,
        messages=said.messages,
        history=said.history,
        instructions=said.instructions,
        options=_options(body, named),
        store=body.store,
        linger=origin is not None or body.session is not None,
        source=SOURCE,
    )


def input_items(body: ResponsesBody) -> list[Message]:
    """The items of the input as ``GET /responses/{id}/input_items`` lists them, in the order they came."""
    return listed(body.input)


def _options(body: ResponsesBody, named: str | None) -> dict[str, Any]:
    """What agents with a model may heed, as chat completions call it."""
    options: dict[str, Any] = {name: value for name in OPTIONS if (value := getattr(body, name)) is not None}
    if body.model and named is None:
        options["model"] = body.model
    if body.reasoning is not None and body.reasoning.effort is not None:
        options["reasoning_effort"] = body.reasoning.effort
    if response_format := body.text.format.for_agent():
        options["response_format"] = response_format
    functions = [tool for tool in body.tools if tool.type == "function"]
    choice = body.tool_choice
    if choice is not None and choice.type == ALLOWED_TOOLS:
        names = {tool.get("name") for tool in choice.tools or ()}
        functions = [tool for tool in functions if tool.name in names]
    if functions:
        options["tools"] = [tool.for_agent() for tool in functions]
    if choice is not None and (chosen := _chosen(choice)) is not None:
        options["tool_choice"] = chosen
    return options


def _chosen(choice: ToolChoice) -> str | Mapping[str, Any] | None:
    """The choice in chat completions' words; None: of a tool that only OpenAI has."""
    if choice.type in CHOICES:
        return choice.type
    if choice.type == ALLOWED_TOOLS:
        return choice.mode or "auto"
    return {"type": "function", "function": {"name": choice.name}} if choice.type == "function" else None
