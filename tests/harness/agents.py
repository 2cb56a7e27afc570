"""Add-ons without a worker around them: a real context whose ways out are lists, and turns without pipes."""

from typing import Any

from worker.agent import Context, Final
from worker.turn import Turn
from worker.voice import perform


class Outside:
    """Takes what a node lets out."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.frames: list[Any] = []

    async def route(self, node: Any, message: Any) -> None:
        self.messages.append(message)

    async def emit(self, frame: Any) -> Any:
        self.frames.append(frame)
        return len(self.frames)

    def context(self, properties: Any = None) -> Any:
        return Context(node="n", addon="a", channel="c", properties=properties or {}, route=self.route, emit=self.emit)


def build(addon: Any, properties: Any = None) -> Any:
    return addon(Outside().context(properties))


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


class Answer:
    """What an agent answered: all events in order, the pieces of text among them, and how it ended."""

    def __init__(self, events: Any, final: Any, state: Any) -> None:
        self.events, self.final, self.state = events, final, state
        self.pieces = [event for event in events if isinstance(event, str)]
        self.text = "".join(self.pieces)


async def ask(agent: Any, question: Any = None, *, kind: Any = "chat", state: Any = None, **request: Any) -> Answer:
    """One turn of an agent; what its handler raises is raised."""
    if question is not None:
        request["messages"] = [*request.get("messages", ()), user(question)]
    events: list[Any] = []

    async def emit(event: Any) -> None:
        events.append(event)

    turn = Turn("t1", kind=kind, request=request, emit=emit, state={} if state is None else state)
    final = await perform(kind, getattr(agent, kind)(turn), emit)
    assert final is None or isinstance(final, Final)
    return Answer(events, final, turn.state)
