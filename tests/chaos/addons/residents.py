"""Workers that tell of themselves: each takes its channel's lock, which only one of a channel can have at a time."""

from holds import hold
from talkers import Talker


class Resident(Talker):
    """A talker that holds its channel."""

    async def start(self) -> None:
        hold(self.context.properties["folder"], self.context.channel)
        await super().start()
