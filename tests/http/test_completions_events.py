"""What chat completions tell of every order of events: the chunks of a stream, and the whole answer."""

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from supervisor.causes import Cause
from supervisor.http.dialects.completions import Completion
from supervisor.turns.requests import TurnRequest
from supervisor.turns.turn import Item, Turn, TurnEnding

TEXT = {"type": "text", "text": "a"}
MORE = {"type": "text", "text": "\u2028b\n\n"}
THOUGHT = {"type": "thought", "text": "hm"}
CALL = {"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 1}}
OTHER = {**CALL, "id": "c2", "arguments": {}}
RESULT = {"type": "tool_result", "id": "c1", "name": "add", "output": 2}
SOURCE = {"type": "source", "title": "t", "text": "x", "source": "s"}
USAGE = {"type": "usage", "input_tokens": 2, "output_tokens": 3, "total_tokens": 5, "reasoning_tokens": 1}
COUNTS = {
    "prompt_tokens": 2,
    "completion_tokens": 3,
    "total_tokens": 5,
    "completion_tokens_details": {"reasoning_tokens": 1},
}
FINAL = {"type": "final", "cause": "completed"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
OTHER_CALLED = {"id": "c2", "type": "function", "function": {"name": "add", "arguments": "{}"}}
ROLE = {"role": "assistant", "content": ""}


def final(value: Any) -> Any:
    return {**FINAL, "value": value}


def failed(cause: Cause, message: str) -> Any:
    return {"type": "error", "cause": cause.value, "message": message}


def told(events: list[Any], *, at_once: bool = True, include_usage: bool = False) -> list[Any]:
    """The data of all frames; in one go, or event by event."""
    translator = Completion("any", include_usage=include_usage)
    frames = [*translator.opening(a_turn())]
    for items in [events] if at_once else [[event] for event in events]:
        frames += translator.events([Item(event, b"") for event in items])
    assert all(frame.startswith(b"data: ") and frame.endswith(b"\n\n") and frame.count(b"\n") == 2 for frame in frames)
    assert frames.index(b"data: [DONE]\n\n") == len(frames) - 1
    return [json.loads(frame[6:]) for frame in frames[:-1]]


def a_turn() -> Turn:
    turn = Turn("turn-9b1c", TurnRequest(kind="chat", messages=[{}]), lambda: None)
    turn.began_at = 1790000000.5
    return turn


def whole(events: list[Any], ending: TurnEnding | None = None) -> Any:
    """The answer to a request that does not stream."""
    translator = Completion("any")
    turn = a_turn()
    translator.opening(turn)
    translator.events([Item(event, b"") for event in events])
    return translator.body(turn, ending or TurnEnding(Cause.COMPLETED))


# The events, the deltas of the stream, what the whole message has besides its role, and why it ended.
ORDERS: list[tuple[list[Any], list[Any], Any, str]] = [
    ([TEXT, FINAL], [{"content": "a"}], {"content": "a"}, "stop"),
    ([TEXT, MORE, FINAL], [{"content": "a"}, {"content": "\u2028b\n\n"}], {"content": "a\u2028b\n\n"}, "stop"),
    ([FINAL], [], {"content": ""}, "stop"),
    ([final("all")], [{"content": "all"}], {"content": "all"}, "stop"),
    ([final({"a": 1})], [{"content": '{"a":1}'}], {"content": '{"a":1}'}, "stop"),
    (
        [THOUGHT, TEXT, FINAL],
        [{"reasoning_content": "hm"}, {"content": "a"}],
        {"content": "a", "reasoning_content": "hm"},
        "stop",
    ),
    (
        [TEXT, THOUGHT, TEXT, THOUGHT, FINAL],
        [{"content": "a"}, {"reasoning_content": "hm"}] * 2,
        {"content": "aa", "reasoning_content": "hmhm"},
        "stop",
    ),
    ([THOUGHT, FINAL], [{"reasoning_content": "hm"}], {"content": "", "reasoning_content": "hm"}, "stop"),
    # what the agent does by itself does not show
    ([TEXT, CALL, RESULT, TEXT, SOURCE, FINAL], [{"content": "a"}] * 2, {"content": "aa"}, "stop"),
    ([CALL, TEXT, RESULT, FINAL], [{"content": "a"}], {"content": "a"}, "stop"),
    # what the client is to do does
    (
        [TEXT, CALL, final({"tool_calls": [{"id": "c1"}]})],
        [{"content": "a"}, {"tool_calls": [{"index": 0, **CALLED}]}],
        {"content": "a", "tool_calls": [CALLED]},
        "tool_calls",
    ),
    (
        [CALL, OTHER, final({"tool_calls": [{"id": "c1"}, {"id": "c2"}]})],
        [{"tool_calls": [{"index": 0, **CALLED}]}, {"tool_calls": [{"index": 1, **OTHER_CALLED}]}],
        {"content": None, "tool_calls": [CALLED, OTHER_CALLED]},
        "tool_calls",
    ),
    (
        [CALL, RESULT, OTHER, final({"tool_calls": [{"id": "c2"}]})],
        [{"tool_calls": [{"index": 0, **OTHER_CALLED}]}],
        {"content": None, "tool_calls": [OTHER_CALLED]},
        "tool_calls",
    ),
    # an answer that is not whole
    ([TEXT, final({"incomplete": "max_output_tokens"})], [{"content": "a"}], {"content": "a"}, "length"),
    ([final({"incomplete": "max_output_tokens"})], [], {"content": ""}, "length"),
    ([TEXT, final({"incomplete": "content_filter"})], [{"content": "a"}], {"content": "a"}, "content_filter"),
    ([TEXT, {**FINAL, "lost": 3}], [{"content": "a"}], {"content": "a"}, "length"),
]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("events", "deltas", "message", "reason"), ORDERS)
async def test_a_stream(events: Any, deltas: Any, message: Any, reason: str, at_once: bool) -> None:
    chunks = told(events, at_once=at_once)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        about = {name: chunk[name] for name in ("id", "object", "created", "model")}
        expected = {"id": "chatcmpl-9b1c", "object": "chat.completion.chunk", "created": 1790000000, "model": "any"}
        assert about == expected
        assert "usage" not in chunk
    choices = [chunk["choices"] for chunk in chunks]
    assert [len(listed) for listed in choices] == [1] * len(chunks)
    assert [choice["delta"] for [choice] in choices] == [ROLE, *deltas, {}]
    assert [choice["finish_reason"] for [choice] in choices] == [None] * (len(chunks) - 1) + [reason]


@pytest.mark.parametrize(("events", "deltas", "message", "reason"), ORDERS)
async def test_a_whole_answer(events: Any, deltas: Any, message: Any, reason: str) -> None:
    response = whole(events)
    body = json.loads(response.body)
    ChatCompletion.model_validate(body, strict=True)
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "refusal": None, "annotations": [], **message}
    assert (choice["finish_reason"], body["usage"], response.status) == (reason, None, 200)
    assert (body["id"], body["object"], body["model"]) == ("chatcmpl-9b1c", "chat.completion", "any")


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ([], None),
        ([USAGE], COUNTS),
        (  # those of several rounds add up
            [{"type": "usage", "input_tokens": 1, "output_tokens": 2, "total_tokens": 3}] * 2,
            {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6},
        ),
        (  # no count
            [{**USAGE, "reasoning_tokens": "odd"}],
            {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
        ),
        (
            [{"type": "usage", "input_tokens": 1, "output_tokens": 0, "total_tokens": 1, "cached_tokens": 1}],
            {
                "prompt_tokens": 1,
                "completion_tokens": 0,
                "total_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
        ),
    ],
)
async def test_usage(usage: Any, counts: Any) -> None:
    events = [TEXT, *usage, FINAL]
    assert json.loads(whole(events).body)["usage"] == counts
    *chunks, last = told(events, include_usage=True)
    assert (last["choices"], last["usage"]) == ([], counts)
    ChatCompletionChunk.model_validate(last, strict=True)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert told(events)[-1]["choices"]


@pytest.mark.parametrize(
    ("cause", "status", "kind"),
    [
        (Cause.CRASHED, 502, "server_error"),
        (Cause.OUT_OF_MEMORY, 502, "server_error"),
        (Cause.AGENT_ERROR, 500, "server_error"),
        (Cause.TURN_TIMEOUT, 504, "server_error"),
        (Cause.TURN_CANCELLED, 400, "invalid_request_error"),
        (Cause.NOT_IMPLEMENTED, 400, "invalid_request_error"),
        (Cause.SERVER_STOPPED, 503, "server_error"),
    ],
)
@pytest.mark.parametrize("before", [[], [TEXT], [THOUGHT], [CALL], [TEXT, CALL, RESULT]])
async def test_failures(cause: Cause, status: int, kind: str, before: Any) -> None:
    error = {"error": {"message": "it went wrong", "type": kind, "param": None, "code": cause.value}}
    for include_usage in (False, True):
        *chunks, last = told([*before, failed(cause, "it went wrong")], include_usage=include_usage)
        assert last == error
        assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]] == [None] * len(chunks)
    response = whole([*before, failed(cause, "it went wrong")], TurnEnding(cause, "it went wrong"))
    assert (response.status, json.loads(response.body)) == (status, error)
    assert (response.headers["x-should-retry"], response.headers["Agentd-Cause"]) == ("false", cause.value)
    assert "Retry-After" not in response.headers
