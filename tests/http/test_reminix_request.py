"""Bodies of Reminix's calls: what becomes of them, and what is refused in which words."""

from typing import Any

import pytest

from supervisor.causes import Cause, Refusal
from supervisor.http.dialects.reminix_errors import error
from supervisor.http.dialects.reminix_request import chat, chat_as_invoke, invoke
from supervisor.http.faults import MOST_MESSAGES

USER = {"role": "user", "content": "Is room 4 free?"}


@pytest.mark.parametrize(
    ("body", "stream"),
    [({}, False), ({"stream": None}, False), ({"stream": False}, False), ({"stream": True}, True)],
)
def test_an_invoke(body: Any, stream: bool) -> None:
    call = invoke({"input": {"a": 1}, "other": [1], **body})
    assert (call.kind, call.input, call.stream, call.context) == ("invoke", {"a": 1}, stream, {})
    assert invoke({"input": {}}).input == {}
    wanted = call.turn_request("echo")
    assert (wanted.kind, wanted.graph, wanted.session, wanted.source) == ("invoke", "echo", None, "reminix")


# Messages that are taken as they are.
GOOD: list[dict[str, Any]] = [
    USER,
    {"role": "system", "content": "Be brief."},
    {"role": "assistant", "content": None},
    {"role": "assistant"},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "content": "free", "tool_call_id": "c1", "name": "room_status"},
    {"role": "tool", "content": "free"},
    {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "smell", "of": "roses"}]},
    {"role": "user", "content": []},
    {"role": "user", "content": {"text": "x"}, "name": None, "other": {"kept": 1}},
]


@pytest.mark.parametrize("message", GOOD)
def test_a_message_is_handed_on_as_it_is(message: Any) -> None:
    assert chat({"messages": [message]}).turn_request("friday").messages == [message]
    assert chat_as_invoke({"input": {"messages": [message]}}).messages == [message]


@pytest.mark.parametrize(
    ("context", "user", "session"),
    [
        (None, "", None),
        ({}, "", None),
        ({"conversation_id": "c", "user_id": "u", "custom": {"x": 1}, "more": 2}, "u", "c"),
        ({"conversation_id": "c"}, "", "c"),
        ({"user_id": "u"}, "u", None),
        ({"conversation_id": 7, "user_id": ["u"]}, "", None),
        ({"conversation_id": "", "user_id": ""}, "", None),
    ],
)
def test_whose_conversation_it_is(context: Any, user: str, session: str | None) -> None:
    wanted = chat({"messages": [USER], "context": context}).turn_request("friday")
    assert (wanted.user, wanted.session, wanted.context) == (user, session, context or {})


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (invoke, {}, "input is required"),
    (invoke, {"input": None}, "input is required"),
    (invoke, {"input": "x"}, "input must be an object, not 'x'"),
    (invoke, {"input": [1]}, "input must be an object, not a list"),
    (invoke, {"input": "x" * 100}, "input must be an object, not a string"),
    (invoke, {"input": {}, "stream": "true"}, "stream must be a boolean, not 'true'"),
    (invoke, {"input": {}, "stream": 1}, "stream must be a boolean, not 1"),
    (invoke, {"input": {}, "context": "c"}, "context must be an object, not 'c'"),
    (chat, {}, "messages must be a non-empty array"),
    (chat, {"messages": None}, "messages must be a non-empty array"),
    (chat, {"messages": []}, "messages must be a non-empty array"),
    (chat, {"messages": {"role": "user"}}, "messages must be a non-empty array"),
    (chat, {"messages": [USER, "x"]}, "messages[1] must be an object, not 'x'"),
    (
        chat,
        {"messages": [{"content": "x"}]},
        "messages[0].role must be one of system, user, assistant, tool, not null",
    ),
    (
        chat,
        {"messages": [{"role": "developer", "content": "x"}]},
        "messages[0].role must be one of system, user, assistant, tool, not 'developer'",
    ),
    (
        chat,
        {"messages": [{"role": ["user"], "content": "x"}]},
        "messages[0].role must be one of system, user, assistant, tool, not a list",
    ),
    (chat, {"messages": [{"role": "user"}]}, "messages[0].content is required for the role user"),
    (chat, {"messages": [{"role": "tool", "content": None}]}, "messages[0].content is required for the role tool"),
    (
        chat,
        {"messages": [{"role": "user", "content": 7}]},
        "messages[0].content must be a string, an array of parts or an object, not 7",
    ),
    (
        chat,
        {"messages": [{"role": "assistant", "content": True}]},
        "messages[0].content must be a string, an array of parts or an object, not a boolean",
    ),
    (
        chat,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, "y"]}]},
        "messages[0].content[1] must be an object, not 'y'",
    ),
    (chat, {"messages": [{**USER, "name": 7}]}, "messages[0].name must be a string, not 7"),
    (chat, {"messages": [{**USER, "tool_call_id": {}}]}, "messages[0].tool_call_id must be a string, not an object"),
    (
        chat,
        {"messages": [{**USER, "tool_calls": [1]}]},
        "messages[0].tool_calls must be an array of objects, not a list",
    ),
    (
        chat,
        {"messages": [USER] * (MOST_MESSAGES + 1)},
        f"messages has {MOST_MESSAGES + 1} messages; at most {MOST_MESSAGES} are allowed",
    ),
    (chat_as_invoke, {}, "input is required"),
    (chat_as_invoke, {"input": {}}, "input.messages must be a non-empty array"),
    (chat_as_invoke, {"input": {"messages": [1]}}, "input.messages[0] must be an object, not 1"),
]


@pytest.mark.parametrize(("read", "body", "message"), REFUSED)
def test_what_is_refused(read: Any, body: Any, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(body)
    assert error(refused.value) == (400, {"error": {"type": "ValidationError", "message": message}})


@pytest.mark.parametrize(
    ("cause", "status", "kind"),
    [
        (Cause.UNAUTHORIZED, 401, "UnauthorizedError"),
        (Cause.HOST_REFUSED, 403, "ForbiddenError"),
        (Cause.GRAPH_UNKNOWN, 404, "NotFoundError"),
        (Cause.METHOD_NOT_ALLOWED, 405, "MethodNotAllowedError"),
        (Cause.BODY_TOO_LARGE, 413, "ValidationError"),
        (Cause.WORKERS_LIMIT, 503, "UnavailableError"),
        (Cause.GRAPH_LIMIT, 503, "UnavailableError"),
        (Cause.SESSION_QUEUE_FULL, 503, "UnavailableError"),
        (Cause.SPAWN_FAILED, 500, "ExecutionError"),
        (Cause.INTERNAL, 500, "ExecutionError"),
    ],
)
def test_refusals(cause: Cause, status: int, kind: str) -> None:
    told, body = error(Refusal(cause, "the detail"))
    limit = cause in (Cause.WORKERS_LIMIT, Cause.GRAPH_LIMIT)
    assert (told, body["error"]) == (
        status,
        {"type": kind, "message": "no worker available" if limit else "the detail"},
    )
