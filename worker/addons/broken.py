"""`broken`: an agent whose answers are none, to see how a client takes that."""

from typing import Any

from worker.agent import Agent, Turn


class Broken(Agent):
    """Answers with a set, which JSON cannot hold."""

    async def chat(self, _: Turn) -> Any:
        """No answer that a client could read."""
        return {"nothing that JSON has"}

    async def invoke(self, turn: Turn) -> Any:
        """No output that a client could read."""
        return await self.chat(turn)
