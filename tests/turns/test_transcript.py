"""What events add up to."""

from typing import Any

import pytest

from supervisor.turns import transcript as module
from supervisor.turns.transcript import Transcript


def after(*events: dict[str, Any]) -> Transcript:
    transcript = Transcript()
    for event in events:
        transcript.add({"turn": "t", **event})
    return transcript


TEXT = {"type": "text", "text": "Room 4 "}
MORE = {"type": "text", "text": "is free. "}
CALL = {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"room": 4}}
RESULT = {"type": "tool_result", "id": "c1", "name": "look", "output": {"free": True}, "failed": False, "ms": 1.5}


@pytest.mark.parametrize(
    ("events", "text", "has_text"),
    [
        ([], "", False),
        ([TEXT, MORE], "Room 4 is free. ", True),
        ([{"type": "text", "text": ""}], "", True),
        ([{"type": "final"}], "", False),
        ([{"type": "final", "value": "whole"}], "whole", True),
        ([{"type": "final", "value": ""}], "", True),
        ([{"type": "final", "value": 3}], "", False),
        ([TEXT, {"type": "final", "value": "other"}], "Room 4 ", True),
        ([{"type": "thought", "text": "hm"}, TEXT], "Room 4 ", True),
    ],
)
def test_text(events: list[dict[str, Any]], text: str, has_text: bool) -> None:
    transcript = after(*events)
    assert (transcript.text, transcript.has_text) == (text, has_text)


def test_a_call_and_its_result_are_one() -> None:
    [call] = after(CALL, TEXT, RESULT).tool_calls
    assert call == {
        "id": "c1",
        "name": "look",
        "arguments": {"room": 4},
        "output": {"free": True},
        "failed": False,
        "ms": 1.5,
    }


def test_a_call_without_a_result_has_none() -> None:
    [call] = after(CALL).tool_calls
    assert (call["output"], call["failed"], call["ms"]) == (None, False, None)


def test_a_result_of_no_call_is_left_out() -> None:
    assert after(RESULT).tool_calls == []


def test_calls_with_one_id_have_a_result_each() -> None:
    calls = after(CALL, RESULT, CALL, {**RESULT, "output": 2}).tool_calls
    assert [call["output"] for call in calls] == [{"free": True}, 2]


def test_the_rest() -> None:
    source = {"title": "t", "text": "x", "source": "s"}
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    structured = {"value": [1], "schema": None}
    transcript = after(
        {"type": "thought", "text": "a"},
        {"type": "thought", "text": "b"},
        {"type": "source", **source},
        {"type": "usage", **usage},
        {"type": "structured", **structured},
        {"type": "final", "value": None},
    )
    assert transcript.thoughts == "ab"
    assert transcript.sources == [source]
    assert transcript.usage == usage
    assert transcript.structured == structured
    assert (transcript.has_value, transcript.value) == (True, None)


def test_it_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHARACTERS", 10)
    monkeypatch.setattr(module, "MAX_LISTED", 2)
    transcript = after(TEXT, MORE, CALL, CALL, CALL)
    transcript.add({"turn": "t", "type": "text", "text": "!"})
    assert transcript.text == "Room 4 ", "nothing follows where something was left out"
    assert len(transcript.tool_calls) == 2
    assert transcript.truncated


@pytest.mark.parametrize(
    ("value", "answers"),
    [("a", True), ({"incomplete": "x", "a": 1}, True), ({"incomplete": "x"}, False), ({}, True), (None, True)],
)
def test_a_value_that_only_says_why_the_text_is_cut_is_no_answer(value: Any, answers: bool) -> None:
    transcript = Transcript()
    assert not transcript.answers
    transcript.add({"type": "final", "value": value})
    assert transcript.answers is answers


def test_usages_add_up() -> None:
    first = {"type": "usage", "input_tokens": 2, "output_tokens": 1, "model": "small"}
    second = {"type": "usage", "input_tokens": 3, "cached_tokens": 4, "model": "large"}
    odd = {"type": "usage", "input_tokens": "many", "output_tokens": True, "cost": 0.5, "more": {}, "left": -1}
    transcript = after(first, second)
    assert transcript.usage == {"input_tokens": 5, "output_tokens": 1, "cached_tokens": 4, "model": "large"}
    assert after(first, odd).usage == {"input_tokens": 2, "output_tokens": 1, "model": "small"}


def test_a_usage_is_bounded() -> None:
    counts = {f"count_{n}": 1 for n in range(100)}
    many = after({"type": "usage", **counts}, {"type": "usage", "late": 1, **counts}).usage
    assert many == {f"count_{n}": 2 for n in range(32)}
    assert after({"type": "usage", "model": "m" * 300, "n" * 65: 1}).usage == {"model": "m" * 200}
    assert after({"type": "usage", "model": 5}).usage == {}
    large = {"type": "usage", "input_tokens": 2**63}
    assert after(large, large).usage == {"input_tokens": 2**53}
