"""From a turn to the messages of a chat completions request. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
KEYS: Final = ("role", "content", "name", "tool_calls", "tool_call_id")

Chat = dict[str, Any]  # one message as the protocol has it


class ConversationError(ValueError):
    """A message that no model can be shown; the text names it and says why."""


def conversation(
    *,
    prompt: str,
    instructions: str | None,
    history: Sequence[Mapping[str, Any]],
    messages: Sequence[Mapping[str, Any]],
    waiting: Sequence[Mapping[str, Any]] = (),
    parts: Sequence[Mapping[str, Any]] = (),
    most: int,
) -> list[Chat]:
    """What the model is shown: who it is, the last `most` messages of the history, and all of the turn's own.

    `waiting` are the calls of the last turn that the client was to answer, and stand before its answers. `parts` are
    the turn's attachments and belong to its last user message. Raises ConversationError for a message of the turn that
    does not fit; what does not fit in the history is left out.
    """
    # One message, since many models know no second one.
    system = "\n\n".join(text for text in (prompt, instructions) if text)
    past = [_message(message) for message in history if not _fault(message)]
    past = past[max(len(past) - most, 0) :]
    for index, message in enumerate(messages):
        if fault := _fault(message):
            raise ConversationError(f"messages[{index}].{fault}")
    now = [_message(message) for message in messages]
    if parts:
        _attach(now, parts)
    if _answers(now, waiting):
        past = _asked(past, waiting)
    shown = _paired([*past, *now])
    if lost := next((message for message in now if message["role"] == "tool" and message not in shown), None):
        raise ConversationError(
            f"a message answers the tool call {lost.get('tool_call_id')!r:.100}, which is not in the conversation"
        )
    if not shown:
        raise ConversationError("a turn needs at least one message")
    return [{"role": "system", "content": system}, *shown] if system else shown


def tool_message(call_id: str, output: str) -> Chat:
    """The answer to one call."""
    return {"role": "tool", "tool_call_id": call_id, "content": output}


def call_of(call_id: str, name: str, arguments: str) -> Chat:
    """One call of a tool in an assistant's message; `arguments` is JSON."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _fault(message: Mapping[str, Any]) -> str:
    """What is wrong with a message, empty when nothing is."""
    if message.get("role", "user") not in ROLES:
        return f"role: {message['role']!r:.100}; allowed are {', '.join(ROLES)}"
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        return f"tool_calls: {calls!r:.100}; allowed is a list of objects"
    return ""


def _message(message: Mapping[str, Any]) -> Chat:
    """One message with the protocol's keys only, its content a string, a list of parts, or null."""
    shown: Chat = {"role": "user"} | {key: message[key] for key in KEYS if message.get(key) is not None}
    content = message.get("content")
    if content is None:
        shown["content"] = None if shown.get("tool_calls") else ""
    elif not isinstance(content, str | list):
        shown["content"] = json.dumps(content, ensure_ascii=False)
    if calls := shown.get("tool_calls"):
        shown["tool_calls"] = [_call(call) for call in calls]
    return shown


def _call(call: Mapping[str, Any]) -> Chat:
    """A call as the protocol has it, from that or from what a turn's transcript keeps of it."""
    if "function" in call:
        return dict(call)
    arguments = call.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return call_of(str(call.get("id", "")), str(call.get("name", "")), text)


def _attach(messages: list[Chat], parts: Iterable[Mapping[str, Any]]) -> None:
    """Put the parts behind the text of the last user message; without one they are a message of their own."""
    index = next((n for n in reversed(range(len(messages))) if messages[n]["role"] == "user"), None)
    if index is None:
        messages.append({"role": "user", "content": [dict(part) for part in parts]})
        return
    content = messages[index]["content"]
    said = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
    messages[index] = {**messages[index], "content": [*said, *(dict(part) for part in parts)]}


def _ids(message: Mapping[str, Any]) -> list[str]:
    return [call.get("id") for call in message.get("tool_calls") or ()]


def _answers(messages: Iterable[Mapping[str, Any]], waiting: Iterable[Mapping[str, Any]]) -> bool:
    """Whether one of the messages answers a waiting call, and none of them repeats it."""
    asked = {call for message in waiting for call in _ids(message)}
    repeated = {call for message in messages for call in _ids(message)}
    return not asked & repeated and any(message.get("tool_call_id") in asked for message in messages)


def _asked(past: Sequence[Chat], waiting: Sequence[Mapping[str, Any]]) -> list[Chat]:
    """The history with the waiting calls as its end; its own account of that turn, if any, has all the turn's text."""
    first, *rest = (dict(message) for message in waiting)
    if past and past[-1]["role"] == "assistant":
        first["content"] = past[-1]["content"] or None
        past = past[:-1]
    return [*past, first, *rest]


def _paired(messages: Sequence[Chat]) -> list[Chat]:
    """The messages without calls that nobody answered and without answers to nothing: both are refused by servers."""
    shown: list[Chat] = []
    open_ids: set[str] = set()
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") in open_ids:
                open_ids.discard(message["tool_call_id"])
                shown.append(message)
            continue
        open_ids = set()
        if not message.get("tool_calls"):
            shown.append(message)
            continue
        answered = set()
        for later in messages[index + 1 :]:
            if later["role"] != "tool":
                break
            answered.add(later.get("tool_call_id"))
        calls = [call for call in message["tool_calls"] if call.get("id") in answered]
        open_ids = {call["id"] for call in calls}
        if calls:
            shown.append({**message, "tool_calls": calls})
        elif message.get("content"):
            shown.append({key: value for key, value in message.items() if key != "tool_calls"})
    return shown
