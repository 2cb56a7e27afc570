"""Input items of OpenAI's Responses (wire/openai-responses.md section 3): checked, as messages for agents, as listed.

Pure. One model for all kinds of items and one for all kinds of parts, so that a fault is found where the client put it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from supervisor.http.dialects.fields import Known, as_parts, fault
from supervisor.http.dialects.messages import Message
from supervisor.http.faults import MISSING

INSTRUCTING: Final = ("system", "developer")
SKIPPED: Final = "skipped"

# Items that an agent here can do nothing with: no error, since clients send back whatever they were once given.
IGNORED: Final = frozenset(
    {"additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction"}
    | {"compaction_trigger", "computer_call", "computer_call_output", "configuration_update", "custom_tool_call"}
    | {"custom_tool_call_output", "file_search_call", "image_generation_call", "item_reference", "local_shell_call"}
    | {"local_shell_call_output", "mcp_approval_request", "mcp_approval_response", "mcp_call", "mcp_list_tools"}
    | {"program", "program_output", "reasoning", "shell_call", "shell_call_output", "tool_search_call"}
    | {"tool_search_output", "web_search_call", SKIPPED}
)

# What an item, or a part, needs by its type.
ITEMS: Final[Mapping[str, tuple[str, ...]]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "input_text": ("text",),
    "output_text": ("text",),
    "text": ("text",),
    "refusal": ("refusal",),
    "input_image": (),
    "input_file": (),
    "input_audio": ("input_audio",),
}
# Of these fields one is enough.
SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "input_image": ("image_url", "file_id"),
    "input_file": ("file_data", "file_url", "file_id"),
}


class Part(Known):
    """A part of a message, or of a tool's output."""

    model_config = ConfigDict(validate_default=True)

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: dict[str, Any] | None = None

    @field_validator("type")
    @classmethod
    def _of_known_type(cls, value: str) -> str:
        if value not in PARTS:
            raise fault("part_unknown", "must be one of {allowed}", allowed=", ".join(PARTS))
        return value

    @field_validator("text", "refusal", "input_audio")
    @classmethod
    def _what_it_needs(cls, value: Any, info: ValidationInfo) -> Any:
        return _needed(PARTS, value, info)

    @model_validator(mode="after")
    def _with_a_source(self) -> Self:
        names = SOURCES.get(self.type, ())
        if names and all(getattr(self, name) is None for name in names):
            raise fault("source_missing", "needs {names}", names=" or ".join(names))
        return self

    @property
    def words(self) -> str | None:
        """Its text, if it is one."""
        return self.refusal if self.type == "refusal" else self.text if "text" in PARTS[self.type] else None

    def for_agent(self) -> Message:
        """The part as agents get it."""
        if self.words is not None:
            return {"type": "text", "text": self.words}
        if self.type == "input_audio":
            return {"type": "input_audio", "input_audio": self.input_audio}
        if self.image_url is not None:
            detail = {} if self.detail is None else {"detail": self.detail}
            return {"type": "image_url", "image_url": {"url": self.image_url, **detail}}
        names = ("filename", "file_data", "file_id", "file_url")
        return {"type": "file", "file": {name: value for name in names if (value := getattr(self, name)) is not None}}

    def listed(self, kind: str) -> Message:
        """The part as it is listed; `kind` is what texts are called there."""
        if self.words is not None and self.type != "refusal":
            more: Message = {"annotations": []} if kind == "output_text" else {}
            return {"type": kind, "text": self.words, **more}
        told = self.model_dump(exclude_unset=True)
        return {"detail": "auto", **told} if self.type == "input_image" else told


def _needed(table: Mapping[str, tuple[str, ...]], value: Any, info: ValidationInfo) -> Any:
    if value is None and info.field_name in table.get(info.data.get("type", ""), ()):
        raise fault(MISSING, "is missing")
    return value


Parts = Annotated[list[Part], Field(fail_fast=True), BeforeValidator(as_parts)]


class Item(Known):
    """One item of the input."""

    model_config = ConfigDict(validate_default=True)

    type: str
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Parts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Parts | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_its_type(cls, value: Any) -> Any:
        """One with a role is a message; of those that are ignored nothing is looked at."""
        if not isinstance(value, dict):
            return value
        kind = value.get("type")
        if isinstance(kind, str) and kind in IGNORED:
            return {"type": SKIPPED}
        return {**value, "type": "message"} if kind is None and "role" in value else value

    @field_validator("type")
    @classmethod
    def _of_known_type(cls, value: str) -> str:
        if value not in ITEMS and value != SKIPPED:
            allowed = ", ".join((*ITEMS, *sorted(IGNORED - {SKIPPED})))
            raise fault("item_unknown", "must be one of {allowed}", allowed=allowed)
        return value

    @field_validator("role", "content", "call_id", "name", "arguments", "output")
    @classmethod
    def _what_it_needs(cls, value: Any, info: ValidationInfo) -> Any:
        return _needed(ITEMS, value, info)

    @property
    def text(self) -> str:
        """All text of a message, the parts one below the other."""
        return "\n".join(part.words for part in self.content or () if part.words is not None)


def _as_items(value: Any) -> Any:
    if isinstance(value, str):
        value = [{"type": "message", "role": "user", "content": value}] if value else []
    if not isinstance(value, list):
        raise fault("input_type", "must be a string or an array of items")
    if not value:
        raise fault("input_empty", "must not be empty")
    return value


Items = Annotated[list[Item], Field(fail_fast=True), BeforeValidator(_as_items)]


def instructions_of(items: Iterable[Item]) -> list[str]:
    """The texts of the messages that tell the agent what to do."""
    return [item.text for item in items if item.role in INSTRUCTING and item.text]


def messages_of(items: Iterable[Item]) -> list[Message]:
    """The items as messages for agents, without instructions; calls belong to what the assistant said before them."""
    messages: list[Message] = []
    for item in items:
        if item.type == "function_call":
            _add_call(messages, item)
        elif item.type == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
        elif item.type == "message" and item.role not in INSTRUCTING:
            messages.append({"role": item.role, "content": _content(item.content)})
    return messages


def _add_call(messages: list[Message], item: Item) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    function = {"name": item.name, "arguments": item.arguments}
    messages[-1].setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})


def _content(parts: list[Part] | None) -> str | list[Message]:
    texts = [part.words for part in parts or ()]
    if None in texts:
        return [part.for_agent() for part in parts or ()]
    return "\n".join(text for text in texts if text is not None)


def listed(items: Iterable[Item]) -> list[Message]:
    """The items as they are listed for who asks what was asked; those without an id get one by their place."""
    return [
        {"id": item.id or f"{prefix}_{place}", **tell(item), "status": "completed"}
        for place, item in enumerate(items, 1)
        if item.type != SKIPPED
        for prefix, tell in (LISTED[item.type],)
    ]


def _list_message(item: Item) -> Message:
    kind = "output_text" if item.role == "assistant" else "input_text"
    return {"type": "message", "role": item.role, "content": [part.listed(kind) for part in item.content or ()]}


def _list_call(item: Item) -> Message:
    return {"type": "function_call", "call_id": item.call_id, "name": item.name, "arguments": item.arguments}


def _list_output(item: Item) -> Message:
    content = _content(item.output)
    told = content if isinstance(content, str) else [part.listed("input_text") for part in item.output or ()]
    return {"type": "function_call_output", "call_id": item.call_id, "output": told}


LISTED: Final[Mapping[str, tuple[str, Callable[[Item], Message]]]] = {
    "message": ("msg", _list_message),
    "function_call": ("fc", _list_call),
    "function_call_output": ("fco", _list_output),
}
