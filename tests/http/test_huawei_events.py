"""What clients of the agent call are told of every order of events: the units, their order and their times."""

import json
import re
from typing import Any

import pytest

from supervisor.causes import Cause
from supervisor.http.dialects.huawei import ENTRY, LOST, MOST_HELD, NO_RESULT, PIECE, TOO_LONG, Huawei
from supervisor.turns.requests import TurnRequest
from supervisor.turns.transcript import MAX_CHARACTERS
from supervisor.turns.turn import Item, Turn, TurnEnding

FIRST = 1_767_225_600_000
FINAL = {"type": "final", "cause": "completed"}
THOUGHT = {"type": "thought", "text": "hm"}
USAGE = {"type": "usage", "input_tokens": 2, "output_tokens": 3, "total_tokens": 5}
SOURCE = {"type": "source", "title": "t", "text": "x", "source": "s"}
STRUCTURED = {"type": "structured", "value": {"free": True}}

# The order that the specification has (section 4), as letters: a unit each.
LETTERS = {
    "start": "S",
    "message": "m",
    "plugin_start": "p",
    "plugin_end": "e",
    "statistic_data": "t",
    "summary_response": "y",
    "done": "d",
    "error": "x",
}
TURN = re.compile(r"Sm*(?:(?:pe)+Sm*)*tyd")
FAILED = re.compile(r"Sm*(?:(?:pe)+Sm*)*(?:(?:pe)*p?)xtd")


def text(value: str) -> Any:
    return {"type": "text", "text": value}


def call(name: str, **arguments: Any) -> Any:
    return {"type": "tool_call", "id": name, "name": f"tool_{name}", "arguments": arguments}


def result(name: str, output: Any, **more: Any) -> Any:
    return {"type": "tool_result", "id": name, "name": f"tool_{name}", "output": output, **more}


def final(value: Any, **more: Any) -> Any:
    return {**FINAL, "value": value, **more}


def failed(cause: Cause, message: str) -> Any:
    return {"type": "error", "cause": cause.value, "message": message}


class Clock:
    """Time that goes on by what an event has under ``after``, in milliseconds."""

    def __init__(self) -> None:
        self.now = FIRST

    def __call__(self) -> int:
        return self.now


def units(events: list[Any], *, at_once: bool = False) -> list[Any]:
    """All units of a stream, each a line of its own; event by event, or in one go."""
    clock = Clock()
    turn = Turn("turn-1", TurnRequest(kind="chat", messages=[{}]), lambda: None)
    translator = Huawei(clock)
    frames = translator.opening(turn)
    for event in events:
        turn.transcript.add({key: value for key, value in event.items() if key != "after"})
    for items in [events] if at_once else [[event] for event in events]:
        clock.now += sum(event.get("after", 0) for event in items)
        frames += translator.events([Item(event, b"") for event in items])
    for frame in frames:
        assert frame.startswith(b'data:{"event":"'), frame
        assert frame.endswith(b"}\n\n")
        assert len(frame.decode()[:-2].splitlines()) == 1
    told = [json.loads(frame[len(b"data:") :]) for frame in frames]
    assert all(list(unit)[-1] == "createdTime" for unit in told)
    times = [unit["createdTime"] for unit in told]
    assert times == sorted(times)
    return told


def order(told: list[Any]) -> str:
    return "".join(LETTERS[unit["event"]] for unit in told)


def summary(told: list[Any]) -> str:
    [content] = [unit["content"] for unit in told if unit["event"] == "summary_response"]
    assert isinstance(content, str)
    return content


ORDERS: list[tuple[list[Any], str, str]] = [
    ([text("a"), text(" b"), FINAL], "Smmtyd", "a b"),
    ([text("a"), text(""), FINAL], "Smtyd", "a"),
    ([FINAL], "Styd", ""),
    ([THOUGHT, USAGE, SOURCE, text("a"), FINAL], "Smtyd", "a"),
    ([text("a"), call("1"), result("1", "x"), text("b"), text("c"), FINAL], "SmpeSmmtyd", "bc"),
    ([call("1"), result("1", "x"), text("b"), FINAL], "SpeSmtyd", "b"),
    ([text("a"), call("1"), result("1", "x"), FINAL], "SmpeStyd", ""),
    ([call("1"), result("1", "x"), call("2"), result("2", "x"), text("b"), FINAL], "SpepeSmtyd", "b"),
    # several at once: pairs, in the order of the calls
    ([call("1"), call("2"), result("1", 1), result("2", 2), text("b"), FINAL], "SpepeSmtyd", "b"),
    ([call("1"), call("2"), result("2", 2), result("1", 1), text("b"), FINAL], "SpepeSmtyd", "b"),
    ([call("1"), call("2"), call("3"), result("3", 3), result("1", 1), result("2", 2), FINAL], "SpepepeStyd", ""),
    # text while a tool runs waits for it
    ([text("a"), call("1"), text("b"), text("c"), result("1", 1), text("d"), FINAL], "SmpeSmmtyd", "bcd"),
    ([call("1"), text("b"), call("2"), result("1", 1), text("c"), result("2", 2), FINAL], "SpepeSmtyd", "bc"),
    # calls that end without a result
    ([call("1"), FINAL], "SpeStyd", ""),
    ([call("1"), text("b"), FINAL], "SpeSmtyd", "b"),
    ([call("1"), call("2"), result("2", 2), FINAL], "SpepeStyd", ""),
    ([text("a"), call("1"), final({"tool_calls": [{"id": "1"}]})], "SmpeStyd", ""),
    # results nobody waits for, and calls that cannot be told apart
    ([result("9", 1), text("a"), FINAL], "Smtyd", "a"),
    ([call("1"), call("1"), result("1", 1), result("1", 1), text("a"), FINAL], "SpeSmtyd", "a"),
    ([call("1"), result("1", 1), call("1"), result("1", 2), text("a"), FINAL], "SpepeSmtyd", "a"),
    # values instead of text
    ([final("all")], "Smtyd", "all"),
    ([text("a"), final("other")], "Smtyd", "a"),
    ([text("a"), call("1"), result("1", 1), final("after all")], "SmpeSmtyd", "after all"),
    ([final({"a": 1})], "Smtyd", '{"a":1}'),
    ([STRUCTURED, FINAL], "Smtyd", '{"free":true}'),
    ([text("a"), final({"incomplete": "max_output_tokens"})], "Smtyd", "a"),
    ([final({"incomplete": "max_output_tokens"})], "Styd", ""),
]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("events", "letters", "end"), ORDERS)
async def test_the_order_of_units(events: Any, letters: str, end: str, at_once: bool) -> None:
    told = units(events, at_once=at_once)
    assert (order(told), summary(told)) == (letters, end)
    assert TURN.fullmatch(letters)
    messages = "".join(unit["content"] for unit in told if unit["event"] == "message")
    assert messages.endswith(end)


async def test_the_published_example() -> None:
    """Section 4's example, to the last character."""
    arguments = {"bay": 7, "at": "12:00"}
    told = units(
        [
            {**text("Checking "), "after": 300},
            {**text("bay 7. "), "after": 10},
            {"type": "tool_call", "id": "1", "name": "bay_status", "arguments": arguments, "after": 20},
            {**result("1", "Free", ms=250.4), "after": 250},
            {**text("Bay 7 is "), "after": 320},
            {**text("free at noon."), "after": 5},
            {**FINAL, "after": 5},
        ]
    )
    assert told == [
        {"event": "start", "createdTime": FIRST},
        {"event": "message", "content": "Checking ", "createdTime": FIRST + 300},
        {"event": "message", "content": "bay 7. ", "createdTime": FIRST + 310},
        {
            "event": "plugin_start",
            "type": "plugin",
            "latency": {"overall": 0.33},
            "plugin": {"name": "bay_status", "arguments": '{"bay": 7, "at": "12:00"}'},
            "createdTime": FIRST + 330,
        },
        {
            "event": "plugin_end",
            "content": {"result": "Free"},
            "role": "function",
            "latency": {"overall": 0.58, "plugin": 0.25},
            "createdTime": FIRST + 580,
        },
        {"event": "start", "createdTime": FIRST + 900},
        {"event": "message", "content": "Bay 7 is ", "createdTime": FIRST + 900},
        {"event": "message", "content": "free at noon.", "createdTime": FIRST + 905},
        {
            "event": "statistic_data",
            "latency": {"overall": 0.91, "model": 0.66, "plugin": 0.25},
            "createdTime": FIRST + 910,
        },
        {
            "event": "summary_response",
            "content": "Bay 7 is free at noon.",
            "role": "assistant",
            "createdTime": FIRST + 910,
        },
        {"event": "done", "createdTime": FIRST + 910},
    ]


@pytest.mark.parametrize(
    ("output", "more", "content"),
    [
        ("Idle", {}, {"result": "Idle"}),
        ({"a": 1}, {}, {"a": 1}),
        ([1], {}, {"result": [1]}),
        (None, {}, {"result": None}),
        ("no such bay", {"failed": True}, {"result": "error: no such bay"}),
        ({"why": "x"}, {"failed": True}, {"result": 'error: {"why":"x"}'}),
    ],
)
async def test_what_a_tool_gave(output: Any, more: Any, content: Any) -> None:
    told = units([call("1"), result("1", output, **more), text("on"), FINAL])
    [end] = [unit for unit in told if unit["event"] == "plugin_end"]
    assert end["content"] == content
    assert order(told) == "SpeSmtyd", "the agent goes on"


async def test_arguments_are_a_text() -> None:
    told = units([call("1"), result("1", 1), call("2", stadt="Köln"), FINAL])
    assert [u["plugin"]["arguments"] for u in told if u["event"] == "plugin_start"] == ["{}", '{"stadt": "Köln"}']
    assert [u["content"] for u in told if u["event"] == "plugin_end"] == [{"result": 1}, {"result": NO_RESULT}]


async def test_times_of_tools_that_run_at_once() -> None:
    """What each tool took adds up, but the time the model took is what is left of the clock's."""
    told = units(
        [
            {**call("1"), "after": 100},
            {**call("2"), "after": 0},
            {**result("2", 2, ms=1000), "after": 1000},
            {**result("1", 1), "after": 500},  # it does not say how long it took
            {**text("a"), "after": 40},
            FINAL,
        ]
    )
    assert [u["latency"] for u in told if u["event"] == "plugin_end"] == [
        {"overall": 1.6, "plugin": 1.5},
        {"overall": 1.6, "plugin": 1.0},
    ]
    assert told[-3]["latency"] == {"overall": 1.64, "model": 0.14, "plugin": 2.5}
    assert units([text("a"), {**FINAL, "after": 1234}])[-3]["latency"] == {"overall": 1.23, "model": 1.23}
    for ms in ("7", -1, True):
        [end] = [u for u in units([call("1"), {**result("1", 1, ms=ms), "after": 3000}, FINAL]) if "role" in u][:1]
        assert end["latency"]["plugin"] == (0.0 if ms is True else 3.0)


ENDINGS: list[tuple[list[Any], str, int, str]] = [
    ([text("a"), failed(Cause.AGENT_ERROR, "bay_status timed out")], "Smxtd", 500, "bay_status timed out"),
    ([failed(Cause.CRASHED, "worker exited with code 7")], "Sxtd", 500, "worker exited with code 7"),
    # died in the tool: straight to the error
    ([text("a"), call("1"), failed(Cause.CRASHED, "gone")], "Smpxtd", 500, "gone"),
    ([call("1"), text("b"), failed(Cause.CRASHED, "gone")], "Spxtd", 500, "gone"),
    ([call("1"), call("2"), result("2", 1), failed(Cause.CRASHED, "gone")], "Spxtd", 500, "gone"),
    ([text("a"), failed(Cause.TURN_TIMEOUT, "no answer within 60 s")], "Smxtd", 504, "no answer within 60 s"),
    ([text("a"), failed(Cause.TURN_SILENT, "nothing said for 2 s")], "Smxtd", 504, "nothing said for 2 s"),
    ([text("a"), {**FINAL, "lost": 2}], "Smxtd", 500, LOST),
]


@pytest.mark.parametrize(("events", "letters", "code", "message"), ENDINGS)
async def test_a_turn_that_fails(events: Any, letters: str, code: int, message: str) -> None:
    told = units(events)
    assert order(told) == letters
    assert FAILED.fullmatch(letters)
    [error] = [unit["data"] for unit in told if unit["event"] == "error"]
    assert error == {
        "code": code,
        "message": message,
        "error_code": "PANGU.0031",
        "error_msg": "Inner service exception",
    }


async def test_what_is_held_is_bounded() -> None:
    """Beyond the bound text no longer waits for the tool, whose result comes too late then."""
    piece = "x" * (MOST_HELD // 4)
    told = units([call("1"), *[text(piece)] * 5, text("more"), result("1", "late"), text("!"), FINAL])
    assert TURN.fullmatch(order(told))
    assert told[2]["content"] == {"result": NO_RESULT}
    assert summary(told) == f"{piece * 5}more!"


@pytest.mark.parametrize("size", [0, 10_000])
async def test_calls_that_are_held_are_bounded(size: int) -> None:
    """Whatever is large in them: arguments, names, ids, or that there are so many."""
    for many in (
        [call(f"{number}", x="y" * size) for number in range(5000)],
        [call(f"{number}{'y' * size}") for number in range(5000)],
        [{**call(f"{number}"), "name": "y" * size} for number in range(5000)],
    ):
        events = [call("first"), *many, *[text("a")] * 10_000, FINAL]
        told = units(events)
        assert TURN.fullmatch(order(told))
        assert order(told).count("p") == 5001
        assert "".join(unit["content"] for unit in told if unit["event"] == "message") == "a" * 10_000
        assert most_at_once(events) < 2 * MOST_HELD // ENTRY + MOST_HELD // PIECE + 10


def most_at_once(events: list[Any]) -> int:
    """The most units that a single event lets go."""
    translator = Huawei(Clock())
    return max(len(translator.events([Item(event, b"")])) for event in events)


async def test_what_was_held_counts_no_more_once_it_is_told() -> None:
    """Tools that overlap for ever: each waits for the one before, and none is given up."""
    events = [call("0")]
    for number in range(1, 10_000):
        events += [call(f"{number}"), result(f"{number - 1}", number)]
    told = units([*events, result("9999", 0), text("a"), FINAL])
    assert order(told) == f"S{'pe' * 10_000}Smtyd"
    assert NO_RESULT not in json.dumps(told)


async def test_text_that_was_held_is_told_in_pieces() -> None:
    told = units([call("1"), *[text("ab")] * 10_000, result("1", 1), FINAL])
    messages = [unit["content"] for unit in told if unit["event"] == "message"]
    assert (len(messages), "".join(messages)) == (-(-20_000 // PIECE), "ab" * 10_000)


async def test_an_answer_that_is_too_long_to_be_repeated() -> None:
    told = units([*[text("x" * (MAX_CHARACTERS // 2))] * 3, FINAL])
    assert order(told) == "Smmmxtd"
    assert told[-3]["data"]["message"] == TOO_LONG


async def test_no_text_ends_a_unit() -> None:
    odd = '\u2028\x85\u2029 🥊 "x" \\ \r\n\n data:x'
    told = units([text(odd), call("1", a=odd), result("1", odd), text(odd), FINAL])
    assert summary(told) == odd


@pytest.mark.parametrize(
    ("cause", "status", "code"),
    [
        (Cause.AGENT_ERROR, 500, "PANGU.0031"),
        (Cause.CRASHED, 500, "PANGU.0031"),
        (Cause.TURN_TIMEOUT, 500, "PANGU.0031"),
        (Cause.NOT_IMPLEMENTED, 404, "PANGU.3254"),
        (Cause.SERVER_STOPPED, 503, "PANGU.0031"),
    ],
)
async def test_a_turn_that_fails_before_there_is_anything_to_tell(cause: Cause, status: int, code: str) -> None:
    turn = Turn("turn-1", TurnRequest(kind="chat", messages=[{}]), lambda: None)
    response = Huawei(Clock()).body(turn, TurnEnding(cause, "why"))
    assert (response.status, json.loads(response.body)["error_code"]) == (status, code)  # type: ignore[arg-type]
