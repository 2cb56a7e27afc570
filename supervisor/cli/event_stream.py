"""Server-sent events from the bytes of a stream. Pure: https://html.spec.whatwg.org/#parsing-an-event-stream."""

import re
from typing import Final, NamedTuple

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024  # a frame of a worker has at most a quarter of that

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """One event: its type, ``message`` if the stream gives none, and its data."""

    type: str
    data: str


class EventTooLargeError(ValueError):
    """An event, or a line of the stream, is over the bound."""


class EventParser:
    """Takes a stream in pieces of any size, cut anywhere; holds at most one event of `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()  # the line whose end has not come
        self._first = True  # no line has ended yet: a byte order mark may stand before it
        self._after_cr = False  # a line feed that comes now belongs to the last line's end
        self._type = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that this piece completes. Raises EventTooLargeError."""
        if not piece:
            return []
        rest_of_line_end = self._after_cr and piece.startswith(b"\n")
        self._after_cr = piece.endswith(b"\r")
        *ends, rest = _LINE_END.split(piece[1:] if rest_of_line_end else piece)
        events = []
        for end in ends:
            self._grow(end)
            line, self._line = bytes(self._line), bytearray()
            if (event := self._take(line)) is not None:
                events.append(event)
        self._grow(rest)
        return events

    def _grow(self, part: bytes) -> None:
        self._line += part
        if self._size + len(self._line) > self._max_bytes:
            raise EventTooLargeError(f"an event has more than {self._max_bytes} bytes")

    def _take(self, line: bytes) -> ServerEvent | None:
        """Act on a whole line; the event if it is the empty line that ends one."""
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode(errors="replace")
        if name == b"data":
            self._size += len(line)
            self._data.append(text)
        elif name == b"event":
            self._type = text
        return None  # a comment begins with the colon; an id and a retry are for those who reconnect

    def _dispatch(self) -> ServerEvent | None:
        event = ServerEvent(self._type or "message", "\n".join(self._data)) if self._data else None
        self._type, self._data, self._size = "", [], 0
        return event
