"""What somebody may ask for that is another's: one row for each way into it, by the route it takes.

A row is asked by one user with what is another user's, and with what is nobody's: the two answers have to be the same.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

MADE_UP: Final[Mapping[str, str]] = {
    "channel": "lobbie",
    "session": "sesame",
    "busy": "simsim",
    "turn": "turn-0123456789abcdef0123",
    "task": "task_0123456789abcdef0123456789abcdef",
    "response": "resp_0123456789abcdef0123456789abcdef",
    "running": "resp_0123456789abcdef0123456789abcdef",
    "conversation": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
    "attachment": "0f8fad5b-d9cb-469f-a165-70867728950e",
}


class Row(NamedTuple):
    """A request at a route: `thing` is what of another's it names; ``{x}`` stands for it in the path and the body.

    Where it makes something of the caller's own, `undo` (a request) removes that again.
    """

    method: str
    route: str
    thing: str
    path: str
    body: Any = None
    form: bool = False
    undo: tuple[str, str, Any] | None = None
    blind: bool = False  # also its owner gets that answer: the agent remembers nothing of what it is asked so


def _json(method: str, route: str, thing: str, body: Any, undo: tuple[str, str, Any] | None = None) -> Row:
    return Row(method, route, thing, route, body, undo=undo)


WHO: Final = [{"role": "user", "content": "What is my name?"}]
CALL: Final = "/v1/{project}/agents/{agent}/conversations/{conversation}"
RUN: Final = CALL.replace("/agents", "/agent-run/agents")
STOP: Final = ("POST", "/stop", {"channel_name": "{x}"})

ROWS: Final = [
    _json("POST", "/ping", "channel", {"channel_name": "{x}"}),
    _json("POST", "/stop", "channel", {"channel_name": "{x}"}),
    _json("POST", "/stop", "busy", {"session_id": "{x}", "user_id": "alice"}),
    _json("POST", "/start", "channel", {"channel_name": "{x}", "graph_name": "friday"}, STOP),
    _json("POST", "/channels", "channel", {"name": "{x}", "graph": "friday"}, STOP),
    _json("POST", "/channels", "session", {"name": "own", "graph": "friday", "session": "{x}", "user": ""},
          ("DELETE", "/channels/own", None)),
    Row("GET", "/channels/{name}", "channel", "/channels/{x}"),
    Row("DELETE", "/channels/{name}", "channel", "/channels/{x}"),
    Row("DELETE", "/channels/{name}", "channel", "/channels/{x}?kill=1"),
    Row("PATCH", "/channels/{name}/properties", "channel", "/channels/{x}/properties", {"friday": {"name": "Eve"}}),
    Row("GET", "/channels/{name}/logs", "channel", "/channels/{x}/logs"),
    Row("GET", "/channels/{name}/events", "channel", "/channels/{x}/events"),
    Row("POST", "/channels/{name}/turns", "channel", "/channels/{x}/turns", {"message": "What is my name?"}),
    Row("DELETE", "/channels/{name}/turns/{turn}", "channel", "/channels/{x}/turns/turn-1"),
    Row("DELETE", "/channels/{name}/turns/{turn}", "turn", "/channels/own/turns/{x}"),
    _json("POST", "/vector/document/update", "channel", {"channel_name": "{x}", "collection": "c"}),
    Row("POST", "/vector/document/upload", "channel", "/vector/document/upload", {"channel_name": "{x}"}, form=True),
    Row("GET", "/ledger", "channel", "/ledger?channel={x}"),
    Row("GET", "/ledger", "session", "/ledger?session={x}"),
    _json("POST", "/turns", "session", {"graph": "friday", "session": "{x}", "message": "What is my name?"}),
    _json("POST", "/process", "session", {"session_id": "{x}", "user_id": "alice", "input": [
        {"role": "user", "content": [{"type": "text", "text": "What is my name?"}]}]}),
    Row("GET", "/process/task/{id}", "task", "/process/task/{x}"),
    _json("POST", "/v1/responses", "response", {"input": "What is my name?", "previous_response_id": "{x}"}),
    Row("GET", "/v1/responses/{response}", "response", "/v1/responses/{x}"),
    Row("GET", "/v1/responses/{response}", "response", "/v1/responses/{x}?stream=true"),
    Row("DELETE", "/v1/responses/{response}", "response", "/v1/responses/{x}"),
    Row("POST", "/v1/responses/{response}/cancel", "response", "/v1/responses/{x}/cancel"),
    Row("GET", "/v1/responses/{response}", "running", "/v1/responses/{x}"),
    Row("GET", "/v1/responses/{response}", "running", "/v1/responses/{x}?stream=true"),
    Row("POST", "/v1/responses/{response}/cancel", "running", "/v1/responses/{x}/cancel"),
    Row("DELETE", "/v1/responses/{response}", "running", "/v1/responses/{x}"),
    Row("GET", "/v1/responses/{response}/input_items", "response", "/v1/responses/{x}/input_items"),
    _json("POST", "/v1/chat/completions", "session", {"messages": WHO, "user": "alice", "session_id": "{x}"}),
    Row("POST", "/agent/{agent}/chat", "session", "/agent/friday/chat",
        {"messages": WHO, "context": {"conversation_id": "{x}", "user_id": "alice"}}),
    Row("POST", "/agents/{agent}/invoke", "session", "/agents/friday/invoke",
        {"input": {"messages": WHO}, "context": {"conversation_id": "{x}", "user_id": "alice"}}),
    Row("POST", "/agent/{agent}/invoke", "session", "/agent/echo/invoke",
        {"input": {"a": 1}, "context": {"conversation_id": "{x}", "user_id": "alice"}}, blind=True),
    Row("POST", CALL, "conversation", "/v1/p/agents/friday/conversations/{x}", {"query": "What is my name?"}),
    Row("POST", RUN, "conversation", "/v1/p/agent-run/agents/friday/conversations/{x}", {"query": "What is my name?"}),
    _json("POST", "/api/answer", "conversation", {"question": "What is my name?", "conversation_id": "{x}"}),
    _json("POST", "/stream", "conversation", {"question": "What is my name?", "conversation_id": "{x}"}),
    _json("POST", "/api/answer", "attachment",
          {"question": "What does the file say?", "attachments": ["{x}"], "save_conversation": False}),
    _json("POST", "/stream", "attachment",
          {"question": "What does the file say?", "attachments": ["{x}"], "save_conversation": False}),
    _json("POST", "/api/feedback", "conversation", {"question": "q", "answer": "a", "feedback": "LIKE",
                                                    "conversation_id": "{x}", "question_index": 0}),
]  # fmt: skip

# Routes by which nobody can name what is another's. Lists and streams of many channels have tests of their own.
NAMELESS: Final = frozenset(
    {
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/liveness"),
        ("GET", "/readiness"),
        ("GET", "/api/health"),
        ("GET", "/openapi.json"),
        ("GET", "/list"),
        ("GET", "/channels"),
        ("GET", "/events"),
        ("GET", "/drain"),  # these three only for keys that are not bound to anybody
        ("POST", "/drain"),
        ("DELETE", "/drain"),
        ("GET", "/graphs"),
        ("GET", "/manifest"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model}"),
        ("GET", "/dev-tmp/addons/default-properties"),
        ("GET", "/vector/document/preset/list"),
        ("POST", "/token/generate"),  # of any name, whether or not there is a channel
        ("POST", "/process/task"),  # a session of the caller's own, as in /process
        ("POST", "/api/store_attachment"),
        ("GET", "/api/task_status"),  # who knows the id of a task may ask for it (wire/docsgpt.md section 3)
    }
)

_TOLD: Final = re.compile(r'"properties":\{[^{}]*\}')
_IDS: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}|\d+(?:\.\d+)?")


def same(text: str, name: str) -> str:
    """An answer without what differs from one request to the next: the thing's own name, ids, times.

    And what nodes tell of themselves, which may come a little after they are ready.
    """
    return _IDS.sub("#", _TOLD.sub('"properties":{}', text.replace(name, "{x}")))


def filled(value: Any, name: str) -> Any:
    """A body with a thing's name in its place."""
    if isinstance(value, str):
        return value.replace("{x}", name)
    if isinstance(value, dict):
        return {key: filled(item, name) for key, item in value.items()}
    return [filled(item, name) for item in value] if isinstance(value, list) else value
