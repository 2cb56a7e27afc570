"""`friday`: the demo agent that needs no model, no key and no network. It always answers the same to the same."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from pydantic import Field

from worker.addons.contents import asked
from worker.addons.friday_files import describe_all
from worker.addons.friday_replies import Heard, asks_about_rooms, fallback, latest_name, pieces, replies
from worker.addons.room_questions import read
from worker.agent import Agent, Context, Properties, Source, Turn, tool
from worker.conversation import text_data

MORNING_ROOMS: Final = range(1, 10)
PLAN: Final = Source(
    title="Meeting room plan",
    text="Meeting rooms 1 to 9 are free until noon. All other meeting rooms are free all day.",
    source="meeting-rooms.md",
    filename="meeting-rooms.md",
)


class FridayProperties(Properties):
    """How the agent presents itself, how fast it counts, whether it answers for meeting rooms, what it remembers."""

    name: str = Field("Friday", max_length=100)
    greeting: str = Field("", max_length=1000)  # said to the other nodes at the start
    pace_ms: float = Field(20, ge=0, le=10_000)  # from one number to the next
    rooms: bool = False
    recalls: bool = True  # also a name that the history does not hold (any more)


class Friday(Agent):
    """Says who it is, remembers a name, counts, repeats, names the files it is given, and admits what it does not know.

    The name somebody gave is known from the messages of the request, else from the history, else, if it `recalls`, from
    the state of the session. History goes before state since a client may have taken turns back.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.properties = FridayProperties.parse(context.properties)

    def describe(self) -> dict[str, Any]:
        """Its effective properties."""
        return self.properties.public()

    async def start(self) -> None:
        """Say the greeting to the nodes it is connected to."""
        if self.properties.greeting:
            await self.context.send(text_data(self.properties.greeting, role="assistant", ended=True))

    async def chat(self, turn: Turn) -> AsyncIterator[str | Source]:
        """The reply, word by word, and number by number with a pause between. Raises PropertyError for a bad pace."""
        pace = self._pace(turn)
        heard = self._hear(turn)
        parts = replies(heard)
        about_rooms = self.properties.rooms and asks_about_rooms(turn.question)
        if about_rooms:
            room = read(turn.question).room
            parts.append(await turn.call(self.meeting_room_plan, **({"room": room.number} if room else {})))
        for piece, paused in pieces(parts or [fallback(heard)]):
            if paused:
                await asyncio.sleep(pace)
            yield piece
        if about_rooms:
            yield PLAN

    @tool
    async def meeting_room_plan(self, room: int | None = None) -> str:
        """When a meeting room is free, by its number; without one, when all of them are."""
        if room is None:
            return PLAN.text
        return f"Meeting room {room} is free {'until noon' if room in MORNING_ROOMS else 'all day'}."

    def _hear(self, turn: Turn) -> Heard:
        """The question and what is known; a name given in this request is kept in the session's state."""
        if name := latest_name(turn.messages):
            turn.state["name"] = name
        known = name or latest_name(turn.history) or (turn.state.get("name") if self.properties.recalls else "")
        return Heard(
            question=turn.question,
            agent=self.properties.name,
            name=known if isinstance(known, str) else "",
            files=describe_all(turn.attachments, asked(turn.messages)),
        )

    def _pace(self, turn: Turn) -> float:
        """Seconds from one number to the next; the turn's own ``pace_ms`` goes before the property."""
        wanted = turn.options.get("pace_ms", turn.context.get("pace_ms"))
        return (FridayProperties.parse({"pace_ms": wanted}) if wanted is not None else self.properties).pace_ms / 1000
