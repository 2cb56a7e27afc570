"""What a turn's events add up to. Pure."""

from typing import Any, Final

import orjson

Event = dict[str, Any]

MODEL: Final = "model"
MAX_CHARACTERS: Final = 2 * 1024 * 1024  # of the answer, and of the thoughts
MAX_LISTED: Final = 4096  # tool calls, and sources
MAX_BYTES: Final = 4 * 1024 * 1024  # of JSON: tool calls with their results, and sources
BLOCK: Final = 512  # pieces that are kept apart
MOST_COUNTS: Final = 32  # in a usage, its model among them
MAX_COUNT: Final = 2**53  # what every reader of JSON knows exactly
MAX_NAME: Final = 64  # characters of a count's name
MAX_MODEL: Final = 200  # characters
INCOMPLETE: Final = "incomplete"  # in a turn's value: why the text is not all that there would be


class Text:
    """A text that grows by pieces, joined to blocks from time to time: a small string takes ten times its length."""

    __slots__ = ("_blocks", "_pieces", "size")

    def __init__(self) -> None:
        self._blocks: list[str] = []
        self._pieces: list[str] = []
        self.size = 0  # in characters, what was left out too

    def add(self, piece: str) -> bool:
        """Append a piece; False when it would be too much, and is left out."""
        self.size += len(piece)
        if self.size > MAX_CHARACTERS:  # and so is all that follows: a text with a hole is none
            return False
        self._pieces.append(piece)
        if len(self._pieces) >= BLOCK:
            self._blocks.append("".join(self._pieces))
            self._pieces.clear()
            if len(self._blocks) >= BLOCK:
                self._blocks = ["".join(self._blocks)]
        return True

    def __bool__(self) -> bool:
        return bool(self._pieces or self._blocks)

    def __str__(self) -> str:
        return "".join((*self._blocks, *self._pieces))


class Transcript:
    """Collects the events of one turn; bounded: what is beyond the bounds is left out and `truncated` says so."""

    __slots__ = (
        "_bytes",
        "_calls",
        "_text",
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
        self._text = Text()
        self._thoughts = Text()
        self._bytes = 0
        self._calls: dict[str, Event] = {}  # the last one of each id
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
        if not self._text and isinstance(self.value, str):
            return self.value
        return str(self._text)

    @property
    def has_text(self) -> bool:
        """Whether there is an answer in text, be it empty."""
        return bool(self._text) or isinstance(self.value, str)

    @property
    def answers(self) -> bool:
        """Whether the value is an answer: one that only says why the text is cut is none."""
        return self.has_value and not (isinstance(self.value, dict) and self.value.keys() == {INCOMPLETE})

    @property
    def is_text_whole(self) -> bool:
        """Whether the answer is kept to its last character."""
        return self._text.size <= MAX_CHARACTERS

    @property
    def thoughts(self) -> str:
        """The reasoning so far."""
        return str(self._thoughts)

    def add(self, event: Event) -> None:
        """Take one event of the turn, in order."""
        kind = event["type"]
        if kind == "text":
            self.truncated = not self._text.add(event["text"]) or self.truncated
        elif kind == "thought":
            self.truncated = not self._thoughts.add(event["text"]) or self.truncated
        else:
            self._rare(kind, event)

    def _rare(self, kind: str, event: Event) -> None:
        body = {key: value for key, value in event.items() if key not in ("type", "turn")}
        if kind == "tool_call":
            call = {**body, "output": None, "failed": False, "ms": None}
            if self._list(self.tool_calls, call):
                self._calls[body["id"]] = call
        elif kind == "tool_result":
            self._result(body)
        elif kind == "source":
            self._list(self.sources, body)
        elif kind == "structured":
            self.structured = body
        elif kind == "usage":
            self.usage = added(self.usage, body)
        elif kind == "final" and "value" in event:
            self.value, self.has_value = event["value"], True

    def _result(self, body: Event) -> None:
        call = self._calls.get(body["id"])
        if call is not None and self._fits(body):
            call |= {key: body[key] for key in ("output", "failed", "ms") if key in body}

    def _list(self, listed: list[Event], body: Event) -> bool:
        if len(listed) < MAX_LISTED and self._fits(body):
            listed.append(body)
            return True
        self.truncated = True
        return False

    def _fits(self, body: Event) -> bool:
        size = len(orjson.dumps(body))
        if self._bytes + size > MAX_BYTES:
            self.truncated = True
            return False
        self._bytes += size
        return True


def added(usage: Event | None, more: Event) -> Event:
    """What was used so far, and what was used since: counts are added, of models the last one is told.

    Counts are integers from 0 on; a worker may say anything else as well, which is left out.
    """
    total = {} if usage is None else dict(usage)
    for name, value in more.items():
        if len(name) > MAX_NAME or (name not in total and len(total) >= MOST_COUNTS):
            continue
        if name == MODEL:
            if isinstance(value, str):
                total[name] = value[:MAX_MODEL]
        elif type(value) is int and value >= 0:
            total[name] = min(total.get(name, 0) + value, MAX_COUNT)
    return total
