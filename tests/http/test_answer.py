"""The parts of an answer: which events make which, in which order an API is told of them, and what is kept."""

from typing import Any

import pytest

from supervisor.http.dialects.answer import MOST_PARTS, Answer, Frames, Part
from supervisor.turns.transcript import MAX_BYTES, MAX_CHARACTERS, Event
from supervisor.turns.turn import Item

FINAL = {"type": "final", "cause": "completed"}
ERROR = {"type": "error", "cause": "crashed", "message": "gone"}


class Teller:
    """A voice that says in words what it is told."""

    def begun(self, part: Part, out: Frames) -> None:
        name = f" {part.call['name']}" if part.kind == "call" else ""
        out.append(f"{part.index} {part.kind}{name}".encode())

    def piece(self, part: Part, text: str, out: Frames) -> None:
        out.append(f"{part.index} + {text}".encode())

    def ended(self, part: Part, out: Frames) -> None:
        out.append(f"{part.index} = {part.text if part.kind != 'call' else part.arguments}".encode())

    def result(self, part: Part, out: Frames) -> None:
        out.append(f"{part.index} -> {part.call['output']}{' failed' * part.call['failed']}".encode())

    def over(self, answer: Answer, last: Event, out: Frames) -> None:
        out.append(f"over {last['cause']} {len(answer.parts)}".encode())


def text(piece: str) -> Event:
    return {"type": "text", "text": piece}


def thought(piece: str) -> Event:
    return {"type": "thought", "text": piece}


def call(name: str, **arguments: Any) -> Event:
    return {"type": "tool_call", "id": f"id-{name}", "name": name, "arguments": arguments}


def result(name: str, output: Any, *, failed: bool = False) -> Event:
    return {"type": "tool_result", "id": f"id-{name}", "name": name, "output": output, "failed": failed, "ms": 1.0}


def told(*events: Event, answer: Answer | None = None) -> list[str]:
    frames = (answer or Answer()).follow([Item(event, b"") for event in events], Teller())
    return [frame.decode() for frame in frames]


ORDERS: dict[str, tuple[list[Event], list[str]]] = {
    "a text": ([text("a"), text("b"), FINAL], ["0 text", "0 + a", "0 + b", "0 = ab", "over completed 1"]),
    "thoughts, then a text": (
        [thought("hm"), text("a"), FINAL],
        ["0 thought", "0 + hm", "0 = hm", "1 text", "1 + a", "1 = a", "over completed 2"],
    ),
    "a call and its result between two texts": (
        [text("a"), call("look", q=1), result("look", {"x": 2}), text("b"), FINAL],
        [
            "0 text",
            "0 + a",
            "0 = a",
            "1 call look",
            '1 = {"q":1}',
            "1 -> {'x': 2}",
            "2 text",
            "2 + b",
            "2 = b",
            "over completed 3",
        ],
    ),
    "two calls at a time, the second one answered first": (
        [call("one"), call("two"), result("two", "2"), result("one", "no", failed=True), text("a"), FINAL],
        [
            "0 call one",
            "0 = {}",
            "1 call two",
            "1 = {}",
            "1 -> 2",
            "0 -> no failed",
            "2 text",
            "2 + a",
            "2 = a",
            "over completed 3",
        ],
    ),
    "a result in the middle of a text ends it": (
        [call("one"), text("a"), result("one", 1), text("b"), FINAL],
        ["0 call one", "0 = {}", "1 text", "1 + a", "1 = a", "0 -> 1", "2 text", "2 + b", "2 = b", "over completed 3"],
    ),
    "a result of a call that nobody made": (
        [result("one", 1), text("a"), FINAL],
        ["0 text", "0 + a", "0 = a", "over completed 1"],
    ),
    "an error in the middle": ([text("a"), ERROR], ["0 text", "0 + a", "0 = a", "over crashed 1"]),
    "an error at once": ([ERROR], ["over crashed 0"]),
    "nothing at all": ([FINAL], ["0 text", "0 = ", "over completed 1"]),
    "a text as value": ([FINAL | {"value": "a"}], ["0 text", "0 + a", "0 = a", "over completed 1"]),
    "a value": ([FINAL | {"value": {"a": 1}}], ["0 text", '0 + {"a":1}', '0 = {"a":1}', "over completed 1"]),
    "a value besides a text": ([text("a"), FINAL | {"value": 1}], ["0 text", "0 + a", "0 = a", "over completed 1"]),
    "a structured answer": (
        [{"type": "structured", "value": [1]}, FINAL],
        ["0 text", "0 + [1]", "0 = [1]", "over completed 1"],
    ),
    "an empty text that was cut": ([FINAL | {"value": {"incomplete": "x"}}], ["0 text", "0 = ", "over completed 1"]),
    "calls for the client and no text": (
        [call("one"), FINAL | {"value": {"tool_calls": [{"id": "id-one", "name": "one", "arguments": {}}]}}],
        ["0 call one", "0 = {}", "over completed 1"],
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_in_which_an_api_is_told(name: str) -> None:
    events, expected = ORDERS[name]
    assert told(*events) == expected


@pytest.mark.parametrize("name", ORDERS)
def test_it_does_not_matter_how_many_events_come_at_a_time(name: str) -> None:
    events, expected = ORDERS[name]
    answer = Answer()
    assert [line for event in events for line in told(event, answer=answer)] == expected


def test_what_is_known_besides_the_parts() -> None:
    answer = Answer()
    first = {"type": "usage", "input_tokens": 1}
    second = {"type": "usage", "input_tokens": 2, "cached": 3, "model": "m"}
    told(first, text("a"), second, FINAL, answer=answer)
    assert answer.usage == {"input_tokens": 3, "cached": 3, "model": "m"}
    assert (answer.cut, answer.incomplete) == (False, "")


def test_the_calls_for_the_client() -> None:
    answer = Answer()
    handed = {"tool_calls": [{"id": "id-b", "name": "b", "arguments": {"x": 1}}, {"id": "unknown"}, "odd"]}
    told(call("a"), result("a", 1), call("b", x=1), FINAL | {"value": handed}, answer=answer)
    assert answer.handed == [{"id": "id-b", "name": "b", "arguments": {"x": 1}}]


@pytest.mark.parametrize("value", [None, "x", 1, {}, {"tool_calls": None}, {"tool_calls": [1, {"id": []}]}])
def test_other_values_hand_no_calls(value: Any) -> None:
    answer = Answer()
    told(call("a"), FINAL | {"value": value}, answer=answer)
    assert answer.handed == []


def test_why_an_answer_is_not_whole() -> None:
    reasons = []
    for last in (FINAL, FINAL | {"value": {"incomplete": "content_filter"}}, FINAL | {"lost": 3}):
        answer = Answer()
        told(text("a"), last, answer=answer)
        reasons.append(answer.incomplete)
    assert reasons == ["", "content_filter", "max_output_tokens"]


def test_a_text_beyond_the_bound_is_told_but_not_kept() -> None:
    answer = Answer()
    half = "x" * (MAX_CHARACTERS // 2)
    lines = told(text(half), thought(half), text("y"), text("z"), FINAL, answer=answer)
    assert "2 + y" in lines
    assert [len(part.text) for part in answer.parts] == [len(half), len(half), 0]
    assert answer.incomplete == "max_output_tokens"


def test_parts_beyond_the_bound_are_told_but_not_kept() -> None:
    answer = Answer()
    events = [call(f"c{n}") for n in range(MOST_PARTS + 2)]
    lines = told(*events, result(f"c{MOST_PARTS + 1}", 1), FINAL, answer=answer)
    assert f"{MOST_PARTS + 1} call c{MOST_PARTS + 1}" in lines
    assert len(answer.parts) == MOST_PARTS
    assert answer.cut


def test_results_beyond_the_bound_are_not_told() -> None:
    answer = Answer()
    lines = told(call("a"), call("b"), result("a", "x" * MAX_BYTES), result("b", 1), FINAL, answer=answer)
    assert not any("->" in line for line in lines)
    assert answer.cut


def test_calls_too_large_to_keep_are_told_but_not_kept() -> None:
    answer = Answer()
    calls = [call(f"c{number}", x="y" * (MAX_BYTES // 3)) for number in range(4)]
    lines = told(*calls, result("c3", 1), FINAL, answer=answer)
    assert "3 call c3" in lines
    assert [part.call["name"] for part in answer.parts if part.kind == "call"] == ["c0", "c1"]
    assert answer.cut
