"""meeting_room: what it reads out of questions, what it answers, its tool, and the whole of it in a worker."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.agents import ask, build
from tests.harness.living import Worker, graph, node
from worker.addons.meeting_room import CHINESE, ENGLISH, MeetingRoom
from worker.addons.room_questions import MOST_READ, clock_text, read
from worker.agent import PropertyError, ToolCall, ToolError, ToolResult

SECONDS = 3.0  # a million characters in linear time take a fraction of it, in square time minutes


@pytest.mark.parametrize(
    ("question", "room", "times"),
    [
        ("Is meeting room A12 free from 9:00 to 10:00?", "A12", "9:00 10:00"),
        ("Query the status of conference room A12 between 9:00 and 10:00.", "A12", "9:00 10:00"),
        ("查询A12会议室在9:00到10:00的状态", "A12", "9:00 10:00"),
        ("\uff21\uff11\uff12会议室\uff19\uff1a\uff10\uff10到\uff11\uff10\uff1a\uff10\uff10", "A12", "9:00 10:00"),
        ("A12会议室9点到10点是否空闲", "A12", "9:00 10:00"),
        ("会议室A12上午9点至11点半", "A12", "9:00 11:30"),
        ("B3会议室下午2点15分到3点", "B3", "14:15 15:00"),
        ("12号会议室14:30-15:00", "12", "14:30 15:00"),
        ("12號會議室14點到15點", "12", "14:00 15:00"),
        ("晚上10点到12点A1会议室", "A1", "22:00 24:00"),
        ("中午12点到1点A1会议室", "A1", "12:00 13:00"),
        ("中午11点到下午1点A1会议室", "A1", "11:00 13:00"),
        ("is room 12 free 9am to 10am", "12", "9:00 10:00"),
        ("IS ROOM 12 FREE 9 AM TO 10 A.M.?", "12", "9:00 10:00"),
        ("room 12 at 14:30\u201315:00", "12", "14:30 15:00"),
        ("room 12, 9 to 10 am", "12", "9:00 10:00"),
        ("room 12 from 2 to 4 pm", "12", "14:00 16:00"),
        ("room 12 from 11 to 1 pm", "12", "11:00 13:00"),
        ("room 12 11 am to 1", "12", "11:00 13:00"),
        ("room 12 2pm-3", "12", "14:00 15:00"),
        ("room 5 from 3 to 4 in the afternoon", "5", "15:00 16:00"),
        ("room 4 noon to 1 pm", "4", "12:00 13:00"),
        ("room B-7 10 to midnight", "B7", "22:00 24:00"),
        ("room b 7 midnight to 6", "B7", "0:00 6:00"),
        ("room 4 12 am to 12 pm", "4", "0:00 12:00"),
        ("Is A12 free between 9 and 10?", "A12", "9:00 10:00"),
        ("a12 08:00 10:05", "A12", "8:00 10:05"),
        ("from 9 to 10 I need Room #12", "12", "9:00 10:00"),
        ("Book meeting room no. 7 for 9 o'clock until 10 o\u2019clock", "7", "9:00 10:00"),
        ("room 4 on 2026-03-04 from 9 to 10", "4", "9:00 10:00"),
        ("room 4 on 3/4 at 9.30 until 10.45 for 3 to 5 people", "4", "9:30 10:45"),
        ("conference room C 7, starting 09:00 and ending 10:00:00", "C7", "9:00 10:00"),
        ("A12 9:00-10:00, or 11:00-12:00", "A12", "9:00 10:00"),
        ("room 4 22:00 to 24:00", "4", "22:00 24:00"),
        ("room\n 12\tfrom   9 \n to 10", "12", "9:00 10:00"),
        ("room 4 from 10 to 9", "4", "10:00 9:00"),
        ("room 4 from 9:00 to 9:00", "4", "9:00 9:00"),
        # one of them is missing
        ("room 4", "4", None),
        ("rooms 3 and 5", "3", None),
        ("room 4 at 9:00", "4", None),
        ("room 4 at 9:00 for 3-5 people", "4", None),
        ("room 4 for 3-5 people", "4", None),
        ("room 4 on 2026-03-04", "4", None),
        ("room 4 at 9 or 10", "4", None),
        ("I need a room from 9:00 to 10:00", None, "9:00 10:00"),
        ("meeting room 9:00-10:00", None, "9:00 10:00"),
        ("meeting room 9am to 10am", None, "9:00 10:00"),
        ("会议室9点到10点", None, "9:00 10:00"),
        ("room B from 9 to 10", None, "9:00 10:00"),
        ("room 1234567 from 9 to 10", None, "9:00 10:00"),
        ("mushroom 12", None, None),
        ("Who are you?", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_what_a_question_names(question: Any, room: Any, times: Any) -> None:
    found = read(question)
    assert found.impossible == ()
    assert found.room == room or str(found.room) == room
    assert times == (found.times and " ".join(map(clock_text, found.times)))


@pytest.mark.parametrize(
    ("question", "impossible"),
    [
        ("room 4 25:00 to 26:00", ("25:00", "26:00")),
        ("room 4 from 9:00 to 9:60", ("9:60",)),
        ("room 4 13 pm to 2 pm", ("13 pm",)),
        ("room 4 0 am to 1 am", ("0 am",)),
        ("room 4 22:00 to 24:30", ("24:30",)),
        ("room 4 from 25 to 26", ("25", "26")),
        ("A4会议室25点到26点", ("25点", "26点")),
    ],
)
def test_times_that_no_day_has(question: Any, impossible: Any) -> None:
    found = read(question)
    assert (found.room.number, found.times, found.impossible) == (4, None, impossible)


SHORT = {
    "Is a meeting room free?": ENGLISH["no_room"].format(name="meeting-room"),
    "Who are you?": ENGLISH["no_room"].format(name="meeting-room"),
    "": ENGLISH["no_room"].format(name="meeting-room"),
    "from 25:00 to 26:00": ENGLISH["no_room"].format(name="meeting-room"),
    "Is room A12 free?": "When do you need meeting room A12? Name two times, such as 9:00 and 10:00.",
    "Is room A12 free at 9:00?": "When do you need meeting room A12? Name two times, such as 9:00 and 10:00.",
    "room A12 25:00 to 26:00": "No day has the time 25:00. Name two times, such as 9:00 and 10:00.",
    "room A12 10:00 to 9:00": "The end must come after the start, but 9:00 does not come after 10:00.",
    "room A12 9:00 to 9:00": "The end must come after the start, but 9:00 does not come after 9:00.",
    "有空闲的会议室吗": CHINESE["no_room"].format(name="meeting-room"),
    "A12会议室有空吗": CHINESE["no_times"].format(room="A12"),
    "A12会议室10点到9点": CHINESE["disorder"].format(start="10:00", end="9:00"),
}


@pytest.mark.parametrize("question", SHORT)
async def test_a_question_that_lacks_something_gets_a_short_answer_without_a_call(question: Any) -> None:
    answer = await ask(build(MeetingRoom), question)
    assert answer.text == SHORT[question]
    assert answer.events == answer.pieces


async def test_it_says_its_name() -> None:
    assert (await ask(build(MeetingRoom, {"name": "Rosa"}), "Who are you?")).text.startswith("I am Rosa ")


ARGUMENTS = {"meetingRoom": {"number": 12}, "start": "9:00", "end": "10:00"}


@pytest.mark.parametrize(
    ("question", "before", "after"),
    [
        (
            "Is meeting room A12 free from 09:00 to 10:00?",
            "I will call the tool query_meeting_room_status to look up meeting room A12 from 9:00 to 10:00. ",
            "Meeting room A12 is idle from 9:00 to 10:00.",
        ),
        (
            "room 12, 9 to 10",
            "I will call the tool query_meeting_room_status to look up meeting room 12 from 9:00 to 10:00. ",
            "Meeting room 12 is idle from 9:00 to 10:00.",
        ),
        (
            "查询A12会议室在9:00到10:00的状态",
            "好的, 我将调用 query_meeting_room_status 工具来查询 A12 会议室在 9:00 到 10:00 的状态。",
            "A12 会议室在 9:00 到 10:00 空闲 (Idle)。",
        ),
    ],
)
async def test_it_says_so_calls_its_tool_and_answers(question: Any, before: Any, after: Any) -> None:
    answer = await ask(build(MeetingRoom), question)
    (at,) = [index for index, event in enumerate(answer.events) if isinstance(event, ToolCall)]
    call, result = answer.events[at : at + 2]
    assert call == ToolCall(call.id, "query_meeting_room_status", ARGUMENTS)
    assert result == ToolResult(call.id, "query_meeting_room_status", "Idle", ms=result.ms)
    assert "".join(answer.events[:at]) == before
    assert "".join(answer.events[at + 2 :]) == after
    assert max(map(len, answer.pieces)) <= len("query_meeting_room_status ")


BOOKED = {"booked": [{"number": 12, "start": "9:30", "end": "11:00"}]}


@pytest.mark.parametrize(
    ("times", "status"),
    [
        ("9:00 to 10:00", "occupied"),
        ("9:30 to 11:00", "occupied"),
        ("10:00 to 10:15", "occupied"),
        ("9:00 to 12:00", "occupied"),
        ("9:00 to 9:30", "idle"),
        ("11:00 to 12:00", "idle"),
    ],
)
async def test_a_room_that_is_booked_is_occupied(times: Any, status: Any) -> None:
    agent = build(MeetingRoom, BOOKED)
    assert (await ask(agent, f"room A12 {times}")).text.endswith(f"Meeting room A12 is {status} from {times}.")
    assert (await ask(agent, f"room A13 {times}")).text.endswith(f"is idle from {times}.")
    agent.update({})
    assert (await ask(agent, f"room A12 {times}")).text.endswith(f"is idle from {times}.")


def test_its_properties() -> None:
    assert build(MeetingRoom, {"other": 1}).describe() == {"name": "meeting-room", "greeting": "", "booked": []}
    assert build(MeetingRoom, BOOKED).describe()["booked"] == BOOKED["booked"]
    assert MeetingRoom.handles() == ["chat"]


@pytest.mark.parametrize(
    ("properties", "fault"),
    [
        ({"name": "x" * 101}, "name: .*at most 100"),
        ({"booked": "room 12"}, "booked: .*tuple"),
        ({"booked": [{"number": 12, "start": "9:00"}]}, r"booked.0.end: Field required"),
        ({"booked": [{"number": 12, "start": "9", "end": "10:00"}]}, r"booked.0.start: String should match"),
        ({"booked": [{"number": 12, "start": "9:00", "end": "24:01"}]}, r"booked.0.end: String should match"),
        ({"booked": [{"number": 12, "start": "10:00", "end": "9:00"}]}, "9:00 does not come after 10:00"),
    ],
)
def test_properties_that_do_not_fit(properties: Any, fault: Any) -> None:
    with pytest.raises(PropertyError, match=fault):
        build(MeetingRoom, properties)


async def test_the_tool_checks_its_arguments() -> None:
    tool = build(MeetingRoom, BOOKED).tool("query_meeting_room_status")
    assert set(tool.schema["required"]) == {"meetingRoom", "start", "end"}
    assert await tool(ARGUMENTS) == "Occupied"
    for wrong in ({}, ARGUMENTS | {"start": "9 am"}, ARGUMENTS | {"meetingRoom": "A12"}, ARGUMENTS | {"day": "today"}):
        with pytest.raises(ToolError, match="query_meeting_room_status"):
            await tool(wrong)


@given(st.text(alphabet="room A12:9-.pmto点到半上午会议室\u3000 /", max_size=60))
async def test_any_question_is_answered(question: Any) -> None:
    assert (await ask(build(MeetingRoom), question)).text


HOSTILE = [
    "room ", "room", "9:", "9", "12:", "9:00 ", "9:00-", "9 to ", "A1", "A1 ", "上午", "9点", "会议室", "room no. ",
    "#", "room A ", " ", "\n", "a.m. ", "9 a", "2026-03-", "1/1/", "meeting ", "between 9 and ", "9 in the ",
    ".", "\0", "😀",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
async def test_a_million_hostile_characters_take_linear_time(unit: Any) -> None:
    question = unit * (1_000_000 // len(unit))
    began = time.perf_counter()
    assert (await ask(build(MeetingRoom), question)).text
    assert time.perf_counter() - began < SECONDS


async def test_only_the_beginning_of_a_long_question_is_read() -> None:
    question = "room A12 from 9 to 10"
    assert read(question + " " * MOST_READ).times
    assert read(" " * MOST_READ + question).room is None


def test_a_worker_streams_text_call_result_and_text(tmp_path: Any) -> None:
    worker = Worker(tmp_path, graph(node("meeting_room", "meeting_room")), addons={})
    try:
        request = {
            "messages": [{"role": "user", "content": "Is meeting room A12 free from 9:00 to 10:00?"}],
            "user": "u",
        }
        worker.tell({"t": "turn", "turn": "t1", "kind": "chat", "request": request})
        events = []
        while not events or events[-1]["type"] not in {"final", "error"}:
            events.append(worker.type("event"))
    finally:
        worker.close()
    kinds = [event["type"] for event in events]
    call, result = kinds.index("tool_call"), kinds.index("tool_result")
    assert kinds == ["text"] * call + ["tool_call", "tool_result"] + ["text"] * (len(kinds) - call - 3) + ["final"]
    assert events[call]["arguments"] == ARGUMENTS
    assert (events[result]["output"], events[result]["failed"]) == ("Idle", False)
    after = "".join(event["text"] for event in events[result + 1 : -1])
    assert after == "Meeting room A12 is idle from 9:00 to 10:00."
