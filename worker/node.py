"""What an add-on is made of: messages, the context of a node, and the base class of all nodes.

An add-on is a subclass of `Node`; a graph makes one object of it for each of its nodes (docs/addons.md). Authors import
all of it from `worker.agent`.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import structlog
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, ValidationError, model_validator

from worker.frames import Frame, Up

CommandHandler = Callable[[Mapping[str, Any]], Awaitable[Any]]


class Kind(StrEnum):
    """The four kinds of messages that flow along a graph's connections."""

    CMD = "cmd"
    DATA = "data"
    AUDIO_FRAME = "audio_frame"
    VIDEO_FRAME = "video_frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message between nodes. All receivers share the object: nobody changes its properties."""

    kind: Kind
    name: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""  # samples or pixels of a frame


class NodeBusyError(Exception):
    """A node's queue stayed full for as long as a sender waits, so a message to it was lost."""


class PropertyError(ValueError):
    """A node's properties do not fit its add-on; the text names each property, its value and what is allowed."""


class Properties(BaseModel):
    """Base of an add-on's property model. Unknown keys are allowed and kept, but never shown.

    An empty string or null counts as not set, since that is what a placeholder without a value becomes.
    """

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_the_unset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if value is not None and value != ""}

    @classmethod
    def parse(cls, properties: Mapping[str, Any]) -> Self:
        """The model of a node's properties; raises PropertyError. Values of secret fields stay out of the text."""
        try:
            return cls.model_validate(dict(properties))
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)
            raise PropertyError("; ".join(cls._fault(fault) for fault in faults)) from None

    def public(self) -> dict[str, Any]:
        """The effective values of the declared fields that are no secrets."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in _secrets(type(self))}

    @classmethod
    def _fault(cls, fault: Mapping[str, Any]) -> str:
        """One fault; the value is shown if it is a plain one of a declared field that is no secret."""
        where = ".".join(str(part) for part in fault["loc"]) or "properties"
        value = fault["input"]
        plain = where in cls.model_fields.keys() - _secrets(cls) and isinstance(value, str | int | float)
        shown = f", not {value!r:.100}" if plain else ""
        return f"{where}: {fault['msg']}{shown}"


@functools.cache
def _secrets(model: type[BaseModel]) -> frozenset[str]:
    """The fields whose type is, or may be, one of pydantic's secret types."""
    kinds = (SecretStr.__name__, SecretBytes.__name__)
    return frozenset(
        name for name, info in model.model_fields.items() if any(kind in repr(info.annotation) for kind in kinds)
    )


class Context:
    """What a node knows of the worker around it, and its only way out.

    `node`, `addon` and `channel` are names, `properties` the node's effective properties.
    """

    __slots__ = ("_emit", "_route", "addon", "channel", "handlers", "node", "properties")

    def __init__(
        self,
        *,
        node: str,
        addon: str,
        channel: str,
        properties: Mapping[str, Any],
        route: Callable[[str, Message], Awaitable[None]],
        emit: Callable[[Frame], Awaitable[int]],
    ) -> None:
        self.node = node
        self.addon = addon
        self.channel = channel
        self.properties = properties
        self.handlers: dict[str, CommandHandler] = {}
        self._route = route
        self._emit = emit

    @property
    def log(self) -> structlog.typing.FilteringBoundLogger:
        """A logger whose lines carry the node's name."""
        logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(node=self.node)
        return logger

    def with_properties(self, properties: Mapping[str, Any]) -> "Context":
        """Another context of the same node, with these properties and without command handlers."""
        return Context(
            node=self.node,
            addon=self.addon,
            channel=self.channel,
            properties=properties,
            route=self._route,
            emit=self._emit,
        )

    async def send(self, message: Message) -> None:
        """Send a message along the connections that start at this node; without any it goes nowhere.

        Waits while a receiver's queue is full. Raises NodeBusyError when one stayed full for `graph.QUEUE_SECONDS`;
        the other receivers have got the message then.
        """
        await self._route(self.node, message)

    async def report(self, **state: Any) -> None:
        """Tell the supervisor something about this node: a ``state`` frame with these fields, never a secret.

        Waits while the window of unacknowledged frames is full. Raises FrameError when it cannot be a frame.
        """
        await self._emit({**state, "t": Up.STATE, "node": self.node})

    async def signal(self, name: str, **values: Any) -> None:
        """Tell those who follow the channel something that is no part of a turn: a ``signal`` frame with these values.

        Waits while the window of unacknowledged frames is full. Raises FrameError when it cannot be a frame.
        """
        await self._emit({**values, "t": Up.SIGNAL, "node": self.node, "name": name})

    def handle(self, command: str, handler: CommandHandler) -> None:
        """Let `handler` answer this command: it gets the command's payload, its result (JSON values) is the reply.

        Commands wait their turn in the node's queue like any message. Raises ValueError for a second handler.
        """
        if command in self.handlers:
            raise ValueError(f"node {self.node!r} handles the command {command!r} already")
        self.handlers[command] = handler


class Node:
    """Base of all nodes. A graph calls `start` once, then `on_message` for one message at a time, then `stop` once.

    The constructor checks the properties (raise PropertyError) and registers command handlers; it does no I/O.
    What `start` or the constructor raises fails the start of the channel. What `on_message` raises is reported as this
    node's state, and the node gets the next message.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    def describe(self) -> dict[str, Any]:
        """The effective properties worth showing to an operator; no secrets. Empty: nothing is reported."""
        return {}

    def update(self, properties: Mapping[str, Any]) -> None:
        """Take new properties while the channel lives; `properties` are all of them, the changed ones among them.

        Raises PropertyError to refuse them; nothing has changed then. It does no I/O and is called between two steps of
        whatever the node is doing. This one takes what the constructor would: it makes another object and keeps that
        one's `Properties`.
        """
        try:
            other = type(self)(self.context.with_properties(properties))
        except PropertyError:
            raise
        except Exception as error:
            raise PropertyError(f"{type(error).__name__}: {error}") from error
        for name, value in vars(other).items():
            if isinstance(value, Properties):
                setattr(self, name, value)

    async def start(self) -> None:
        """Get ready for messages; bounded by the channel's start timeout."""

    async def on_message(self, message: Message) -> None:
        """Take one message that came along a connection. The base class takes it and does nothing."""

    async def stop(self) -> None:
        """Let go of what `start` took; bounded by the grace of the stop."""
