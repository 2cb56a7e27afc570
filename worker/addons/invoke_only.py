"""`invoke_only`: an agent without a chat handler, to see how a client takes that."""

from typing import Any

from worker.agent import Agent, Turn


class InvokeOnly(Agent):
    """Answers an invoke with its input, and cannot be chatted with."""

    async def invoke(self, turn: Turn) -> Any:
        """The input, whatever JSON value it is."""
        return turn.input
