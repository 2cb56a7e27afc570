"""What AgentScope's clients are told of a turn, in every order its events can come."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.http.dialects.agentscope import AgentScope, Task
from supervisor.http.dialects.agentscope_objects import Reply
from supervisor.turns.requests import TurnRequest
from supervisor.turns.turn import Item, Turn
from tests.harness.agentscope import LIMIT, Event, event_of, events_of, text_of

FINAL: Event = {"type": "final", "cause": "completed", "ms": 1500.0}


def error(cause: Cause, message: str = "") -> Event:
    return {"type": "error", "cause": cause.value, "message": message or EXPLANATIONS[cause].message, "ms": 10.0}


def text(*pieces: str) -> list[Event]:
    return [{"type": "text", "text": piece} for piece in pieces]


def thought(*pieces: str) -> list[Event]:
    return [{"type": "thought", "text": piece} for piece in pieces]


def call(name: str = "c1", **arguments: Any) -> list[Event]:
    return [{"type": "tool_call", "id": name, "name": "lookup", "arguments": arguments}]


def result(name: str = "c1", output: Any = None, *, failed: bool = False) -> list[Event]:
    return [{"type": "tool_result", "id": name, "name": "lookup", "output": output, "failed": failed}]


def reply(name: str = "response_7f", session: str = "s-42") -> Reply:
    numbers = itertools.count(1)
    return Reply(name, session, 1790000000.25, lambda: f"msg_{next(numbers)}")


async def frames_of(events: Iterable[Event], size: int = 3) -> list[bytes]:
    translator = AgentScope(reply())
    frames = translator.opening(Turn("t", TurnRequest(kind="chat", messages=[{}]), lambda: None))
    items = [Item(event, b"") for event in events]
    for start in range(0, len(items), size):
        frames += translator.events(items[start : start + size])
    return frames


async def told(*events: list[Event], last: Event = FINAL) -> list[Event]:
    return events_of(await frames_of([*itertools.chain(*events), last]))


def outline(events: list[Event]) -> list[str]:
    """Each event in a word or two."""
    words = []
    for event in events:
        more = event["text"] if event.get("delta") else event.get("type", "")
        words.append(f"{event['object']} {event['status']} {more}".strip())
    return words


OPENING = ["response created", "response in_progress"]


def whole(kind: str, *deltas: str) -> list[str]:
    part = "text" if deltas else "data"
    return [
        f"message in_progress {kind}",
        *(f"content in_progress {delta}".strip() for delta in deltas),
        f"content completed {part}",
        f"message completed {kind}",
    ]


ORDERS: dict[str, tuple[list[Event], list[str]]] = {
    "a text": (text("Two rivers", "meet."), whole("message", "Two rivers", "meet.")),
    "thoughts first": (thought("hm") + text("Yes"), [*whole("reasoning", "hm"), *whole("message", "Yes")]),
    "a call and its result": (
        call(q="x") + result(output=[1]) + text("One"),
        [*whole("plugin_call"), *whole("plugin_call_output"), *whole("message", "One")],
    ),
    "calls at once": (
        call("c1") + call("c2") + result("c2") + result("c1") + text("x"),
        [*whole("plugin_call") * 2, *whole("plugin_call_output") * 2, *whole("message", "x")],
    ),
    "two texts": (
        text("a") + call() + result() + text("b"),
        [*whole("message", "a"), *whole("plugin_call"), *whole("plugin_call_output"), *whole("message", "b")],
    ),
    "a result in the middle of a text": (
        call() + text("a") + result() + text("b"),
        [*whole("plugin_call"), *whole("message", "a"), *whole("plugin_call_output"), *whole("message", "b")],
    ),
    "a result of no call": (text("a") + result("c9") + text("b"), whole("message", "a", "b")),
    "what makes no part": (
        [*text("a"), {"type": "source", "title": "t"}, {"type": "usage", "input_tokens": 1}, *text("b")],
        whole("message", "a", "b"),
    ),
    "empty pieces": (text("", "a", ""), whole("message", "a")),
    "nothing but an empty piece": (text(""), whole("message", "")),
    "nothing": ([], whole("message", "")),
    "thoughts only": (thought("hm"), [*whole("reasoning", "hm"), *whole("message", "")]),
}


@pytest.mark.parametrize("name", ORDERS)
async def test_a_turn_that_ends_well(name: str) -> None:
    said, expected = ORDERS[name]
    events = await told(said)
    assert outline(events) == [*OPENING, *expected, "response completed"]


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_it_does_not_matter_how_many_events_come_at_once(size: int) -> None:
    said = [*thought("a", "b"), *call(), *text("c"), *result(output="é\u2028"), *text("d", "e"), FINAL]
    assert await frames_of(said, size) == await frames_of(said)


@pytest.mark.parametrize("count", range(8))
async def test_a_turn_that_fails_anywhere(count: int) -> None:
    said = [*thought("a", "b"), *call(), *text("c"), *result(output=1), *text("d", "e")][:count]
    events = await told(said, last=error(Cause.CRASHED, "signal 9"))
    assert outline(events)[-2:] == ["message failed error", "response failed"]
    failed, last = events[-2:]
    assert (failed["code"], failed["message"], failed["content"]) == ("WORKER_DIED", "signal 9", [])
    assert failed["error"] == last["error"] == {"code": "WORKER_DIED", "message": "signal 9"}
    assert failed["id"] not in {message["id"] for message in last["output"]}


async def test_a_turn_that_was_interrupted() -> None:
    events = await told(text("a"), last=error(Cause.TURN_CANCELLED))
    assert outline(events) == [*OPENING, *whole("message", "a"), "response canceled"]
    assert events[-1]["error"] is None
    assert text_of(events) == "a"


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause.AGENT_ERROR, "AGENT_ERROR"),
        (Cause.CRASHED, "WORKER_DIED"),
        (Cause.TURN_SILENT, "TIMEOUT"),
        (Cause.TURN_TIMEOUT, "TIMEOUT"),
        (Cause.SERVER_STOPPED, "SHUTTING_DOWN"),
        (Cause.START_TIMEOUT, "START_TIMEOUT"),
        (Cause.BODY_INVALID, "INVALID_PARAMETER"),
    ],
)
async def test_codes_of_failures(cause: Cause, code: str) -> None:
    [*_, last] = await told(last=error(cause))
    assert last["error"]["code"] == code


@pytest.mark.parametrize("cause", Cause)
async def test_every_cause_ends_a_reply(cause: Cause) -> None:
    if cause is not Cause.COMPLETED:
        [*_, last] = await told(last=error(cause))
        assert last["status"] == ("canceled" if cause is Cause.TURN_CANCELLED else "failed")


async def test_a_long_complaint_stays_short() -> None:
    events = await told(text("x" * 5000), last=error(Cause.AGENT_ERROR, "\x01" * 2000))
    assert len(events[-1]["error"]["message"]) == 500


async def test_what_a_response_says_of_itself() -> None:
    events = await told(text("a"), [{"type": "usage", "turn": "t", "input_tokens": 3, "total_tokens": 7}])
    first, last = events[0], events[-1]
    for event in (first, last):
        assert (event["id"], event["session_id"], event["created_at"]) == ("response_7f", "s-42", 1790000000)
    assert (first["completed_at"], first["usage"]) == (None, None)
    assert (last["completed_at"], last["usage"]) == (1790000001, {"input_tokens": 3, "total_tokens": 7})


async def test_the_opening_as_printed_in_the_specification() -> None:
    [first, *_] = await frames_of([])
    assert first == (
        b'data: {"sequence_number":0,"object":"response","status":"created","error":null,"id":"response_7f",'
        b'"created_at":1790000000,"completed_at":null,"output":[{"object":"message","status":"created","id":"msg_1",'
        b'"type":"message","role":"assistant","content":[{"object":"content","type":"text","index":0,"delta":true,'
        b'"msg_id":"msg_1","text":""}]}],"usage":null,"session_id":"s-42"}\n\n'
    )


async def test_a_delta_as_printed_in_the_specification() -> None:
    frames = await frames_of([*text("Two rivers "), FINAL])
    assert frames[3] == (
        b'data: {"sequence_number":3,"object":"content","status":"in_progress","error":null,"type":"text","index":0,'
        b'"delta":true,"msg_id":"msg_1","text":"Two rivers ","output":[{"object":"message","status":"in_progress",'
        b'"id":"msg_1","type":"message","role":"assistant","content":[{"object":"content","type":"text","index":0,'
        b'"delta":true,"msg_id":"msg_1","text":"Two rivers "}]}]}\n\n'
    )


async def test_calls_and_results_are_json_in_a_string() -> None:
    events = await told(call(q="ü", n=[1]), result(output={"a": "ü"}), call("c2"), result("c2", "no", failed=True))
    call_part, result_part, _, failed_part, _ = [message["content"][0] for message in events[-1]["output"]]
    assert call_part["data"] == {"call_id": "c1", "name": "lookup", "arguments": '{"q":"ü","n":[1]}'}
    assert json.loads(result_part["data"]["output"]) == {"a": "ü"}
    assert failed_part["data"] == {"call_id": "c2", "name": "lookup", "output": '"no"', "failed": True}
    assert [message["role"] for message in events[-1]["output"]] == ["assistant", "tool"] * 2 + ["assistant"]
    assert call_part["text"] == "", "the first of all has a text"
    assert "text" not in result_part


async def test_a_call_for_the_client_ends_the_turn_without_a_text() -> None:
    handed = {**FINAL, "value": {"tool_calls": [{"id": "c1"}]}}
    events = await told(call(q="x"), last=handed)
    assert outline(events) == [*OPENING, *whole("plugin_call"), "response completed"]


async def test_an_answer_that_is_only_a_value() -> None:
    assert text_of(await told(last={**FINAL, "value": {"a": 1}})) == '{"a":1}'


async def test_an_answer_that_is_not_whole() -> None:
    [*_, last] = await told(text("a"), last={**FINAL, "value": {"incomplete": "max_output_tokens"}})
    assert (last["status"], last["incomplete_details"]) == ("completed", {"reason": "max_output_tokens"})


# ---------------------------------------------------------------------- sizes

PIECES = {
    "ascii": "eight ch",
    "escapes": '"\\\n\x01 "',
    "three bytes": "日本語テキスト八",
    "four bytes": "a🥊b",
    "line ends": "\u2028\u2029\x85\x0b\x1c",
}


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("times", [1, 100, 342, 2000])
async def test_every_frame_is_small_whatever_is_said(name: str, times: int) -> None:
    piece = PIECES[name]
    for said in ([piece * times] * 3, [piece] * times):
        events = await told(thought(*said), text(*said), call(q="x" * times), text(*said))
        assert text_of(events) == "".join(said) * 2


@pytest.mark.parametrize("name", PIECES)
async def test_the_answer_so_far_is_as_long_as_it_may_be(name: str) -> None:
    said = [f"{number} {PIECES[name]}" for number in range(1500)]
    frames = await frames_of(text(*said))
    shown = event_of(frames[-1])["output"][0]["content"][0]
    assert shown["truncated"] is True
    assert len(shown["text"]) == 4096 or len(frames[-1]) > LIMIT - 3 * 1024
    assert "".join(said).endswith(shown["text"])


async def test_the_answer_so_far_of_plain_text_is_the_last_4096_characters() -> None:
    frames = await frames_of(text(*["0123456789"] * 1000))
    for number, frame in enumerate(frames[3:], 1):
        shown = event_of(frame)["output"][0]["content"][0]
        assert shown["text"] == ("0123456789" * number)[-4096:]
        assert shown.get("truncated", False) == (number > 409)


async def test_a_piece_of_a_megabyte() -> None:
    long = "Zwölf Boxkämpfer 🥊 \u2028 jagen\n" * 40_000
    assert text_of(await told(text(long))) == long


async def test_a_result_of_a_megabyte() -> None:
    [*_, last] = await told(text("a"), call(), result(output="x" * 2**20))
    assert len(last["output"][2]["content"][0]["data"]["output"]) == 2**20 + 2


async def test_the_opening_is_small_whatever_the_names_are() -> None:
    translator = AgentScope(reply("\u2028" * 341, "\x01" * 170))
    for frame in translator.opening(Turn("t", TurnRequest(kind="chat", messages=[{}]), lambda: None)):
        assert len(frame) < LIMIT
        assert event_of(frame)["session_id"] == "\x01" * 170


LETTERS = some.sampled_from(["a", " ", "\n", '"', "\\", "\x00", "é", "\x85", "\u2028", "語", "🥊"])
WORDS = some.builds(
    lambda letters, times: "".join(letters) * times, some.lists(LETTERS, max_size=5), some.integers(0, 900)
)
SAID = some.one_of(
    some.builds(text, WORDS),
    some.builds(text, WORDS),
    some.builds(thought, WORDS),
    some.builds(lambda name, word: call(name, q=word), some.sampled_from("abc"), WORDS),
    some.builds(result, some.sampled_from("abc"), WORDS),
)


@settings(max_examples=60, deadline=None)
@given(some.lists(SAID, max_size=12), some.sampled_from([FINAL, error(Cause.CRASHED), error(Cause.TURN_CANCELLED)]))
async def test_any_turn_at_all(said: list[list[Event]], last: Event) -> None:
    events = await told(*said, last=last)
    expected = "".join(event["text"] for events in said for event in events if event["type"] == "text")
    assert text_of(events) == expected


# ---------------------------------------------------------------------- tasks


@pytest.mark.parametrize(
    ("last", "status"),
    [(FINAL, "finished"), (error(Cause.AGENT_ERROR), "error"), (error(Cause.TURN_CANCELLED), "error")],
)
async def test_a_task_has_the_last_event_of_the_stream(last: Event, status: str) -> None:
    said = [*thought("hm"), *text("a"), *call(), *result(output=1), *text("b")]
    task = Task("task_1", reply())
    assert (task.status, task.snapshot()["status"]) == ("running", "in_progress")
    assert task.events([Item(event, b"") for event in said]) == []
    assert task.status == "running"
    task.events([Item(last, b"")])
    assert task.status == status
    streamed = (await told(said, last=last))[-1]
    assert {**task.snapshot(), "sequence_number": 0} == {**streamed, "sequence_number": 0}
