"""What DocsGPT's clients are told of every order of events: the frames of a stream, and the whole answer."""

import json
from typing import Any

import pytest

from supervisor.causes import Cause
from supervisor.http.dialects.docsgpt import LOST, MANY, PAGE, TOO_LONG, DocsGpt
from supervisor.http.dialects.docsgpt_frames import MOST_FRAME, encoded
from supervisor.turns.requests import TurnRequest
from supervisor.turns.transcript import MAX_CHARACTERS
from supervisor.turns.turn import Item, Turn, TurnEnding

ID = "0d8f4b0e-6f2c-4c7e-9a55-2f6a4f7e1c33"
TEXT = {"type": "text", "text": "Bay 7 is "}
MORE = {"type": "text", "text": "free."}
EMPTY = {"type": "text", "text": ""}
THOUGHT = {"type": "thought", "text": "hm"}
CALL = {"type": "tool_call", "id": "c1", "name": "bay_status", "arguments": {"bay": 7}}
RESULT = {"type": "tool_result", "id": "c1", "name": "bay_status", "output": "free", "ms": 1.5}
FAILED = {**RESULT, "output": "no such bay", "failed": True}
SOURCE = {"type": "source", "title": "Bay plan", "text": "Bays 1 to 9", "source": "bays.md", "filename": "bays.md"}
USAGE = {"type": "usage", "input_tokens": 2, "output_tokens": 3, "total_tokens": 5}
DATA = {"type": "structured", "value": {"free": True}, "schema": {"type": "object"}}
FINAL = {"type": "final", "cause": "completed"}

SHOWN = {"tool_name": "bay_status", "call_id": "c1", "action_name": "bay_status", "arguments": {"bay": 7}}
PENDING = {"type": "tool_call", "data": {**SHOWN, "status": "pending"}}
DONE = {"type": "tool_call", "data": {**SHOWN, "result": "free", "status": "completed"}}
ERROR = {"type": "tool_call", "data": {**SHOWN, "result": "no such bay", "status": "error"}}
LISTED = {**SHOWN, "artifact_id": None, "result": "free", "status": "completed"}
SOURCES = [{"title": "Bay plan", "text": "Bays 1 to 9", "source": "bays.md", "filename": "bays.md"}]
END = [{"type": "id", "id": ID}, {"type": "end"}]


def final(value: Any, **more: Any) -> Any:
    return {**FINAL, "value": value, **more}


def said(text: str) -> dict[str, Any]:
    return {"type": "answer", "answer": text}


def calls(*listed: Any) -> dict[str, Any]:
    return {"type": "tool_calls", "tool_calls": list(listed)}


def a_turn(events: list[Any]) -> Turn:
    """A turn that has heard all of these."""
    turn = Turn("turn-1", TurnRequest(kind="chat", messages=[{}]), lambda: None)
    for event in events:
        turn.transcript.add(event)
    return turn


def raw(events: list[Any], *, at_once: bool = True, **options: Any) -> list[bytes]:
    translator = DocsGpt(ID, **options)
    told = [*translator.opening(a_turn(events))]
    for items in [events] if at_once else [[event] for event in events]:
        told += translator.events([Item(event, b"") for event in items])
    for frame in told:
        assert frame.startswith(b'data: {"type": "')
        assert frame.endswith(b"}\n\n")
        assert frame.count(b"\n") == 2
        assert frame.isascii()
        assert len(frame) <= MOST_FRAME < 16 * 1024
    return told


def frames(events: list[Any], **options: Any) -> list[dict[str, Any]]:
    return [json.loads(frame[6:]) for frame in raw(events, **options)]


def body(events: list[Any], ending: TurnEnding | None = None, **options: Any) -> tuple[int, Any]:
    translator = DocsGpt(ID, **options)
    translator.opening(a_turn(events))
    translator.events([Item(event, b"") for event in events])
    response = translator.body(a_turn(events), ending or TurnEnding(Cause.COMPLETED))
    assert response.content_type == "application/json"
    return response.status, json.loads(response.body)  # type: ignore[arg-type]


def whole(**changed: Any) -> tuple[int, Any]:
    parts = {"answer": "", "sources": [], "tool_calls": [], "thought": ""}
    return 200, {"conversation_id": ID, **parts, **changed}


HANDED = {"tool_calls": [{"id": "c1"}]}
WAITING = {**LISTED, "result": "", "status": "pending"}

# Events of a turn, the frames of its stream before ``id``, and what differs in the answer.
TURNS: list[tuple[list[Any], list[Any], dict[str, Any]]] = [
    ([FINAL], [calls()], {}),
    ([TEXT, MORE, FINAL], [said("Bay 7 is "), said("free."), calls()], {"answer": "Bay 7 is free."}),
    ([EMPTY, TEXT, EMPTY, USAGE, FINAL], [said("Bay 7 is "), calls()], {"answer": "Bay 7 is "}),
    (
        [THOUGHT, TEXT, THOUGHT, FINAL],
        [{"type": "thought", "thought": "hm"}, said("Bay 7 is "), {"type": "thought", "thought": "hm"}, calls()],
        {"answer": "Bay 7 is ", "thought": "hmhm"},
    ),
    (
        [SOURCE, TEXT, CALL, RESULT, MORE, FINAL],
        [said("Bay 7 is "), PENDING, DONE, said("free."), {"type": "source", "source": SOURCES}, calls(LISTED)],
        {"answer": "Bay 7 is free.", "sources": SOURCES, "tool_calls": [LISTED]},
    ),
    (
        [CALL, FAILED, FINAL],
        [PENDING, ERROR, calls({**LISTED, "result": "no such bay", "status": "error"})],
        {"tool_calls": [{**LISTED, "result": "no such bay", "status": "error"}]},
    ),
    (
        [CALL, TEXT, FINAL],
        [PENDING, said("Bay 7 is "), calls(WAITING)],
        {"answer": "Bay 7 is ", "tool_calls": [WAITING]},
    ),
    ([RESULT, FINAL], [calls()], {}),
    (
        [CALL, {**CALL, "id": "c2", "artifact_id": "a"}, {**RESULT, "id": "c2"}, RESULT, FINAL],
        [
            PENDING,
            {"type": "tool_call", "data": {**PENDING["data"], "call_id": "c2"}},  # type: ignore[dict-item]
            {"type": "tool_call", "data": {**DONE["data"], "call_id": "c2"}},  # type: ignore[dict-item]
            DONE,
            calls(LISTED, {**LISTED, "call_id": "c2", "artifact_id": "a"}),
        ],
        {"tool_calls": [LISTED, {**LISTED, "call_id": "c2", "artifact_id": "a"}]},
    ),
    # A value is the answer if nothing was said.
    ([final("all of it")], [said("all of it"), calls()], {"answer": "all of it"}),
    ([TEXT, final("all of it")], [said("Bay 7 is "), calls()], {"answer": "Bay 7 is "}),
    ([final({"free": [7]})], [said('{"free":[7]}'), calls()], {"answer": '{"free":[7]}'}),
    ([final(None)], [calls()], {}),
    ([final({"incomplete": "max_output_tokens"})], [calls()], {}),
    ([CALL, final(HANDED)], [PENDING, calls(WAITING)], {"tool_calls": [WAITING]}),
    # So is data.
    (
        [DATA, FINAL],
        [
            calls(),
            {"type": "structured_answer", "answer": '{"free":true}', "structured": True, "schema": {"type": "object"}},
        ],
        {"answer": '{"free":true}', "structured": True, "schema": {"type": "object"}},
    ),
    (
        [{"type": "structured", "value": "free"}, final("other")],
        [calls(), {"type": "structured_answer", "answer": "free", "structured": True, "schema": None}],
        {"answer": "free", "structured": True, "schema": None},
    ),
    ([TEXT, DATA, FINAL], [said("Bay 7 is "), calls()], {"answer": "Bay 7 is "}),
]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("events", "before_id", "changed"), TURNS)
async def test_turns(events: Any, before_id: Any, changed: Any, at_once: bool) -> None:
    assert frames(events, at_once=at_once) == [*before_id, *END]
    assert body(events) == whole(**changed)
    told = "".join(frame["answer"] for frame in before_id if "answer" in frame)
    assert told == changed.get("answer", "")


async def test_an_agent_whose_answers_are_data() -> None:
    data = {"type": "structured_answer", "answer": '{"free":true}', "structured": True, "schema": {"type": "object"}}
    assert frames([TEXT, THOUGHT, DATA, MORE, FINAL], structured=True) == [
        {"type": "thought", "thought": "hm"},
        calls(),
        data,
        *END,
    ]
    assert body([TEXT, DATA, FINAL], structured=True) == whole(
        answer='{"free":true}', structured=True, schema={"type": "object"}
    )
    # Without data the text is the answer after all.
    assert frames([TEXT, MORE, FINAL], structured=True) == [said("Bay 7 is free."), calls(), *END]
    assert body([TEXT, MORE, FINAL], structured=True) == whole(answer="Bay 7 is free.")


async def test_data_that_is_too_long_for_a_frame() -> None:
    wide = {**DATA, "schema": {"description": "x" * 20_000}}
    assert frames([wide, FINAL])[1] == {
        "type": "structured_answer",
        "answer": '{"free":true}',
        "structured": True,
        "schema": None,
    }
    assert body([wide, FINAL])[1]["schema"] == wide["schema"]
    long = {**DATA, "value": ["x" * 20_000]}
    told = frames([long, FINAL])
    assert "".join(frame.get("answer", "") for frame in told) == json.dumps(long["value"])
    assert [frame["type"] for frame in told] == ["answer", "answer", "tool_calls", "id", "end"]


async def test_a_notice_goes_first() -> None:
    notice = "1 attachment was not found and was left out"
    assert frames([TEXT, FINAL], left_out=1)[0] == {"type": "notice", "notice": notice}
    assert frames([FINAL], left_out=2)[0]["notice"] == "2 attachments were not found and were left out"
    assert body([TEXT, FINAL], left_out=1) == whole(answer="Bay 7 is ")


async def test_a_conversation_that_is_not_kept() -> None:
    translator = DocsGpt("None")
    translator.opening(a_turn([FINAL]))
    assert translator.events([Item(FINAL, b"")])[-2:] == [
        b'data: {"type": "id", "id": "None"}\n\n',
        b'data: {"type": "end"}\n\n',
    ]


WILD = [
    "\u2028\u2029\x85\x0b\x0c\x1c\r\n",
    '"\\ data: {"type": "end"}\n\ndata: [DONE]',
    "\0\x7f\x1b",
    "🥊é会议室",
    "a\ud800b",
    "\udd4a\ud83e",
    "\ud83e\udd4a",
    "\\ud83e",
]


@pytest.mark.parametrize("text", WILD)
async def test_wild_texts(text: str) -> None:
    read = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    wild = {"type": "text", "text": text}
    told = frames([{**wild, "type": "thought"}, wild, {**CALL, "arguments": {read: [read]}}, FINAL])
    assert json.loads(encoded({text: [text]})) == {read: [read]}
    assert (told[0]["thought"], told[1]["answer"]) == (read, read)
    assert told[2]["data"]["arguments"] == {read: [read]}
    assert told[-1] == {"type": "end"}
    failed = {"type": "error", "cause": "agent_error", "message": text or "x"}
    assert frames([failed])[0]["type"] == "error"
    assert body([wild, FINAL])[0] == 200


@pytest.mark.parametrize("character", ["x", "é", "\u2028", "🥊", "\0", '"'])
@pytest.mark.parametrize("size", [1_000, 2_559, 2_560, 2_561, 15_355, 15_358, 15_359, 16_384, 100_000])
async def test_long_texts_are_several_frames(character: str, size: int) -> None:
    text = character * size
    for event in ({"type": "text", "text": text}, final(text)):
        told = frames([event] if event["type"] == "final" else [event, FINAL])
        assert "".join(frame.get("answer", "") for frame in told) == text
        assert told[-3:] == [calls(), *END]
    [*thoughts, _, _, _] = frames([{"type": "thought", "text": text}, FINAL])
    assert "".join(frame["thought"] for frame in thoughts) == text


async def test_a_page_gets_many_pieces_at_once_as_one() -> None:
    """It would show each of them anew; a few come one by one, as to everybody else."""
    few = [{"type": "text", "text": f"{number} "} for number in range(MANY - 1)]
    text = "".join(piece["text"] for piece in few)
    for events, page in (([*few, FINAL], PAGE), ([*few, *few, FINAL], DocsGpt(ID).manner)):
        told = frames(events, manner=page)
        assert told == [said(piece["text"]) for piece in events[:-1]] + [calls(), *END]
    mixed = [*few, THOUGHT, THOUGHT, *few, CALL, EMPTY, EMPTY, RESULT, TEXT, FINAL]
    assert frames(mixed, manner=PAGE) == [
        said(text),
        {"type": "thought", "thought": "hmhm"},
        said(text),
        PENDING,
        DONE,
        said("Bay 7 is "),
        calls(LISTED),
        *END,
    ]
    long = [{"type": "text", "text": "x" * 1000}] * 100
    assert text_in(frames([*long, FINAL], manner=PAGE)) == "x" * 100_000


def text_in(told: list[dict[str, Any]]) -> str:
    return "".join(frame.get("answer", "") for frame in told)


async def test_sources_are_shortened() -> None:
    long = "word " * 30
    [shown] = body([{"type": "source", "title": "t", "text": long, "source": "local"}, FINAL])[1]["sources"]
    assert shown == {"title": "t", "text": long[:100].strip() + "...", "source": "local"}
    for text in ("x" * 100, " x "):
        [shown] = body([{"type": "source", "title": "t", "text": text, "source": "s"}, FINAL])[1]["sources"]
        assert shown["text"] == text
    # A worker may say anything.
    odd = {"type": "source", "title": 7, "text": None, "source": ["a"], "filename": 5}
    [shown] = body([odd, FINAL])[1]["sources"]
    assert shown == {"title": "7", "text": "", "source": '["a"]', "filename": "5"}


async def test_results_are_shortened() -> None:
    [call] = body([CALL, {**RESULT, "output": "x" * 2001}, FINAL])[1]["tool_calls"]
    assert call["result"] == "x" * 2000 + "..."
    [call] = body([CALL, {**RESULT, "output": "x" * 2000}, FINAL])[1]["tool_calls"]
    assert call["result"] == "x" * 2000
    [call] = body([CALL, {**RESULT, "output": {"é": [1]}}, FINAL])[1]["tool_calls"]
    assert call["result"] == '{"é": [1]}'
    [call] = body([CALL, {**RESULT, "output": None}, FINAL])[1]["tool_calls"]
    assert (call["result"], call["status"]) == ("", "completed")


@pytest.mark.parametrize("big", ["x" * 50_000, "🥊" * 50_000, "\0" * 50_000, '"\\' * 50_000])
async def test_what_does_not_fit_a_frame_is_cut(big: str) -> None:
    call = {**CALL, "id": f"c{big}", "name": big, "arguments": {big: big}}
    result = {**RESULT, "id": f"c{big}", "name": big, "output": big}
    source = {"type": "source", "title": big, "text": big, "source": big, "filename": big}
    told = frames([call, result, source, FINAL])
    assert [frame["type"] for frame in told] == ["tool_call", "tool_call", "source", "tool_calls", "id", "end"]
    begun, ended = told[0]["data"], told[1]["data"]
    assert begun["arguments"].keys() == {"cut"}
    assert begun["call_id"] == ended["call_id"] == f"c{big}"[:200] + "..."
    assert (ended["status"], ended["result"].endswith("...")) == ("completed", True)
    assert ended["result"].startswith(big[:200])
    assert len(told[2]["source"]) == len(told[3]["tool_calls"]) == 1


async def test_arguments_that_fit_are_whole() -> None:
    call = {**CALL, "arguments": {"text": "x" * 10_000}}
    told = frames([call, {**RESULT, "output": "y" * 1_000}, FINAL])
    assert told[0]["data"]["arguments"] == told[1]["data"]["arguments"] == call["arguments"]
    assert told[2]["tool_calls"][0]["arguments"] == call["arguments"]
    assert body([call, RESULT, FINAL])[1]["tool_calls"][0]["arguments"] == call["arguments"]


async def test_lists_that_do_not_fit_end_early() -> None:
    many = [{**SOURCE, "title": f"{number}", "text": "x" * 200} for number in range(1000)]
    pairs = [
        event
        for number in range(1000)
        for event in ({**CALL, "id": f"{number}"}, {**RESULT, "id": f"{number}", "output": "y" * 500})
    ]
    told = frames([*many, *pairs, FINAL])
    sources, listed = told[-4]["source"], told[-3]["tool_calls"]
    assert [source["title"] for source in sources] == [f"{number}" for number in range(len(sources))]
    assert [call["call_id"] for call in listed] == [f"{number}" for number in range(len(listed))]
    assert 50 < len(sources) < 200
    assert 20 < len(listed) < 200
    assert listed[0]["result"] == "y" * 200 + "..."
    answer = body([*many, *pairs, FINAL])[1]
    assert (len(answer["sources"]), len(answer["tool_calls"])) == (1000, 1000), "in one piece there is room"


async def test_calls_beyond_those_that_are_followed() -> None:
    begun = [{**CALL, "id": f"{number}"} for number in range(300)]
    ended = [{**RESULT, "id": f"{number}"} for number in range(300)]
    told = frames([*begun, *ended, FINAL])
    live = [frame["data"] for frame in told if frame["type"] == "tool_call"]
    assert sum(call["status"] == "pending" for call in live) == 300
    assert sum(call["status"] == "completed" for call in live) == 256
    assert {call["status"] for call in body([*begun, *ended, FINAL])[1]["tool_calls"]} == {"completed"}


# How a turn failed, the status, and the text.
FAILURES: list[tuple[TurnEnding, int, str]] = [
    (TurnEnding(Cause.AGENT_ERROR, "lookup failed", "LookupError"), 400, "lookup failed"),
    (TurnEnding(Cause.AGENT_ERROR, ""), 400, "the agent raised an error"),
    (TurnEnding(Cause.CRASHED, "worker exited with code 7"), 500, "worker exited with code 7"),
    (TurnEnding(Cause.OUT_OF_MEMORY, "out of memory"), 500, "out of memory"),
    (TurnEnding(Cause.TURN_SILENT, "nothing said for 2 s"), 500, "nothing said for 2 s"),
    (TurnEnding(Cause.TURN_TIMEOUT, "no answer within 60 s"), 500, "no answer within 60 s"),
    (TurnEnding(Cause.NOT_IMPLEMENTED, "?"), 500, "no node of the graph answers turns of this kind"),
    (TurnEnding(Cause.SERVER_STOPPED, "?"), 503, "the server was stopped"),
]


@pytest.mark.parametrize(("ending", "status", "text"), FAILURES)
async def test_failures(ending: TurnEnding, status: int, text: str) -> None:
    event = {"type": "error", "cause": ending.cause.value, "message": ending.detail, "kind": ending.kind}
    told = frames([THOUGHT, TEXT, CALL, event])
    assert told[-1] == {"type": "error", "error": text}
    assert [frame["type"] for frame in told] == ["thought", "answer", "tool_call", "error"], "no id, no end"
    assert body([TEXT], ending) == (status, {"error": text})


async def test_a_server_that_stops_says_when_to_come_back() -> None:
    translator = DocsGpt(ID)
    assert "Retry-After" in translator.body(a_turn([]), TurnEnding(Cause.SERVER_STOPPED)).headers


async def test_an_answer_of_which_something_is_lost() -> None:
    assert frames([TEXT, {**FINAL, "lost": 3}]) == [said("Bay 7 is "), {"type": "error", "error": LOST}]
    turn = a_turn([TEXT, FINAL])
    turn.on_gap(3)
    translator = DocsGpt(ID)
    translator.opening(turn)
    assert translator.body(turn, TurnEnding(Cause.COMPLETED)).status == 500


async def test_an_answer_that_is_too_long_to_be_collected() -> None:
    long = [{"type": "text", "text": "x" * (MAX_CHARACTERS // 2)}] * 3
    told = frames([*long, FINAL])
    assert sum(len(frame.get("answer", "")) for frame in told) == 3 * (MAX_CHARACTERS // 2), "a stream has no bound"
    assert told[-1] == {"type": "end"}
    assert body([*long, FINAL]) == (500, {"error": TOO_LONG})
    assert frames([*long, FINAL], structured=True) == [{"type": "error", "error": TOO_LONG}], "what is held has one"
