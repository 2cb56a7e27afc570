"""The Response object of OpenAI's API, and the items of its output (wire/openai-responses.md section 5). Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.http.dialects.answer import Kind, Part
from supervisor.http.dialects.responses_request import CHOICES, ResponsesBody
from supervisor.http.envelope import shorten
from supervisor.turns.requests import TurnRequest
from supervisor.turns.transcript import Event

Object = dict[str, Any]

SERVER_ERROR: Final = "server_error"
CANCELLED: Final = "cancelled"
RESPONSE_PREFIX: Final = "resp_"

# Why a turn ended without an answer, where OpenAI has a word for it.
CODES: Final[Mapping[Cause, str]] = {
    Cause.WORKERS_LIMIT: "rate_limit_exceeded",
    Cause.GRAPH_LIMIT: "rate_limit_exceeded",
    Cause.SESSION_QUEUE_FULL: "rate_limit_exceeded",
    Cause.BODY_INVALID: "invalid_prompt",
}
REASONS: Final = ("max_output_tokens", "content_filter")  # why an answer is not whole; of any other the first is told

# Parameters that are told again as they were given; null when they were not.
ECHOED: Final = (
    *("instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt_cache_key"),
    *("safety_identifier", "service_tier", "temperature", "top_logprobs", "top_p", "truncation", "user"),
)


def told_of(body: ResponsesBody, request: TurnRequest, response_id: str, created_at: float) -> Object:
    """What a Response says all the time: its name, and the request."""
    session = request.session if body.session is not None and body.previous_response_id is None else None
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at),
        "model": body.model or request.graph,
        "background": body.background,
        "conversation": None if session is None else {"id": session},
        "metadata": body.metadata,
        "parallel_tool_calls": True if body.parallel_tool_calls is None else body.parallel_tool_calls,
        "reasoning": None if body.reasoning is None else body.reasoning.given(),
        "store": body.store,
        "text": {**body.text.given(), "format": body.text.format.given() or {"type": "text"}},
        "tool_choice": _choice(body),
        "tools": [tool.given() for tool in body.tools],
        **{name: getattr(body, name) for name in ECHOED},
    }


def _choice(body: ResponsesBody) -> str | Object:
    """The choice as it was given: a word, or an object with more than a type."""
    choice = {"type": "auto"} if body.tool_choice is None else body.tool_choice.given()
    return str(choice["type"]) if choice["type"] in CHOICES else choice


def item_id(response_id: str, part: Part) -> str:
    """What the item of a part is called: the same at any time, and nowhere else."""
    return f"{ITEMS[part.kind][0]}_{response_id.removeprefix(RESPONSE_PREFIX)}_{part.index}"


def item_of(response_id: str, part: Part, status: str, content: Sequence[Object] = ()) -> Object:
    """The output item of a part; without `content` as it is when it begins."""
    return {"id": item_id(response_id, part), "status": status, **ITEMS[part.kind][1](part, list(content))}


def whole_item(response_id: str, part: Part, status: str) -> Object:
    """The output item of a part as far as it got."""
    item = item_of(response_id, part, status, content_of(part, part.text))
    return item | {"arguments": part.arguments} if part.kind == "call" else item


def content_of(part: Part, text: str) -> list[Object]:
    """The content of a message or a thought."""
    if part.kind == "text":
        return [{"type": "output_text", "text": text, "annotations": []}]
    return [{"type": "reasoning_text", "text": text}] if part.kind == "thought" else []


def _message(_: Part, content: list[Object]) -> Object:
    return {"type": "message", "role": "assistant", "content": content}


def _reasoning(_: Part, content: list[Object]) -> Object:
    return {"type": "reasoning", "summary": [], "content": content}


def _call(part: Part, _: list[Object]) -> Object:
    return {"type": "function_call", "call_id": part.call["id"], "name": part.call["name"], "arguments": ""}


ITEMS: Final[Mapping[Kind, tuple[str, Callable[[Part, list[Object]], Object]]]] = {
    "text": ("msg", _message),
    "thought": ("rs", _reasoning),
    "call": ("fc", _call),
}


def usage_of(usage: Event | None) -> Object | None:
    """All counts, or null: half a usage is none to the SDK."""
    if usage is None:
        return None
    given, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    return {
        "input_tokens": given,
        "input_tokens_details": {name: usage.get(name, 0) for name in ("cached_tokens", "cache_write_tokens")},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.get("reasoning_tokens", 0)},
        "total_tokens": usage.get("total_tokens") or given + made,
    }


def error_of(cause: Cause, message: str) -> Object:
    """Why there is no answer, for people."""
    return {"code": CODES.get(cause, SERVER_ERROR), "message": shorten(message or EXPLANATIONS[cause].message)}


def reason_of(incomplete: str) -> Object:
    """Why the answer is not whole, in one of OpenAI's words."""
    return {"reason": incomplete if incomplete in REASONS else REASONS[0]}


def doubled(response: Object) -> Object:
    """The object with a copy of itself as `response`, whose output begins with a text if there is one."""
    output = response["output"]
    first = next((item for item in output if item["type"] == "message"), None)
    rest = [item for item in output if item is not first]
    return {**response, "response": {**response, "output": rest if first is None else [first, *rest]}}


def as_lost(response: Object) -> Object:
    """A response on record that nobody works at any more, since its server died."""
    output = [
        item | {"status": "incomplete"} if item["status"] == "in_progress" else item for item in response["output"]
    ]
    error = {"code": SERVER_ERROR, "message": "the server was lost before the response was complete"}
    return {**response, "status": "failed", "error": error, "output": output}
