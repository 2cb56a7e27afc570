"""What AgentScope's clients ask: bodies to turn requests (wire/agentscope.md sections 2, 7 and 10). Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from supervisor.http.dialects.agentscope_objects import RESULT, SOURCE
from supervisor.http.dialects.fields import MOST_STOPS, MOST_TOOLS, Known, Name, Open, SessionName
from supervisor.http.dialects.messages import Said, beginning
from supervisor.http.envelope import encode
from supervisor.http.faults import MISSING, BodyRefusal, Fault, Place, place_name
from supervisor.turns.requests import TurnRequest

Chat = dict[str, Any]  # one message as agents have it

OPTIONS: Final = (
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "seed",
    "n",
    "frequency_penalty",
    "presence_penalty",
    "tools",
)
# Messages that are no part of what an agent is told: thoughts are its own, the others are about the stream.
SILENT: Final = frozenset(
    {"reasoning", "error", "heartbeat", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"}
)
CALL: Final = "_call"
OUTPUT: Final = RESULT.removeprefix("plugin")  # the end of all such types
MOST_SECONDS: Final = 86_400.0

# Which fields a part of a type may have its payload in: one of them it needs.
PAYLOADS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("text",),
    "refusal": ("refusal",),
    "image": ("image_url",),
    "audio": ("data",),
    "video": ("video_url",),
    "file": ("file_url", "file_id", "file_data"),
    "data": ("data",),
}


def _listed(value: Any) -> Any:
    """A plain text as the one text part it stands for."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _asked(value: Any) -> Any:
    """A plain text as the one message it stands for."""
    return ([{"role": "user", "content": value}] if value else []) if isinstance(value, str) else value


def _address(value: Any) -> Any:
    """An address, also as other APIs have it: ``{"url": ...}``."""
    return value["url"] if isinstance(value, dict) and "url" in value else value


def _stops(value: Any) -> Any:
    listed = value if isinstance(value, list) else [value]
    if len(listed) > MOST_STOPS or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"must be a string or a list of at most {MOST_STOPS} strings")
    return value


Address = Annotated[str | None, BeforeValidator(_address)]


class Part(Known):
    """One part of a message; its type says which of the other fields it has."""

    type: Literal["text", "image", "audio", "video", "file", "data", "refusal"]
    text: str | None = None
    refusal: str | None = None
    image_url: Address = None
    video_url: Address = None
    data: Any = None
    format: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    file_data: str | None = None


class Message(Open):
    """One message; clients send back whole ones they received."""

    role: Literal["user", "assistant", "system", "tool"] | None = None
    type: str = "message"
    content: Annotated[list[Part], Field(fail_fast=True), BeforeValidator(_listed)] = Field([])


class ProcessBody(Open):
    """A turn."""

    input: Annotated[list[Message], Field(fail_fast=True), BeforeValidator(_asked), Field(min_length=1)]
    session_id: SessionName = ""
    user_id: Name = ""
    id: Name = ""
    stream: Any = None  # whatever it says, the answer is a stream
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: Annotated[Any, AfterValidator(_stops)] = None
    seed: int | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None


class TaskBody(ProcessBody):
    """A turn in the background, with the seconds it may take."""

    timeout: float | None = Field(None, gt=0, le=MOST_SECONDS, allow_inf_nan=False)


class InterruptBody(Open):
    """Whose turn is to end."""

    session_id: Annotated[SessionName, Field(min_length=1)]
    user_id: Name = ""

    @property
    def user(self) -> str:
        """The user's half of the session's key."""
        return self.user_id or self.session_id


def said_of(body: ProcessBody) -> Said:
    """What a body says. Raises BodyRefusal for a part without what its type needs, and when nothing is asked."""
    chats = [*_chats(body.input)]
    system = [text for chat in chats if chat["role"] == "system" and (text := _text(chat["content"]))]
    said = _joined(chat for chat in chats if chat["role"] != "system")
    start = beginning(said)
    if start is None:
        text = "input asks nothing: it needs a message of role user, or a tool's result at its end"
        raise BodyRefusal(Fault(("input",), "value_error", text))
    return Said(said[:start], said[start:], "\n\n".join(system) or None)


def turn_request(body: ProcessBody, said: Said, graph: str, session: str) -> TurnRequest:
    """The turn that `body` asks of `graph`; `session` is what it is called if the body does not say."""
    name = body.session_id or session
    options = {option: value for option in OPTIONS if (value := getattr(body, option)) is not None}
    if options.get("model") == graph:
        del options["model"]
    return TurnRequest(
        kind="chat",
        graph=graph,
        user=body.user_id or name,
        session=name,
        messages=said.messages,
        history=said.history,
        instructions=said.instructions,
        options=options,
        context=body.model_extra or {},
        linger=bool(body.session_id),
        source=SOURCE,
    )


def _chats(messages: Iterable[Message]) -> Iterator[Chat]:
    for index, message in enumerate(messages):
        if message.type not in SILENT and (chat := _chat(message, ("input", index, "content"))) is not None:
            yield chat


def _chat(message: Message, place: Place) -> Chat | None:
    """One message; None for one that says nothing."""
    if message.type.endswith((CALL, OUTPUT)):
        return _call(message) if message.type.endswith(CALL) else _output(message)
    role = message.role or "user"
    parts = [_part(part, (*place, index)) for index, part in enumerate(message.content)]
    if role == "tool" or (role == "assistant" and not parts):  # whose result it is would be in its data
        return None
    if any(part["type"] != "text" for part in parts):
        return {"role": role, "content": parts}
    return {"role": role, "content": "\n".join(part["text"] for part in parts)}


def _call(message: Message) -> Chat | None:
    match _data(message):
        case {"call_id": str(call_id), "name": str(name), **more}:
            function = {"name": name, "arguments": _as_text(more.get("arguments", {}))}
            return {"role": "assistant", "content": None, "tool_calls": [_tool_call(call_id, function)]}
    return None


def _tool_call(call_id: str, function: Chat) -> Chat:
    return {"id": call_id, "type": "function", "function": function}


def _output(message: Message) -> Chat | None:
    match _data(message):
        case {"call_id": str(call_id), **more}:
            return {"role": "tool", "tool_call_id": call_id, "content": _as_text(more.get("output"))}
    return None


def _data(message: Message) -> Any:
    """A call's data: those of its part, or the message's own fields, as OpenAI's clients have them."""
    return next((part.data for part in message.content if part.type == "data"), message.model_extra)


def _joined(chats: Iterable[Chat]) -> list[Chat]:
    """Calls that follow one another are one message to a model: their results come after all of them."""
    said: list[Chat] = []
    for chat in chats:
        if said and "tool_calls" in chat and "tool_calls" in said[-1]:
            said[-1]["tool_calls"] += chat["tool_calls"]
        else:
            said.append(chat)
    return said


def _part(part: Part, place: Place) -> Chat:
    """A part as agents have it. Raises BodyRefusal for one without its payload."""
    needed = PAYLOADS[part.type]
    given = next((name for name in needed if getattr(part, name) is not None), None)
    if given is None:
        place = (*place, needed[0])
        raise BodyRefusal(Fault(place, MISSING, f"{place_name(place)} is missing"))
    payload = getattr(part, given)
    match part.type:
        case "image" | "video":
            return {"type": given, given: {"url": payload}}
        case "audio":
            if not isinstance(payload, str):
                place = (*place, "data")
                raise BodyRefusal(Fault(place, "string_type", f"{place_name(place)} of an audio part must be a string"))
            return {"type": "input_audio", "input_audio": _given(part, "data", "format")}
        case "file":
            return {"type": "file", "file": _given(part, "filename", *needed)}
    return {"type": "text", "text": _as_text(payload)}


def _given(part: Part, *names: str) -> Chat:
    return {name: value for name in names if (value := getattr(part, name)) is not None}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def _text(content: str | list[Chat]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")
