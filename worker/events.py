"""What an agent tells during a turn, and the fields of the ``event`` frame that each becomes (docs/pipes.md).

Pure: an event in, fields out.
"""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel


class ResponseError(ValueError):
    """What a handler answered cannot be sent; the text names what, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer. A handler may yield the string itself as well."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning that led to the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool is called; `id` ties its result to it."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the tool gave: any JSON value, or, when it `failed`, why. `ms` is how long it took."""

    id: str
    name: str
    output: Any
    failed: bool = False
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where the answer has something from: a title, the text that was used, and a name or address of its origin."""

    title: str
    text: str = ""
    source: str = ""
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Structured:
    """An answer that is data: any JSON value or a pydantic model, and its JSON schema if there is one."""

    value: Any
    schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used; the total is their sum unless it is given. `details` are further counts by name."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int | None = None
    model: str | None = None
    details: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Final:
    """The value a turn ends with; nothing after it is read from the handler."""

    value: Any


Event = Text | Thought | ToolCall | ToolResult | Source | Structured | Usage | Final

TYPES: typing.Final[Mapping[type, str]] = {
    Text: "text",
    Thought: "thought",
    ToolCall: "tool_call",
    ToolResult: "tool_result",
    Source: "source",
    Structured: "structured",
    Usage: "usage",
    Final: "final",
}

# What a field may hold, by its name, whichever event it is of; those left out may hold any JSON value.
_ALLOWED: typing.Final[Mapping[str, tuple[type, ...]]] = {
    "text": (str,),
    "id": (str,),
    "name": (str,),
    "arguments": (dict,),
    "failed": (bool,),
    "ms": (int, float),
    "title": (str,),
    "source": (str,),
    "filename": (str, type(None)),
    "schema": (dict, type(None)),
    "input_tokens": (int,),
    "output_tokens": (int,),
    "total_tokens": (int, type(None)),
    "model": (str, type(None)),
    "details": (Mapping,),
}
_LEFT_OUT_WHEN_NONE: typing.Final = ("filename", "model")


def as_fields(event: Any) -> dict[str, Any]:
    """The fields of an event's frame, `type` among them; raises ResponseError for no event and for a wrong field."""
    kind = TYPES.get(type(event))
    if kind is None:
        raise ResponseError(
            f"a handler yields text (str) or {', '.join(t.__name__ for t in TYPES)}, "
            f"not {type(event).__name__}: {event!r:.100}"
        )
    fields = {name: getattr(event, name) for name in type(event).__slots__}
    for name, value in fields.items():
        allowed = _ALLOWED.get(name)
        if allowed is not None and not isinstance(value, allowed):
            kinds = " or ".join("None" if t is type(None) else t.__name__ for t in allowed)
            raise ResponseError(f"{type(event).__name__}.{name} is {kinds}, not {type(value).__name__}: {value!r:.100}")
    if isinstance(event, Usage):
        total = event.input_tokens + event.output_tokens if event.total_tokens is None else event.total_tokens
        fields = {**fields.pop("details"), **fields, "total_tokens": total}
    for name in _LEFT_OUT_WHEN_NONE:
        if fields.get(name, True) is None:
            del fields[name]
    return {"type": kind} | {name: plain(value) for name, value in fields.items()}


def plain(value: Any) -> Any:
    """A pydantic model as JSON values; everything else as it is."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
