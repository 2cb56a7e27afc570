"""What an agent says in one turn, as the parts that APIs tell of one by one: texts, thoughts and calls of tools. Pure.

An agent's events say nothing of where a text begins or ends: it does when something of another kind follows. `Answer`
finds these borders, once for all APIs that have them, and a `Voice` says how each of them looks on the wire.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import orjson

from supervisor.turns.transcript import INCOMPLETE, MAX_BYTES, MAX_CHARACTERS, Event, Text, added
from supervisor.turns.turn import Item

MOST_PARTS: Final = 4096
TOOL_CALLS: Final = "tool_calls"  # in a turn's value: calls that the client is to answer

Kind = Literal["text", "thought", "call"]
Frames = list[bytes]


@dataclass(slots=True, eq=False)
class Part:
    """One stretch of an answer. `index` is its place; a text or thought grows, a call is there at once.

    One that is not `kept` is told and forgotten: it is beyond the bounds.
    """

    kind: Kind
    index: int
    kept: bool = True
    body: Text = field(default_factory=Text)
    call: Event = field(default_factory=dict)  # id, name, arguments; with its result also output and failed

    @property
    def text(self) -> str:
        """The text as far as it got."""
        return str(self.body)

    @property
    def arguments(self) -> str:
        """A call's arguments as JSON."""
        return orjson.dumps(self.call["arguments"]).decode()


def handed(value: Any, calls: Iterable[Event]) -> list[Event]:
    """Those of an agent's calls that the client is to answer, as the value says that the turn ended with."""
    told = value.get(TOOL_CALLS) if isinstance(value, dict) else None
    listed = told if isinstance(told, list) else []  # a worker may say anything
    ids = {call["id"] for call in listed if isinstance(call, dict) and isinstance(call.get("id"), str)}
    return [call for call in calls if call["id"] in ids]


def value_as_text(value: Any, structured: Any) -> str:
    """What a turn ended with, as a text: its structured answer, or else its value, unless that is none."""
    answer = value if structured is None else structured
    if isinstance(answer, dict) and answer.keys() == {INCOMPLETE}:
        return ""
    return answer if isinstance(answer, str) else "" if answer is None else orjson.dumps(answer).decode()


def function_call(call: Event) -> Event:
    """A call as OpenAI's chat completions have it, and many after them."""
    arguments = orjson.dumps(call["arguments"]).decode()
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}


class Voice(Protocol):
    """How an API tells of an answer: each method appends encoded events to `out`."""

    def begun(self, part: Part, out: Frames) -> None:
        """A part has begun."""

    def piece(self, part: Part, text: str, out: Frames) -> None:
        """A piece of a text or thought, which `part` has already: the hottest path."""

    def ended(self, part: Part, out: Frames) -> None:
        """Nothing is added to a part any more."""

    def result(self, part: Part, out: Frames) -> None:
        """A call, ended before, has its result."""

    def over(self, answer: "Answer", last: Event, out: Frames) -> None:
        """The turn has ended as its ``final`` or ``error`` event says."""


class Answer:
    """The parts of one turn. Bounded as a transcript is: what is beyond is told, but not kept, and it is `cut`."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.usage: Event | None = None
        self.value: Any = None
        self.cut = False
        self._structured: Any = None
        self._open: Part | None = None
        self._count = 0
        self._has_text = False
        self._characters = 0
        self._bytes = 0
        self._calls: dict[str, Part] = {}

    @property
    def handed(self) -> list[Event]:
        """The calls that the client is to answer, once the turn has ended."""
        return handed(self.value, (part.call for part in self.parts if part.kind == "call"))

    @property
    def incomplete(self) -> str:
        """Why the answer is not whole although the turn ended well; empty: it is."""
        reason = self.value.get(INCOMPLETE) if isinstance(self.value, dict) else None
        return reason if isinstance(reason, str) else "max_output_tokens" if self.cut else ""

    def follow(self, items: Iterable[Item], voice: Voice) -> Frames:
        """What `voice` says of these events of the turn, in order."""
        out: Frames = []
        for item in items:
            event = item.event
            kind = event["type"]
            if kind == "text" or kind == "thought":  # the hottest path, mostly decided by the first
                part = self._open
                if part is None or part.kind != kind:
                    part = self._begin(kind, voice, out)
                self._add(part, event["text"])
                voice.piece(part, event["text"], out)
            else:
                self._rare(kind, event, voice, out)
        return out

    def _rare(self, kind: str, event: Event, voice: Voice, out: Frames) -> None:
        if kind == "tool_call":
            call = {name: event[name] for name in ("id", "name", "arguments")}
            part = self._begin("call", voice, out, call)
            if part.kept:
                self._calls[call["id"]] = part
            self._end(voice, out)
        elif kind == "tool_result":
            self._result(event, voice, out)
        elif kind == "usage":
            self.usage = added(self.usage, event)
        elif kind == "structured":
            self._structured = event.get("value")
        elif kind in ("final", "error"):
            self._finish(event, voice, out)

    def _begin(self, kind: Kind, voice: Voice, out: Frames, call: Event | None = None) -> Part:
        self._end(voice, out)
        kept = len(self.parts) < MOST_PARTS and (call is None or self._fits(call))
        part = self._open = Part(kind, self._count, kept, call=call or {})
        self._count += 1
        self._has_text = self._has_text or kind == "text"
        if kept:
            self.parts.append(part)
        else:
            self.cut = True
        voice.begun(part, out)
        return part

    def _end(self, voice: Voice, out: Frames) -> None:
        part, self._open = self._open, None
        if part is not None:
            voice.ended(part, out)

    def _add(self, part: Part, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS or not part.body.add(text):
            self.cut = True

    def _result(self, event: Event, voice: Voice, out: Frames) -> None:
        part = self._calls.pop(event["id"], None)
        if part is not None and self._fits(event):
            self._end(voice, out)
            part.call |= {"output": event.get("output"), "failed": event.get("failed") is True}
            voice.result(part, out)

    def _fits(self, body: Event) -> bool:
        self._bytes += len(orjson.dumps(body))
        fits = self._bytes <= MAX_BYTES
        self.cut = self.cut or not fits
        return fits

    def _finish(self, last: Event, voice: Voice, out: Frames) -> None:
        """Of an agent that answered by a value only, the value is the text; an answer to nobody is an empty text."""
        self.value = last.get("value")
        self.cut = self.cut or "lost" in last
        if last["type"] == "final" and not self._has_text and not self.handed:
            text = value_as_text(self.value, self._structured)
            part = self._begin("text", voice, out)
            if text:
                self._add(part, text)
                voice.piece(part, text, out)
        self._end(voice, out)
        voice.over(self, last, out)
