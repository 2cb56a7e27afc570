"""`echo`: gives back what it gets; the smallest add-on that does something, and the one to try a graph with."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from worker.addons.contents import asked, exact_text
from worker.addons.words import words
from worker.agent import Agent, Context, Final, Kind, Message, Turn


class Echo(Agent):
    """Answers a chat with the user's last message and an invoke with its input.

    In a graph it sends data messages back out along its own connections, and answers the command ``echo`` with its
    payload.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        context.handle("echo", self.echo)

    async def chat(self, turn: Turn) -> AsyncIterator[str | Final]:
        """The content of the user's last message, exactly, word by word; JSON text if it has no text."""
        text = exact_text(asked(turn.messages))
        for word in words(text):
            yield word
        if not text:
            yield Final("")  # an answer all the same

    async def invoke(self, turn: Turn) -> Final:
        """The input, whatever JSON value it is."""
        return Final(turn.input)

    async def on_message(self, message: Message) -> None:
        """Send a data message back out; other kinds end here."""
        if message.kind is Kind.DATA:
            await self.context.send(message)

    async def echo(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """The payload of the command."""
        return payload
