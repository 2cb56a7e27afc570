"""Turns in a whole worker: what its agents tell, and how each turn ends."""

import json
import os
import random
from typing import Any

import pytest

from tests.harness.living import bare, node
from worker.frames import MAX_FRAME
from worker.turns import MOST_FILE


def text(events: Any) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text")


FINAL = {"type": "final"}


def failed(cause: Any, kind: Any, message: Any, **others: Any) -> Any:
    return {"type": "error", "cause": cause, "kind": kind, "message": message, **others}


def test_every_type_of_event(play: Any) -> None:
    assert play().answer("everything") == [
        {"type": "text", "text": "word "},
        {"type": "text", "text": "ü€😀"},
        {"type": "thought", "text": "hm"},
        {"type": "tool_call", "id": "c1", "name": "f", "arguments": {"x": [1]}},
        {"type": "tool_result", "id": "c1", "name": "f", "output": {"y": None}, "failed": False},
        {"type": "tool_result", "id": "c2", "name": "f", "output": "no", "failed": True},
        {"type": "source", "title": "title", "text": "text", "source": "source"},
        {"type": "source", "title": "t", "text": "x", "source": "s", "filename": "f.txt"},
        {"type": "structured", "value": {"a": 1}, "schema": {"type": "object"}},
        {"type": "structured", "value": {"a": 1, "b": 2}, "schema": None},
        {"type": "usage", "input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        {
            "type": "usage",
            "input_tokens": 1,
            "output_tokens": 2,
            "total_tokens": 9,
            "model": "m",
            "cached_tokens": 1,
        },
        {"type": "thought", "text": "again"},
        {"type": "text", "text": "end"},
        FINAL,
    ]


def test_frames_have_their_numbers_and_times(play: Any) -> None:
    worker = play()
    worker.ask("uses add 2")
    frames = [worker.until(lambda f: f["t"] == "event") for _ in range(4)]
    assert [frame["n"] for frame in frames] == list(range(frames[0]["n"], frames[0]["n"] + 4))
    assert {frame["turn"] for frame in frames} == {"t1"}
    assert [bare(frame) for frame in frames] == [
        {"type": "tool_call", "id": "call_t1_1", "name": "add", "arguments": {"a": "2", "b": 3}},
        {"type": "tool_result", "id": "call_t1_1", "name": "add", "output": 5, "failed": False},
        {"type": "text", "text": "5"},
        FINAL,
    ]
    assert 0 <= frames[1]["ms"] <= frames[3]["ms"]


def test_ways_to_answer(play: Any) -> None:
    worker = play()
    for question, events in {
        "returns_text": [{"type": "text", "text": "all of it"}, FINAL],
        "returns_value": [FINAL | {"value": {"a": None}}],
        "returns_final": [FINAL | {"value": "f"}],
        "returns_nothing": [FINAL],
        "returns_stream": [{"type": "text", "text": ""}, FINAL],
        "iterates": [{"type": "text", "text": "1"}, {"type": "text", "text": "0"}, FINAL],
        "ends_early": [{"type": "text", "text": "a"}, FINAL | {"value": [1], "state": {"closed": True}}],
        "survives_a_bad_emit": [{"type": "text", "text": "ResponseError"}, FINAL],
    }.items():
        assert worker.answer(question) == events, question


def test_ways_to_answer_an_invoke(play: Any) -> None:
    worker = play()
    for given, ending in [
        ({"return": 5}, FINAL | {"value": 5}),
        ({"return": "text"}, FINAL | {"value": "text"}),
        ({"return": None}, FINAL),
        ({"model": 1}, FINAL | {"value": {"a": 1, "b": 2}}),
        ([], FINAL),
        ({"raise": "no"}, failed("agent_error", "ValueError", "no")),
    ]:
        assert worker.answer(kind="invoke", input=given) == [ending], given
    for given, told in [
        ("set", "Final: frame 'event' cannot be written as JSON: Type is not JSON serializable: set"),
        ("int", "Final: frame 'event' cannot be written as JSON: Integer exceeds 64-bit range"),
        ("key", "Final: frame 'event' cannot be written as JSON: Dict key must be str"),
        ("large", f"at most {MAX_FRAME} are allowed"),
    ]:
        [ending] = worker.answer(kind="invoke", input={"unfit": given})
        assert (ending["type"], ending["cause"], ending["kind"]) == ("error", "response_invalid", "ResponseError")
        assert told in ending["message"]


FAILURES = [
    ("value_error", "before", "agent_error", "ValueError", "cannot ? do it"),
    ("exits", "", "agent_error", "SystemExit", "5"),
    ("interrupts", "x", "agent_error", "KeyboardInterrupt", "KeyboardInterrupt"),
    ("strange", "", "agent_error", "Strange", "!"),
    ("mute", "", "agent_error", "MuteError", "MuteError"),
    ("long_winded", "", "agent_error", "ValueError", "x" * 2000),
    ("cancels_itself", "", "agent_error", "CancelledError", "CancelledError"),
    ("stops_iterating", "", "agent_error", "RuntimeError", "coroutine raised StopIteration"),
    ("no_such_thing", "", "agent_error", "AttributeError", "'Actor' object has no attribute 'no_such_thing'"),
    ("ignores_its_end", "", "agent_error", "RuntimeError", "async generator ignored GeneratorExit"),
    ("yields_int", "x", "response_invalid", "ResponseError", "not int: 5"),
    ("yields_class", "", "response_invalid", "ResponseError", "a handler yields text (str) or Text, Thought, ToolCall"),
    ("yields_bad_text", "", "response_invalid", "ResponseError", "Text.text is str, not bytes: b'x'"),
    ("yields_bad_arguments", "", "response_invalid", "ResponseError", "ToolCall.arguments is dict, not list: [1]"),
    ("yields_set", "", "response_invalid", "ResponseError", "Structured: frame 'event' cannot be written as JSON"),
    ("yields_surrogate", "", "response_invalid", "ResponseError", "str is not valid UTF-8: surrogates not allowed"),
    ("yields_large_int", "", "response_invalid", "ResponseError", "Integer exceeds 64-bit range"),
    ("yields_large", "", "response_invalid", "ResponseError", "bytes; at most 1048576 are allowed"),
    ("returns_set", "", "response_invalid", "ResponseError", "Type is not JSON serializable: set"),
    ("emits_final", "", "response_invalid", "ResponseError", "yield it or return it"),
    ("goes_on_after_a_bad_yield", "", "response_invalid", "ResponseError", "not int: 5"),
    ("keeps_a_set", "x", "response_invalid", "ResponseError", "the state cannot be written as JSON: Type is not"),
    ("keeps_a_list", "x", "response_invalid", "ResponseError", "the state is an object, not list: [1]"),
    ("keeps_much", "x", "response_invalid", "ResponseError", "bytes; at most 262144 are allowed"),
    ("uses unknown", "", "agent_error", "ToolError", "no tool 'unknown'; there are add, slow, forever, blocking, brok"),
    ("calls_no_tool", "", "agent_error", "TypeError", "a turn calls tools, functions with @tool, not <built-in"),
]


def test_failures_end_their_turn_and_nothing_else(play: Any) -> None:
    worker = play()
    for number, (question, before, cause, kind, told) in enumerate(FAILURES):
        *events, ending = worker.answer(question, f"t{number}")
        assert text(events) == before, question
        assert (ending["type"], ending["cause"], ending["kind"]) == ("error", cause, kind), ending
        assert told in ending["message"]
        assert len(ending["message"]) <= 2000
        assert worker.answer("say on", f"next{number}") == [{"type": "text", "text": "on"}, FINAL]
    lines = (worker.folder / "err").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]  # Python's own are of `ignores_its_end`
    failures = [cause for _, _, cause, *_ in FAILURES].count("agent_error")
    assert [line["event"] for line in logged].count("turn.failed") == failures
    assert "in value_error" in next(line for line in logged if line["turn"] == "t0")["exception"]


def test_a_process_that_ends_in_a_turn(play: Any) -> None:
    worker = play()
    worker.ask("dies")
    assert worker.wait() == 7
    assert worker.event("text") == {"type": "text", "text": "x"}


@pytest.mark.parametrize(
    ("nodes", "kind", "message"),
    [
        ([node("m", "message_collector")], "chat", "no node of the graph answers turns of the kind 'chat'"),
        ([node("o", "obedient")], "invoke", "no node of the graph answers turns of the kind 'invoke'"),
        ([node("a", "actor")], "sing", "no node of the graph answers turns of the kind 'sing'"),
        ([node("a", "actor")], None, "no node of the graph answers turns of the kind None"),
        ([node("a", "actor")], ["chat"], "no node of the graph answers turns of the kind ['chat']"),
        ([node("t", "thick")], "chat", "no node of the graph answers turns of the kind 'chat'"),
    ],
)
def test_kinds_that_nobody_handles(play: Any, nodes: Any, kind: Any, message: Any) -> None:
    worker = play(*nodes)
    worker.ask("x", kind=kind)
    [ending] = worker.events()
    assert ending == failed("not_implemented", "NotHandledError", message)


def test_ready_tells_what_agents_handle_and_the_first_answers(play: Any) -> None:
    worker = play(node("m", "message_collector"), node("o", "obedient", word="o"), node("a", "actor"))
    assert worker.type("ready")["nodes"] == [
        {"name": "m", "addon": "message_collector"},
        {"name": "o", "addon": "obedient", "handles": ["chat"]},
        {"name": "a", "addon": "actor", "handles": ["chat", "invoke"]},
    ]
    assert text(worker.answer("say a")) == "o"
    assert worker.answer(kind="invoke", input={"return": "a"})[0]["value"] == "a"


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize("size", [1 << 16, 4000, 1])
def test_tiny_events_arrive_each_once_and_in_order(play: Any, size: int) -> None:
    worker = play()
    count = 10_000 if size > 1 else 50
    worker.ask(f"tiny {count}")
    found: list[Any] = []
    while not found or found[-1]["type"] != "final":
        worker.read(size)
        found += [bare(frame) for frame in worker.frames if frame["t"] == "event"]
        worker.frames.clear()
    assert [event.get("text") for event in found] == [*(f"{number} " for number in range(count)), None]


def test_much_text(play: Any) -> None:
    worker = play()
    for size, bytes_ in ((10, 10), (14, 20)):
        events = worker.answer(f"much {size}")
        assert text(events) == "0123456789ü€😀\n"[:size] * 80_000
        assert len(events) == (2 if bytes_ * 80_000 < MAX_FRAME - 1024 else 3), "cut without need"


def test_text_that_is_longer_as_json(play: Any) -> None:
    events = play().answer("controls")
    assert text(events) == "\0\x1f" * 400_000
    assert len(events) > 4


def test_lone_surrogates_are_replaced_and_pairs_are_joined(play: Any) -> None:
    assert text(play().answer("surrogates")) == "a😀b\ufffdc\ufffd"


def test_no_event_is_lost_or_doubled_when_readers_are_torn_off(play: Any) -> None:
    chance = random.Random(7)
    worker = play()
    worker.type("ready")
    worker.ask("tiny 3000")
    worker.acknowledging = False
    durable, got = worker.last, []
    while not got or got[-1]["type"] != "final":
        if chance.random() < 0.1:
            worker.attach(durable)
        if not worker.readable(0) or chance.random() < 0.5:
            got += [bare(frame) for frame in worker.frames if frame["t"] == "event"]
            worker.frames.clear()
            durable = worker.last
            worker.tell({"t": "ack", "n": durable})
        if not got or got[-1]["type"] != "final":
            worker.read(chance.choice([1, 100, 4000, 65536]))
    assert text(got) == "".join(f"{number} " for number in range(3000))


# ---------------------------------------------------------------------- state


def test_state_survives_turns_and_is_told_when_it_changed(play: Any) -> None:
    worker = play()
    assert worker.answer("keeps name=Ada")[-1] == FINAL | {"state": {"name": "Ada"}}
    assert worker.answer("keeps name=Ada")[-1] == FINAL
    assert worker.answer("tells")[0]["value"] == {"name": "Ada"}
    kept = {"name": "Ada", "kept": 1}
    assert worker.answer("keeps_and_fails") == [failed("agent_error", "ValueError", "ValueError", state=kept)]
    assert worker.answer("tells") == [{"type": "structured", "value": kept, "schema": None}, FINAL]
    assert worker.answer("replaces")[-1] == FINAL | {"state": {"new": True}}
    assert worker.answer("tells")[0]["value"] == {"new": True}


def test_stored_state_is_restored(play: Any) -> None:
    worker = play()
    assert worker.answer("tells", state={"name": "Ada"}) == [
        {"type": "structured", "value": {"name": "Ada"}, "schema": None},
        FINAL,
    ]
    assert worker.answer("keeps x=y")[-1] == FINAL | {"state": {"name": "Ada", "x": "y"}}


@pytest.mark.parametrize("question", ["keeps_a_set", "keeps_a_list", "keeps_much", "keeps_a_set_and_fails"])
def test_state_that_cannot_be_kept_is_forgotten(play: Any, question: Any) -> None:
    worker = play()
    worker.answer("keeps name=Ada")
    assert "state" not in worker.answer(question)[-1]
    assert worker.answer("tells")[0]["value"] == {"name": "Ada"}


# ---------------------------------------------------------------------- requests


def test_a_request_that_comes_as_a_file(play: Any) -> None:
    worker = play()
    path = worker.folder / "turns" / "1.json"
    path.parent.mkdir()
    words = "word " * 200_000
    path.write_text(json.dumps({"messages": [{"role": "user", "content": f"say {words}"}]}))
    worker.tell({"t": "turn", "turn": "t1", "kind": "chat", "file": "turns/1.json"})
    events = worker.events()
    assert (text(events), events[-1]) == (words, FINAL)
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "the request's file 'turns/1.json': [Errno 2] No such file or directory"),
        (b"{", "the request's file 'turns/1.json': unexpected end of data"),
        (b"[1]", "a request is an object, not [1]"),
        (MOST_FILE + 1, f"the request's file 'turns/1.json': more than {MOST_FILE} bytes"),
        (b'{"messages": 5}', "the request's 'messages' is a list of objects, not 5"),
    ],
)
def test_files_that_are_no_request(play: Any, content: Any, told: Any) -> None:
    worker = play()
    path = worker.folder / "turns" / "1.json"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(b"" if isinstance(content, int) else content)
    if isinstance(content, int):
        os.truncate(path, content)
    worker.tell({"t": "turn", "turn": "t1", "kind": "chat", "file": "turns/1.json"})
    [ending] = worker.events()
    assert (ending["cause"], ending["kind"]) == ("agent_error", "RequestError")
    assert told in ending["message"]
    assert not path.exists()


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (None, "a request is an object, not None"),
        ({"messages": {}}, "the request's 'messages' is a list of objects, not {}"),
        ({"history": ["x"]}, "the request's 'history' is a list of objects, not ['x']"),
        ({"options": []}, "the request's 'options' is an object, not []"),
        ({"attachments": [{"id": "x"}]}, "an attachment of the request has no 'name': {'id': 'x'}"),
    ],
)
def test_requests_that_are_none(play: Any, request_: Any, told: Any) -> None:
    worker = play()
    worker.tell({"t": "turn", "turn": "t1", "kind": "chat", "request": request_})
    [ending] = worker.events()
    assert ending == failed("agent_error", "RequestError", told)


@pytest.mark.parametrize("number", [None, "", 5, "x" * 129])
def test_frames_without_a_proper_turn_are_left_out(play: Any, number: Any) -> None:
    worker = play()
    worker.ask("say x", number)
    assert text(worker.answer("say on")) == "on"
    [line] = (worker.folder / "err").read_text().splitlines()
    assert json.loads(line)["event"] == "turn.bad_frame"


# ---------------------------------------------------------------------- tools


def test_tools_of_functions_and_of_the_agent(play: Any) -> None:
    events = play().answer("calls")
    assert [(e["type"], e.get("name"), e.get("id")) for e in events] == [
        ("tool_call", "add", "call_t1_1"),
        ("tool_result", "add", "call_t1_1"),
        ("tool_call", "my_own", "call_t1_2"),
        ("tool_result", "my_own", "call_t1_2"),
        ("text", None, None),
        ("final", None, None),
    ]
    assert text(events) == "3, a y, a z"


@pytest.mark.parametrize(
    ("question", "output"),
    [
        ("add x", "tool 'add': parameter 'a': Input should be a valid integer, unable to parse string as an integer, "),
        ("slow", "tool 'slow' took longer than 0.05 s"),
        ("broken key", "tool 'broken': KeyError: 'x'"),
        ("broken stop", "tool 'broken': StopIteration: x"),
        ("broken exit", "tool 'broken': SystemExit: x"),
    ],
)
def test_tools_that_fail(play: Any, question: Any, output: Any) -> None:
    call, result, ending = play().answer(f"uses {question}")
    assert (call["type"], result["type"], result["failed"]) == ("tool_call", "tool_result", True)
    assert result["output"].startswith(output)
    assert ending == failed("agent_error", "ToolError", result["output"])


def test_a_result_that_is_no_json(play: Any) -> None:
    call, ending = play().answer("uses unfit")
    assert (call["type"], ending["cause"]) == ("tool_call", "response_invalid")
    assert ending["message"].startswith("ToolResult: frame 'event' cannot be written as JSON: Type is not JSON")


def test_a_blocking_tool_does_not_block_the_worker(play: Any) -> None:
    worker = play(node("a", "actor"), node("e", "echo"))
    flag = worker.folder / "flag"
    worker.ask(f"uses blocking {flag}")
    worker.event("tool_call")
    worker.command("echo")
    assert worker.reply()["ok"] is True
    flag.touch()
    assert worker.event("tool_result")["output"] == "at last"
    assert text(worker.events()) == "at last"


def test_a_task_that_is_left_behind_says_nothing_in_an_ended_turn(play: Any) -> None:
    worker = play()
    assert worker.answer("leaves_a_task") == [{"type": "text", "text": "x"}, FINAL]
    assert worker.until(lambda f: "late" in f)["late"] == "turn 't1' has ended"
    assert text(worker.answer("say on")) == "on"
