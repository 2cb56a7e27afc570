"""`friday`: the demo agent that needs no model, no key and no network."""

from typing import Any

from pydantic import Field

from worker.agent import Context, Node, Properties


class FridayProperties(Properties):
    """How the agent presents itself."""

    name: str = Field("Friday", max_length=100)
    greeting: str = Field("", max_length=1000)


class Friday(Node):
    """Stands for the agent in a graph: checks its properties and takes messages; a message gets no reply."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.properties = FridayProperties.parse(context.properties)

    def describe(self) -> dict[str, Any]:
        """Its effective properties."""
        return self.properties.public()
