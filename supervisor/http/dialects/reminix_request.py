"""Bodies of Reminix's calls, checked (wire/reminix.md sections 2, 3 and 9). Pure.

Fields that nobody knows are ignored at the top, and handed on in messages, parts and the context.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from supervisor.causes import Cause, Refusal
from supervisor.graph_file import kind_of
from supervisor.http.faults import check_length
from supervisor.turns.requests import Kind, TurnRequest

SOURCE: Final = "reminix"  # what turns of this API are marked with
AGENT: Final = re.compile("[A-Za-z0-9_-]+")  # the names of agents
ROLES: Final = ("system", "user", "assistant", "tool")
MOST_SHOWN: Final = 64

Body = dict[str, Any]
Message = dict[str, Any]


class Call(NamedTuple):
    """What is asked of an agent, and whether as a stream."""

    kind: Kind
    stream: bool
    context: dict[str, Any]
    messages: list[Message]
    input: Any = None

    def turn_request(self, graph: str) -> TurnRequest:
        """The turn this asks for. Without a conversation nothing is remembered after it."""
        return TurnRequest(
            kind=self.kind,
            graph=graph,
            user=self._named("user_id") or "",
            session=self._named("conversation_id"),
            messages=self.messages,
            input=self.input,
            context=self.context,
            source=SOURCE,
        )

    def _named(self, key: str) -> str | None:
        """A name in the context; what is no name there counts as left out."""
        name = self.context.get(key)
        return name if isinstance(name, str) and name else None


def chat(body: Body) -> Call:
    """A chat. Raises Refusal(BODY_INVALID) that names the field, its value and what is allowed."""
    return Call("chat", _stream(body), _context(body), _messages(body, ""))


def invoke(body: Body) -> Call:
    """An invoke. Raises Refusal(BODY_INVALID)."""
    return Call("invoke", _stream(body), _context(body), [], _input(body))


def chat_as_invoke(body: Body) -> Call:
    """A chat whose messages stand in the input, as newer clients ask. Raises Refusal(BODY_INVALID)."""
    return Call("chat", _stream(body), _context(body), _messages(_input(body), "input."))


def _stream(body: Body) -> bool:
    stream = body.get("stream")
    if not isinstance(stream, bool | None):
        raise _wrong("stream", "a boolean", stream)
    return stream is True


def _context(body: Body) -> dict[str, Any]:
    context = body.get("context")
    if not isinstance(context, dict | None):
        raise _wrong("context", "an object", context)
    return context or {}


def _input(body: Body) -> dict[str, Any]:
    given = body.get("input")
    if given is None:
        raise Refusal(Cause.BODY_INVALID, "input is required")
    if not isinstance(given, dict):
        raise _wrong("input", "an object", given)
    return given


def _messages(body: Body, prefix: str) -> list[Message]:
    messages = body.get("messages")
    name = f"{prefix}messages"
    if not isinstance(messages, list) or not messages:
        raise Refusal(Cause.BODY_INVALID, f"{name} must be a non-empty array")
    check_length(name, messages)
    for index, message in enumerate(messages):
        _check(message, f"{name}[{index}]")
    return messages


def _check(message: Any, name: str) -> None:
    if not isinstance(message, dict):
        raise _wrong(name, "an object", message)
    role = message.get("role")
    if role not in ROLES:  # also when it is none of the types that can be
        raise _wrong(f"{name}.role", f"one of {', '.join(ROLES)}", role)
    content = message.get("content")
    if content is None and role != "assistant":
        raise Refusal(Cause.BODY_INVALID, f"{name}.content is required for the role {role}")
    if not isinstance(content, str | list | dict | None):
        raise _wrong(f"{name}.content", "a string, an array of parts or an object", content)
    for part, value in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(value, dict):
            raise _wrong(f"{name}.content[{part}]", "an object", value)
    for key, (fits, allowed) in OPTIONAL.items():
        if (value := message.get(key)) is not None and not fits(value):
            raise _wrong(f"{name}.{key}", allowed, value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


OPTIONAL: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "name": (_is_text, "a string"),
    "tool_call_id": (_is_text, "a string"),
    "tool_calls": (_are_objects, "an array of objects"),
}


def _wrong(name: str, allowed: str, value: Any) -> Refusal:
    plain = isinstance(value, str | int | float) and len(repr(value)) <= MOST_SHOWN
    shown = repr(value) if plain and not isinstance(value, bool) else kind_of(value)
    return Refusal(Cause.BODY_INVALID, f"{name} must be {allowed}, not {shown}")
