"""`meeting_room`: the example agent with one tool, for questions about meeting rooms."""

from typing import Any

from pydantic import Field

from worker.agent import Context, Node, Properties


class MeetingRoomProperties(Properties):
    """How the agent presents itself."""

    name: str = Field("meeting-room", max_length=100)
    greeting: str = Field("", max_length=1000)


class MeetingRoom(Node):
    """Stands for the agent in a graph: checks its properties and takes messages; a message gets no reply."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.properties = MeetingRoomProperties.parse(context.properties)

    def describe(self) -> dict[str, Any]:
        """Its effective properties."""
        return self.properties.public()
