"""friday as an agent: what it knows from where, its options, its tool; and as a worker that is cancelled or killed."""

import asyncio
import time
from typing import Any

import pytest

from tests.harness.agents import Outside, ask, build, user
from tests.harness.living import Worker, graph, node
from worker.addons.friday import PLAN, Friday
from worker.agent import Kind, PropertyError, Source, ToolCall, ToolResult

UNKNOWN = "I do not know your name: you have not told me."
ASKED = "What is my name?"


def told(name: Any) -> Any:
    return user(f"My name is {name}.")


def test_its_properties() -> None:
    defaults = {"name": "Friday", "greeting": "", "pace_ms": 20.0, "rooms": False, "recalls": True}
    assert build(Friday).describe() == defaults
    assert build(Friday, {"name": "Max", "pace_ms": "0", "rooms": "true", "other": 1}).describe() == {
        "name": "Max", "greeting": "", "pace_ms": 0.0, "rooms": True, "recalls": True
    }  # fmt: skip
    assert Friday.handles() == ["chat"]


@pytest.mark.parametrize(
    ("properties", "fault"),
    [
        ({"name": "x" * 101}, "name: .*at most 100"),
        ({"pace_ms": -1}, "pace_ms: .*not -1"),
        ({"pace_ms": 10_001}, "pace_ms: .*not 10001"),
        ({"pace_ms": "fast"}, "pace_ms: .*not 'fast'"),
        ({"rooms": "maybe"}, "rooms: .*not 'maybe'"),
    ],
)
def test_properties_that_do_not_fit(properties: Any, fault: Any) -> None:
    with pytest.raises(PropertyError, match=fault):
        build(Friday, properties)


async def test_its_name_is_a_property_that_can_change() -> None:
    friday = build(Friday)
    assert "Friday" in (await ask(friday, "Who are you?")).text
    friday.update({"name": "Max"})
    assert "I am Max" in (await ask(friday, "Who are you?")).text


async def test_the_answer_comes_word_by_word() -> None:
    answer = await ask(build(Friday), "What is the capital of France?")
    assert answer.pieces == ["The ", "capital ", "of ", "France ", "is ", "Paris."]
    assert answer.events == answer.pieces
    assert answer.final is None


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({}, UNKNOWN),
        ({"history": [told("Ada")]}, "Your name is Ada."),
        ({"messages": [told("Ada")]}, "Your name is Ada."),
        ({"state": {"name": "Ada"}}, "Your name is Ada."),
        ({"state": {"name": 5}}, UNKNOWN),
        ({"history": [told("Ada"), told("Bob")]}, "Your name is Bob."),
        ({"history": [told("Ada")], "messages": [told("Bob")]}, "Your name is Bob."),
        ({"state": {"name": "Ada"}, "messages": [told("Bob")]}, "Your name is Bob."),
        ({"state": {"name": "Ada"}, "history": [told("Bob")]}, "Your name is Bob."),  # the client went back
        ({"history": [{"role": "assistant", "content": "My name is Friday."}]}, UNKNOWN),
    ],
)
async def test_where_a_name_is_known_from(request_: Any, text: Any) -> None:
    assert (await ask(build(Friday), ASKED, **request_)).text == text


async def test_one_that_recalls_nothing_knows_the_history_only() -> None:
    forgetful = {"recalls": False}
    state = {"name": "Ada"}
    assert (await ask(build(Friday, forgetful), ASKED, state=state)).text == UNKNOWN
    assert (await ask(build(Friday, forgetful), ASKED, state=state, history=[told("Bob")])).text == "Your name is Bob."


async def test_a_name_is_kept_in_the_state_and_nothing_else_is() -> None:
    state = {"other": 1}
    assert (await ask(build(Friday), "My name is Ольга", state=state)).state == {"other": 1, "name": "Ольга"}
    assert (await ask(build(Friday), ASKED, state=state)).text == "Your name is Ольга."
    assert (await ask(build(Friday), "my name is Bob", state=state)).state["name"] == "Bob"
    assert (await ask(build(Friday), ASKED, history=[told("Ada")])).state == {}


async def test_the_question_is_the_last_message_of_the_user() -> None:
    messages = [user("count to 3"), user("Who are you?"), {"role": "assistant", "content": "capital of France"}]
    assert (await ask(build(Friday), messages=messages)).text.startswith("I am Friday")
    parts = [{"type": "text", "text": "capital"}, {"type": "text", "text": "of France"}]
    assert "Paris" in (await ask(build(Friday), parts)).text
    assert (await ask(build(Friday), messages=[{"role": "system", "content": "x"}])).text.startswith("I heard no")


async def test_files_are_named(tmp_path: Any) -> None:
    path = tmp_path / "note"
    path.write_text("Hello")
    note = {"id": "1", "name": "note.txt", "mime_type": "text/plain", "path": str(path), "text": "Hello"}
    cat = {"id": "2", "name": "cat.png", "mime_type": "image/png", "path": str(path)}
    image = [
        {"type": "text", "text": "Describe this image"},
        {"type": "image", "image_url": "data:image/gif;base64,AA=="},
    ]
    assert (await ask(build(Friday), "What do they say?", attachments=[note, cat])).text == (
        'You gave me 2 files: note.txt (text/plain, 5 bytes), which begins "Hello"; image cat.png (image/png, 5 bytes).'
    )
    assert (await ask(build(Friday), image)).text == "You gave me one file: one image (image/gif, 1 bytes)."
    assert "no file or image" in (await ask(build(Friday), "Describe this image")).text


@pytest.mark.parametrize(
    ("properties", "request_", "seconds"),
    [
        ({"pace_ms": 0}, {}, 0),
        ({}, {"options": {"pace_ms": 0}}, 0),
        ({}, {"context": {"pace_ms": 0}}, 0),
        ({"pace_ms": 0}, {"options": {"pace_ms": 15}}, 0.15),
        ({}, {"options": {"pace_ms": None}}, 0.2),
        ({}, {}, 0.2),
    ],
)
async def test_the_pace_of_counting(monkeypatch: Any, properties: Any, request_: Any, seconds: Any) -> None:
    slept, sleep = [], asyncio.sleep
    monkeypatch.setattr("worker.addons.friday.asyncio.sleep", lambda delay: (slept.append(delay), sleep(0))[1])
    answer = await ask(build(Friday, properties), "count to 11", **request_)
    assert answer.pieces == [*(f"{number} " for number in range(1, 11)), "11"]
    assert len(slept) == 10
    assert sum(slept) == pytest.approx(seconds)


@pytest.mark.parametrize("pace", [-1, "fast", 20_000, float("nan"), [1]])
async def test_a_pace_that_is_none_is_refused(pace: Any) -> None:
    with pytest.raises(PropertyError, match="pace_ms: "):
        await ask(build(Friday), "count to 3", options={"pace_ms": pace})


@pytest.mark.parametrize(
    ("question", "arguments", "text"),
    [
        ("Is meeting room 4 free?", {"room": 4}, "Meeting room 4 is free until noon."),
        ("Is A12会议室 free from 9 to 10?", {"room": 12}, "Meeting room 12 is free all day."),
        ("Is a meeting room free?", {}, PLAN.text),
        ("my name is Ada, is conference room 9 free", {"room": 9}, "Meeting room 9 is free until noon."),
    ],
)
async def test_about_rooms_it_makes_one_call_and_reports_one_source(question: Any, arguments: Any, text: Any) -> None:
    answer = await ask(build(Friday, {"rooms": True}), question)
    assert answer.text.endswith(text)
    call, result = answer.events[:2]
    assert (call, answer.events[-1]) == (ToolCall(call.id, "meeting_room_plan", arguments), PLAN)
    assert (result.id, result.name, result.output, result.failed) == (call.id, call.name, text, False)
    assert sum(isinstance(event, ToolCall | ToolResult | Source) for event in answer.events) == 3


async def test_it_knows_of_no_rooms_unless_told_so() -> None:
    answer = await ask(build(Friday), "Is meeting room 4 free?")
    assert answer.text.startswith("You said: ")
    assert answer.events == answer.pieces


def test_the_tool_has_a_schema() -> None:
    assert build(Friday).tool("meeting_room_plan").schema["properties"].keys() == {"room"}


async def test_a_greeting_is_said_to_the_other_nodes_at_the_start() -> None:
    outside = Outside()
    await Friday(outside.context({"greeting": "Good morning."})).start()
    await Friday(outside.context()).start()
    (message,) = outside.messages
    assert (message.kind, message.name) == (Kind.DATA, "text_data")
    assert message.properties["text"] == "Good morning."
    assert (message.properties["role"], message.properties["end_of_segment"]) == ("assistant", True)


# -- in a worker -----------------------------------------------------------------------------------------------------

NODES = (node("friday", "friday"), node("message_collector", "message_collector"))
CONNECTIONS = ({"extension": "friday", "data": [{"name": "text_data", "dest": [{"extension": "message_collector"}]}]},)


@pytest.fixture
def start(tmp_path: Any) -> Any:
    started = []

    def start() -> Any:
        folder = tmp_path / f"channel{len(started)}"
        folder.mkdir()
        started.append(Worker(folder, graph(*NODES, connections=CONNECTIONS), addons={}))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def begin(worker: Any, turn: Any, question: Any, **request: Any) -> None:
    request = {"messages": [user(question)], "user": "u", **request}
    worker.tell({"t": "turn", "turn": turn, "kind": "chat", "request": request})


def event(worker: Any, turn: Any) -> Any:
    return worker.until(lambda frame: frame["t"] == "event" and frame["turn"] == turn)


def finish(worker: Any, turn: Any) -> tuple[list[str], Any]:
    """The pieces of the answer and the event that ended it."""
    pieces = []
    while (frame := event(worker, turn))["type"] == "text":
        pieces.append(frame["text"])
    return pieces, frame


def test_a_worker_says_who_it_is_and_tells_the_transcript(start: Any) -> None:
    worker = start()
    assert worker.type("ready")["nodes"][0] == {"name": "friday", "addon": "friday", "handles": ["chat"]}
    begin(worker, "t1", "Who are you?")
    texts = [worker.until(lambda frame: frame["t"] == "signal" or frame.get("type") == "final") for _ in range(3)]
    said = [(frame["role"], frame["text"]) for frame in texts if frame["t"] == "signal"]
    conversation = [("user", "Who are you?"), ("assistant", "I am Friday, a demo agent that needs no model.")]
    assert said == conversation
    worker.command("transcript", 5)
    entries = worker.reply(5)["result"]["transcript"]
    assert [(entry["role"], entry["text"]) for entry in entries] == conversation


def test_it_counts_at_its_pace_one_number_an_event(start: Any) -> None:
    worker = start()
    began = time.monotonic()
    begin(worker, "t1", "count to 50", options={"pace_ms": 10})
    pieces, final = finish(worker, "t1")
    assert time.monotonic() - began >= 0.49
    assert [piece.strip() for piece in pieces] == [str(number) for number in range(1, 51)]
    assert final["type"] == "final"
    assert final["ms"] >= 490
    assert "state" not in final


def test_counting_is_cancelled_at_once_and_the_worker_goes_on(start: Any) -> None:
    worker = start()
    begin(worker, "t1", "My name is Ada. count to 1000", options={"pace_ms": 10_000})
    while event(worker, "t1")["text"] != "1 ":
        pass
    worker.tell({"t": "cancel", "turn": "t1"})
    pieces, ending = finish(worker, "t1")
    assert (pieces, ending["type"], ending["cause"]) == ([], "error", "turn_cancelled")
    assert ending["state"] == {"name": "Ada"}
    begin(worker, "t2", ASKED)
    assert "".join(finish(worker, "t2")[0]) == "Your name is Ada."


def test_a_count_without_a_pause_can_be_cancelled_too(start: Any) -> None:
    worker = start()
    begin(worker, "t1", "repeat " + "word " * 10_000)
    event(worker, "t1")
    worker.tell({"t": "cancel", "turn": "t1"})
    begin(worker, "t2", "count to 1000", options={"pace_ms": 0})
    assert finish(worker, "t1")[1]["cause"] == "turn_cancelled"
    pieces, ending = finish(worker, "t2")
    assert ("".join(pieces), ending["type"]) == (" ".join(map(str, range(1, 1001))), "final")


def test_the_name_survives_the_process_by_the_state(start: Any) -> None:
    worker = start()
    begin(worker, "t1", "My name is प्रिया.")
    state = finish(worker, "t1")[1]["state"]
    worker.process.kill()
    worker.process.wait()
    worker = start()
    begin(worker, "t2", ASKED, state=state)
    pieces, final = finish(worker, "t2")
    assert "".join(pieces) == "Your name is प्रिया."
    assert "state" not in final  # it did not change


def test_a_bad_pace_ends_the_turn_with_an_error_that_names_it(start: Any) -> None:
    worker = start()
    begin(worker, "t1", "count to 3", options={"pace_ms": "fast"})
    pieces, ending = finish(worker, "t1")
    assert (pieces, ending["cause"], ending["kind"]) == ([], "agent_error", "PropertyError")
    assert "pace_ms" in ending["message"]
    assert "'fast'" in ending["message"]
