"""What a turn's events add up to. Pure."""

from typing import Any, Final

Event = dict[str, Any]

MAX_CHARACTERS: Final = 4 * 1024 * 1024  # of the answer, and of the thoughts
MAX_LISTED: Final = 4096  # tool calls, and sources


class Transcript:
    """Collects the events of one turn; bounded: what is beyond the bounds is left out and `truncated` says so."""

    __slots__ = (
        "_sizes",
        "_texts",
        "_thoughts",
        "gaps",
        "has_value",
        "sources",
        "structured",
        "tool_calls",
        "truncated",
        "usage",
        "value",
    )

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._sizes = [0, 0]
        self.tool_calls: list[Event] = []
        self.sources: list[Event] = []
        self.structured: Event | None = None
        self.usage: Event | None = None
        self.value: Any = None
        self.has_value = False
        self.truncated = False
        self.gaps = 0  # frames that were lost

    @property
    def text(self) -> str:
        """The answer so far: the pieces, else a final value that is a text."""
        if not self._texts and isinstance(self.value, str):
            return self.value
        return "".join(self._texts)

    @property
    def has_text(self) -> bool:
        """Whether there is an answer in text, be it empty."""
        return bool(self._texts) or isinstance(self.value, str)

    @property
    def thoughts(self) -> str:
        """The reasoning so far."""
        return "".join(self._thoughts)

    def add(self, event: Event) -> None:
        """Take one event of the turn, in order."""
        kind = event["type"]
        if kind == "text":
            self._text(self._texts, 0, event["text"])
        elif kind == "thought":
            self._text(self._thoughts, 1, event["text"])
        else:
            self._rare(kind, event)

    def _text(self, pieces: list[str], index: int, text: str) -> None:
        self._sizes[index] += len(text)
        if self._sizes[index] <= MAX_CHARACTERS:
            pieces.append(text)
        else:
            self.truncated = True

    def _rare(self, kind: str, event: Event) -> None:
        body = {key: value for key, value in event.items() if key not in ("type", "turn")}
        if kind == "tool_call":
            self._listed(self.tool_calls, {**body, "output": None, "failed": False, "ms": None})
        elif kind == "tool_result":
            for call in reversed(self.tool_calls):
                if call["id"] == event["id"]:
                    call |= {key: body[key] for key in ("output", "failed", "ms") if key in body}
                    break
        elif kind == "source":
            self._listed(self.sources, body)
        elif kind == "structured":
            self.structured = body
        elif kind == "usage":
            self.usage = body
        elif kind == "final" and "value" in event:
            self.value, self.has_value = event["value"], True

    def _listed(self, listed: list[Event], body: Event) -> None:
        if len(listed) < MAX_LISTED:
            listed.append(body)
        else:
            self.truncated = True
