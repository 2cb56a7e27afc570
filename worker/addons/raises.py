"""`raises`: an agent that fails, to see how a client takes that."""

from worker.agent import Agent, Turn


class Raises(Agent):
    """Raises an exception instead of an answer."""

    async def chat(self, _: Turn) -> str:
        """Raise."""
        raise RuntimeError("this agent always fails")

    async def invoke(self, turn: Turn) -> str:
        """Raise."""
        return await self.chat(turn)
