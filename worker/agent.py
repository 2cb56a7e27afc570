"""The authors' API: everything an agent or another add-on is written with (docs/agents.md, docs/addons.md).

An agent is a node that answers turns: a chat, which is a conversation, or an invoke, which is a call with any input.
"""

from collections.abc import AsyncIterator, Awaitable
from typing import Any

from worker.conversation import Conversation
from worker.events import (
    Event,
    Final,
    ResponseError,
    Source,
    Structured,
    Text,
    Thought,
    ToolCall,
    ToolResult,
    Usage,
)
from worker.node import Context, Kind, Message, Node, NodeBusyError, Properties, PropertyError
from worker.tools import Tool, ToolError, tool
from worker.turn import CHAT, VERBS, Attachment, Turn

__all__ = [
    "Agent",
    "Attachment",
    "Context",
    "Event",
    "Final",
    "Kind",
    "Message",
    "Node",
    "NodeBusyError",
    "Properties",
    "PropertyError",
    "ResponseError",
    "Source",
    "Structured",
    "Text",
    "Thought",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "Turn",
    "Usage",
    "tool",
]


class Agent(Node):
    """Base of all agents: a subclass defines `chat`, `invoke` or both.

    `tools` are the tools it has; those among its methods belong to them without being named.
    """

    tools: tuple[Tool, ...] = ()

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.tools = _tools_of(self)
        self._conversation = Conversation(context)

    def chat(self, turn: Turn) -> AsyncIterator[Any] | Awaitable[Any]:
        """Answer what the user says: an async generator of events, or a coroutine that returns the answer."""
        raise NotImplementedError

    def invoke(self, turn: Turn) -> AsyncIterator[Any] | Awaitable[Any]:
        """Answer to ``turn.input``: a coroutine that returns a JSON value, or an async generator of events."""
        raise NotImplementedError

    @classmethod
    def handles(cls) -> list[str]:
        """The kinds of turns that this class defines a handler for."""
        return [verb for verb in VERBS if getattr(cls, verb) is not getattr(Agent, verb)]

    def tool(self, name: str) -> Tool:
        """The tool of that name; raises ToolError, with the names there are, when there is none."""
        for known in self.tools:
            if known.name == name:
                return known
        raise ToolError(f"no tool {name!r:.100}; there are {', '.join(t.name for t in self.tools) or 'none'}")

    async def on_message(self, message: Message) -> None:
        """Answer a final ``text_data`` message as a chat between nodes; other messages end here."""
        if CHAT in self.handles() and (heard := self._conversation.hear(message)):
            await self._conversation.answer(*heard, self.chat)


def _tools_of(agent: Agent) -> tuple[Tool, ...]:
    """What the class names and what it defines, bound to the agent; of one name the first."""
    methods = [
        value
        for base in type(agent).__mro__
        for value in vars(base).values()
        if isinstance(value, Tool) and value.is_method
    ]
    found: dict[str, Tool] = {}
    for each in (*type(agent).tools, *methods):
        found.setdefault(each.name, each.__get__(agent))
    return tuple(found.values())
