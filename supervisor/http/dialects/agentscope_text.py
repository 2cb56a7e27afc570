"""Text in the frames of AgentScope's API: as JSON that no client splits, in pieces that fit, and its tail. Pure."""

from collections.abc import Iterator
from typing import Final

import orjson

from supervisor.http.dialects.data_lines import safe

PIECE_BYTES: Final = 2 * 1024  # of the text of one delta, in JSON
TAIL_CHARACTERS: Final = 4096  # of the answer so far
TAIL_BYTES: Final = 5 * 1024  # of that in JSON, so that a delta of any size fits beside it
MOST_ESCAPED: Final = 6  # bytes that one character can become in JSON
USUAL_BYTES: Final = 3  # of a character that is not ASCII


def inner(text: str) -> bytes:
    """A text as JSON without its quotes: that of two texts is that of the one and then that of the other."""
    data = orjson.dumps(text)[1:-1]
    return data if data.isascii() else safe(data)


def split(text: str) -> Iterator[str]:
    """The text in pieces of whole characters, each of at most PIECE_BYTES as JSON."""
    start = 0
    while start < len(text):
        piece = text[start : start + PIECE_BYTES]
        while (size := len(inner(piece))) > PIECE_BYTES:
            piece = piece[: len(piece) * PIECE_BYTES // size]
        yield piece
        start += len(piece)


class Tail:
    """The end of a text that grows, as JSON without quotes; `cut` once there was more before it."""

    __slots__ = ("_text", "cut", "data")

    def __init__(self) -> None:
        self._text = ""
        self.data = b""
        self.cut = False

    def add(self, text: str, data: bytes) -> None:
        """Append a piece; `data` is it as `inner` has it. The hottest path: only what goes and comes is encoded."""
        text = self._text + text
        data = self.data + data
        beyond = len(text) - TAIL_CHARACTERS
        if beyond > 0:
            text, data = _dropped(text, data, beyond)
            self.cut = True
        while len(data) > TAIL_BYTES:
            text, data = _dropped(text, data, (len(data) - TAIL_BYTES) // USUAL_BYTES + 1)
            self.cut = True
        self._text, self.data = text, data

    def within(self, room: int) -> tuple[bytes, bool]:
        """As much of it as has room in so many bytes, and whether that is not the whole text."""
        text, data, cut = self._text, self.data, self.cut
        while len(data) > max(room, 0):
            text, data = _dropped(text, data, (len(data) - max(room, 0)) // USUAL_BYTES + 1)
            cut = True
        return data, cut


def _dropped(text: str, data: bytes, count: int) -> tuple[str, bytes]:
    """Both without the first characters."""
    return text[count:], data[len(inner(text[:count])) :]
