"""`meeting_room`: the example agent with one tool, for questions about meeting rooms in English and Chinese."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, model_validator

from worker.addons.room_questions import HOUR, Question, clock_text, read
from worker.addons.words import words
from worker.agent import Agent, Context, Properties, Turn, tool
from worker.conversation import text_data

IDLE: Final = "Idle"
OCCUPIED: Final = "Occupied"

Time = Annotated[str, Field(pattern=r"^(?:(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
Texts = Mapping[str, str]

_HAN: Final = re.compile("[\u4e00-\u9fff]")
ENGLISH: Final[Texts] = {
    "call": "I will call the tool {tool} to look up meeting room {room} from {start} to {end}. ",
    IDLE: "Meeting room {room} is idle from {start} to {end}.",
    OCCUPIED: "Meeting room {room} is occupied from {start} to {end}.",
    "no_room": "I am {name} and look up meeting rooms. Name one by a letter and a number, such as A12, and two times.",
    "no_times": "When do you need meeting room {room}? Name two times, such as 9:00 and 10:00.",
    "impossible": "No day has the time {time}. Name two times, such as 9:00 and 10:00.",
    "disorder": "The end must come after the start, but {end} does not come after {start}.",
}
CHINESE: Final[Texts] = {
    "call": "好的, 我将调用 {tool} 工具来查询 {room} 会议室在 {start} 到 {end} 的状态。",
    IDLE: "{room} 会议室在 {start} 到 {end} 空闲 (Idle)。",
    OCCUPIED: "{room} 会议室在 {start} 到 {end} 已被占用 (Occupied)。",
    "no_room": "我是 {name}, 负责查询会议室。请说明字母和数字, 例如 A12, 以及两个时间。",
    "no_times": "请问您要查询 {room} 会议室的哪个时间段? 请给出两个时间, 例如 9:00 到 10:00。",
    "impossible": "没有 {time} 这个时间。请给出两个时间, 例如 9:00 到 10:00。",
    "disorder": "结束时间必须晚于开始时间, 但 {end} 不晚于 {start}。",
}


class RoomNumber(BaseModel):
    """A meeting room."""

    number: int


class Booking(BaseModel):
    """When a meeting room is taken: two times of a day, such as 9:00 and 14:30."""

    number: int
    start: Time
    end: Time

    @model_validator(mode="after")
    def _must_end_after_its_start(self) -> "Booking":
        if minutes(self.end) <= minutes(self.start):
            raise ValueError(f"the end must come after the start, but {self.end} does not come after {self.start}")
        return self


class MeetingRoomProperties(Properties):
    """How the agent presents itself, and which rooms are taken when; the others are idle."""

    name: str = Field("meeting-room", max_length=100)
    greeting: str = Field("", max_length=1000)  # said to the other nodes at the start
    booked: tuple[Booking, ...] = Field((), max_length=1000)


class MeetingRoom(Agent):
    """Reads a room and two times out of the question, calls its tool, and answers in one sentence."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.properties = MeetingRoomProperties.parse(context.properties)

    def describe(self) -> dict[str, Any]:
        """Its effective properties."""
        public = self.properties.public()
        return public | {"booked": [booking.model_dump() for booking in self.properties.booked]}

    async def start(self) -> None:
        """Say the greeting to the nodes it is connected to."""
        if self.properties.greeting:
            await self.context.send(text_data(self.properties.greeting, role="assistant", ended=True))

    async def chat(self, turn: Turn) -> AsyncIterator[str]:
        """The answer word by word, in the language of the question."""
        texts = CHINESE if _HAN.search(turn.question) else ENGLISH
        question = read(turn.question)
        key, values = first_answer(question)
        spoken = texts[key].format(name=self.properties.name, tool=self.query_meeting_room_status.name, **values)
        for word in words(spoken):
            yield word
        if key != "call" or question.room is None:
            return
        status = await turn.call(
            self.query_meeting_room_status,
            meetingRoom={"number": question.room.number},
            start=values["start"],
            end=values["end"],
        )
        for word in words(texts[status].format(**values)):
            yield word

    @tool
    async def query_meeting_room_status(self, meetingRoom: RoomNumber, start: Time, end: Time) -> str:  # noqa: N803
        """Whether a meeting room is Idle or Occupied between two times of a day, such as 9:00 and 14:30."""
        taken = (
            booking
            for booking in self.properties.booked
            if booking.number == meetingRoom.number
            and minutes(booking.start) < minutes(end)
            and minutes(start) < minutes(booking.end)
        )
        return OCCUPIED if any(taken) else IDLE


def first_answer(question: Question) -> tuple[str, dict[str, str]]:
    """What is said first, as a key of the texts, and the values in it: that the tool is called, or what is lacking."""
    if question.room is None:
        return "no_room", {}
    if question.impossible:
        return "impossible", {"time": question.impossible[0]}
    if question.times is None:
        return "no_times", {"room": str(question.room)}
    start, end = question.times
    named = {"room": str(question.room), "start": clock_text(start), "end": clock_text(end)}
    return ("call" if start < end else "disorder"), named


def minutes(time: str) -> int:
    """A time such as 9:00 in minutes of the day."""
    hour, minute = time.split(":")
    return int(hour) * HOUR + int(minute)
