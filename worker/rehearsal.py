"""What a worker rehearses before anybody waits for it (`worker.main.rehearse`): a small graph and one turn."""

import os
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from typing import Any, Final

from worker.agent import Agent, Event, Turn, Usage
from worker.frames import VERSION, Down, Splitter, Up, encode
from worker.registry import GROUP, Registry

NAME: Final = "rehearsal"
_GRACE_SECONDS: Final = 2.0
_READ: Final = 64 * 1024

_REQUEST: Final = {"messages": [{"role": "user", "content": "Are you there?"}], "user": NAME, "session": NAME}
_NODES: Final = (NAME, "openai_chatgpt", "message_collector")
GRAPH: Final = {
    "ten": {
        "predefined_graphs": [
            {
                "name": NAME,
                "graph": {
                    "nodes": [{"type": "extension", "name": name, "addon": name, "property": {}} for name in _NODES],
                    "connections": [
                        {
                            "extension": NAME,
                            "data": [{"name": "text_data", "dest": [{"extension": "message_collector"}]}],
                        }
                    ],
                },
            }
        ]
    }
}


class Rehearsal(Agent):
    """Answers the one turn."""

    async def chat(self, turn: Turn) -> AsyncIterator[Event | str]:
        """A few words, whatever was asked."""
        for word in turn.question.split():
            yield word
        yield Usage(input_tokens=1, output_tokens=3)
        turn.state["rehearsed"] = True


class Prompter:
    """The other end of the pipes: asks for the turn, and for the end when that has ended.

    Pipes that nobody else has open; `down` and `up` are descriptors.
    """

    def __init__(self, down: int, up: int) -> None:
        self._down = down
        self._up = up
        self._splitter = Splitter()

    def begin(self) -> None:
        """Write what a worker finds when it comes up."""
        self._tell({"t": Down.RESUME, "v": VERSION, "epoch": 1, "last": 0})
        self._tell({"t": Down.TURN, "turn": NAME, "kind": "chat", "request": _REQUEST})

    def hear(self) -> None:
        """Read what the worker has written."""
        for frame in self._splitter.feed(os.read(self._up, _READ)):
            if isinstance(frame, dict) and frame["t"] == Up.EVENT and frame["type"] in {"final", "error"}:
                self._tell({"t": Down.STOP, "grace": _GRACE_SECONDS})

    def _tell(self, frame: dict[str, Any]) -> None:
        os.write(self._down, encode(frame))


def registry() -> Registry:
    """One that knows the rehearsal's agent as well."""
    return Registry([EntryPoint(NAME, f"{__name__}:{Rehearsal.__name__}", GROUP)])
