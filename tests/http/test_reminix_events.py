"""What Reminix's clients are told of every order of events: the frames of both paths, and the whole answer."""

import json
from typing import Any

import pytest

from supervisor.causes import Cause
from supervisor.http.dialects.reminix import PLURAL, SINGULAR, Form, Reminix
from supervisor.turns.requests import Kind, TurnRequest
from supervisor.turns.transcript import MAX_CHARACTERS
from supervisor.turns.turn import Item, Turn, TurnEnding

TEXT = {"type": "text", "text": "Room 4 "}
MORE = {"type": "text", "text": "is free.\n\n"}
LINES = {"type": "text", "text": '\u2028\x85\u2029 🥊 "x" \\ \r\n data: [DONE]'}
EMPTY = {"type": "text", "text": ""}
THOUGHT = {"type": "thought", "text": "hm"}
CALL = {"type": "tool_call", "id": "c1", "name": "room_status", "arguments": {"room": 4}}
RESULT = {"type": "tool_result", "id": "c1", "name": "room_status", "output": "free"}
OBJECT = {**RESULT, "output": {"state": "free"}}
SOURCE = {"type": "source", "title": "t", "text": "x", "source": "s"}
USAGE = {"type": "usage", "input_tokens": 2, "output_tokens": 3, "total_tokens": 5}
STRUCTURED = {"type": "structured", "value": {"free": True}}
FINAL = {"type": "final", "cause": "completed"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "room_status", "arguments": '{"room":4}'}}
INVALID = {"error": {"type": "InvalidResponseError", "message": "Agent 'x' returned an invalid response"}}


def final(value: Any, **more: Any) -> Any:
    return {**FINAL, "value": value, **more}


def failed(cause: Cause, message: str, kind: str = "") -> Any:
    return {"type": "error", "cause": cause.value, "message": message, "kind": kind}


def a_turn(kind: Kind, events: list[Any]) -> Turn:
    """A turn that has heard all of these."""
    turn = Turn("turn-1", TurnRequest(kind=kind, messages=[{}]), lambda: None)
    for event in events:
        turn.transcript.add(event)
    return turn


def frames(kind: Kind, events: list[Any], form: Form = SINGULAR, *, at_once: bool = True) -> list[bytes]:
    translator = Reminix("x", kind, form)
    told = [*translator.opening(a_turn(kind, events))]
    assert told == []
    for items in [events] if at_once else [[event] for event in events]:
        told += translator.events([Item(event, b"") for event in items])
    assert all(frame.endswith(b"\n\n") and len(frame.decode()[:-2].splitlines()) <= 2 for frame in told)
    return told


def body(kind: Kind, events: list[Any], form: Form = SINGULAR, ending: TurnEnding | None = None) -> tuple[int, Any]:
    translator = Reminix("x", kind, form)
    turn = a_turn(kind, events)
    translator.opening(turn)
    response = translator.body(turn, ending or TurnEnding(Cause.COMPLETED))
    assert response.content_type == "application/json"
    return response.status, json.loads(response.body)  # type: ignore[arg-type]


def chunk(text: str) -> bytes:
    return b'data: {"chunk": %b}\n\n' % json.dumps(text, ensure_ascii=False).encode()


DONE = b"data: [DONE]\n\n"

# Events of a chat, the chunks of its stream, and the message besides its role.
CHATS: list[tuple[list[Any], list[str], dict[str, Any]]] = [
    ([TEXT, FINAL], ["Room 4 "], {"content": "Room 4 "}),
    ([TEXT, MORE, FINAL], ["Room 4 ", "is free.\n\n"], {"content": "Room 4 is free.\n\n"}),
    ([EMPTY, TEXT, EMPTY, FINAL], ["Room 4 "], {"content": "Room 4 "}),
    ([TEXT, CALL, RESULT, MORE, FINAL], ["Room 4 ", "is free.\n\n"], {"content": "Room 4 is free.\n\n"}),
    ([THOUGHT, TEXT, SOURCE, USAGE, FINAL], ["Room 4 "], {"content": "Room 4 "}),
    ([final("all")], ["all"], {"content": "all"}),
    ([USAGE, final("all")], ["all"], {"content": "all"}),
    ([final("")], [], {"content": ""}),  # a valid answer
    ([TEXT, final("other")], ["Room 4 "], {"content": "Room 4 "}),
    ([TEXT, final({"incomplete": "max_output_tokens"})], ["Room 4 "], {"content": "Room 4 "}),
    ([STRUCTURED, FINAL], ['{"free":true}'], {"content": '{"free":true}'}),
    ([final({"role": "assistant", "content": "hi"})], ["hi"], {"content": "hi"}),
    (
        [final({"role": "assistant", "content": None, "tool_calls": [CALLED]})],
        [],
        {"content": None, "tool_calls": [CALLED]},
    ),
    (
        [final({"role": "assistant", "content": "x", "tool_calls": [CALLED]})],
        ["x"],
        {"content": "x", "tool_calls": [CALLED]},
    ),
    ([TEXT, STRUCTURED, FINAL], ["Room 4 "], {"content": "Room 4 "}),
    ([CALL, final({"tool_calls": [{"id": "c1"}]})], [], {"content": None, "tool_calls": [CALLED]}),
    ([TEXT, CALL, final({"tool_calls": [{"id": "c1"}]})], ["Room 4 "], {"content": "Room 4 ", "tool_calls": [CALLED]}),
]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("events", "chunks", "message"), CHATS)
async def test_a_chat(events: Any, chunks: Any, message: Any, at_once: bool) -> None:
    assert frames("chat", events, at_once=at_once) == [*map(chunk, chunks), DONE]
    status, answer = body("chat", events)
    assert (status, answer) == (200, {"message": {"role": "assistant", **message}})
    assert "".join(chunks) == (message["content"] or "")
    assert body("chat", events, PLURAL) == (200, {"output": message["content"] or ""})


# Events of an invoke, its output, and the text of its stream, where that is not the output's JSON or the output itself.
INVOKES: list[tuple[list[Any], Any]] = [
    ([final({"a": [1, None]})], {"a": [1, None]}),
    ([final(None)], None),
    ([final(0)], 0),
    ([final("text")], "text"),
    ([final("")], ""),
    ([TEXT, MORE, FINAL], "Room 4 is free.\n\n"),
    ([TEXT, final("other")], "Room 4 "),
    ([TEXT, MORE, STRUCTURED, FINAL], "Room 4 is free.\n\n"),
    ([CALL, RESULT, final([1])], [1]),
    ([STRUCTURED, FINAL], {"free": True}),
    ([{"type": "structured"}, FINAL], None),  # an agent may leave it out
]


@pytest.mark.parametrize("form", [SINGULAR, PLURAL])
@pytest.mark.parametrize(("events", "output"), INVOKES)
async def test_an_invoke(events: Any, output: Any, form: Form) -> None:
    assert body("invoke", events, form) == (200, {"output": output})
    told = frames("invoke", events, form)
    assert told[-1] == DONE
    pieces = [json.loads(frame.partition(b"data: ")[2]) for frame in told[:-1]]
    text = "".join(piece.get("chunk", piece.get("delta", "")) for piece in pieces)
    assert (text if isinstance(output, str) else json.loads(text)) == output


async def test_a_value_that_is_no_text_wins_over_text() -> None:
    events = [TEXT, final({"a": 1})]
    assert body("invoke", events) == (200, {"output": {"a": 1}})
    assert frames("invoke", events) == [chunk("Room 4 "), DONE], "what was told cannot be taken back"


async def test_no_text_ends_a_line() -> None:
    [piece, _] = frames("chat", [LINES, FINAL])
    assert json.loads(piece[6:]) == {"chunk": LINES["text"]}
    assert piece.count(b"\n") == 2


@pytest.mark.parametrize(
    "value",
    [
        7,
        True,
        ["a"],
        {},
        {"role": "user", "content": "x"},
        {"role": "assistant"},
        {"role": "assistant", "content": 7},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": None, "tool_calls": []},
    ],
)
async def test_a_chat_that_ends_with_no_message_is_invalid(value: Any) -> None:
    assert frames("chat", [final(value)]) == []
    assert body("chat", [final(value)]) == (502, INVALID)


@pytest.mark.parametrize("kind", ["chat", "invoke"])
@pytest.mark.parametrize(
    "events", [[FINAL], [THOUGHT, FINAL], [EMPTY, FINAL], [CALL, RESULT, FINAL], [final({"incomplete": "x"})]]
)
async def test_an_end_without_an_answer_is_invalid(kind: Kind, events: Any) -> None:
    assert frames(kind, events) == []
    assert body(kind, events) == (502, INVALID)


async def test_an_answer_of_which_something_is_lost_is_invalid() -> None:
    lost = {**FINAL, "lost": 3}
    assert frames("chat", [TEXT, lost])[-1] == b'data: {"error": %b}\n\n' % compact(INVALID["error"])
    assert frames("chat", [lost]) == []
    translator, turn = Reminix("x", "chat"), a_turn("chat", [TEXT, FINAL])
    turn.on_gap(3)
    translator.opening(turn)
    assert translator.body(turn, TurnEnding(Cause.COMPLETED)).status == 502
    long = [{"type": "text", "text": "x" * (MAX_CHARACTERS // 2)}] * 3
    assert body("chat", [*long, FINAL]) == (502, INVALID)
    assert len(frames("chat", [*long, FINAL])) == 4, "a stream has no bound"


# How a turn failed, the status, and the error.
FAILURES: list[tuple[TurnEnding, int, str, str]] = [
    (TurnEnding(Cause.AGENT_ERROR, "lookup failed", "LookupError"), 500, "LookupError", "lookup failed"),
    (TurnEnding(Cause.AGENT_ERROR, "", "LookupError"), 500, "LookupError", "Agent 'x' raised LookupError"),
    (TurnEnding(Cause.AGENT_ERROR, "{no} %s format"), 500, "ExecutionError", "{no} %s format"),
    (TurnEnding(Cause.CRASHED, "worker exited with code 7"), 500, "ExecutionError", "worker exited with code 7"),
    (TurnEnding(Cause.OUT_OF_MEMORY, "out of it"), 500, "ExecutionError", "out of it"),
    (TurnEnding(Cause.TURN_CANCELLED, "cancelled"), 500, "ExecutionError", "cancelled"),
    (TurnEnding(Cause.NOT_IMPLEMENTED, "?"), 501, "NotImplementedError", "Agent 'x' does not implement chat"),
    (TurnEnding(Cause.RESPONSE_INVALID, "a set"), 502, *INVALID["error"].values()),
    (TurnEnding(Cause.PROTOCOL_VIOLATED, "no frames"), 502, *INVALID["error"].values()),
    (TurnEnding(Cause.SERVER_STOPPED, "stopping"), 503, "UnavailableError", "stopping"),
    (TurnEnding(Cause.TURN_TIMEOUT, "no answer within 60 s"), 504, "TimeoutError", "no answer within 60 s"),
    (TurnEnding(Cause.TURN_SILENT, "nothing said for 2 s"), 504, "TimeoutError", "nothing said for 2 s"),
]


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize(("ending", "status", "kind", "message"), FAILURES)
async def test_failures(ending: TurnEnding, status: int, kind: str, message: str) -> None:
    error = {"type": kind, "message": message}
    assert body("chat", [], ending=ending) == (status, {"error": error})
    event = failed(ending.cause, ending.detail, ending.kind)
    assert frames("chat", [TEXT, event]) == [chunk("Room 4 "), b'data: {"error": %b}\n\n' % compact(error)]
    assert frames("chat", [TEXT, event], PLURAL)[-1] == b"event: error\ndata: %b\n\n" % compact(error)


async def test_the_newer_path_tells_of_tools() -> None:
    told = frames("chat", [TEXT, CALL, RESULT, CALL, OBJECT, MORE, FINAL], PLURAL)
    assert told[-1] == DONE
    delta = {"type": "text_delta", "delta": "Room 4 "}
    called = {"type": "tool_call", "tool_call": CALLED}
    assert told[:2] == [b"data: %b\n\n" % compact(delta), b"data: %b\n\n" % compact(called)]
    assert [json.loads(frame[6:]) for frame in told[2:-1]] == [
        {"type": "tool_result", "tool_call_id": "c1", "output": "free"},
        called,
        {"type": "tool_result", "tool_call_id": "c1", "output": '{"state":"free"}'},
        {"type": "text_delta", "delta": "is free.\n\n"},
    ]
    error = frames("chat", [CALL, RESULT, FINAL], PLURAL)[-1]
    assert error == b"event: error\ndata: %b\n\n" % compact(INVALID["error"]), "its tools were told already"
