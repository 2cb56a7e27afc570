"""`echo`: gives back what it gets; the smallest add-on that does something, and the one to try a graph with."""

from collections.abc import Mapping
from typing import Any

from worker.agent import Context, Kind, Message, Node


class Echo(Node):
    """Sends data messages back out along its own connections; answers the command ``echo`` with its payload."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        context.handle("echo", self.echo)

    async def on_message(self, message: Message) -> None:
        """Send a data message back out; other kinds end here."""
        if message.kind is Kind.DATA:
            await self.context.send(message)

    async def echo(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload of the command."""
        return payload
