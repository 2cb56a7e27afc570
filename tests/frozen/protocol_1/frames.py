"""The pipe protocol between a worker and the supervisor: the one module both sides import.

A frame is one line of UTF-8 JSON, at most `MAX_FRAME` bytes with its newline: ``{"t": type, "n": number, ...}``.
Every upward frame (worker to supervisor) is numbered from 1 without a hole; the supervisor acknowledges what it has
safely handed on, the worker keeps the rest and repeats it after a ``resume`` (design: docs/pipes.md).

Pure: bytes in, frames out; no I/O, no clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

VERSION: Final = 1
MAX_FRAME: Final = 1024 * 1024

Frame = dict[str, Any]


class Up(StrEnum):
    """Types of frames a worker writes."""

    RESET = "reset"
    READY = "ready"
    EVENT = "event"
    STATE = "state"
    BEAT = "beat"
    SIGNAL = "signal"
    REPLY = "reply"
    GAP = "gap"
    BYE = "bye"


class Down(StrEnum):
    """Types of frames the supervisor writes."""

    RESUME = "resume"
    ACK = "ack"
    TURN = "turn"
    CANCEL = "cancel"
    UPDATE = "update"
    SIGNAL = "signal"
    COMMAND = "command"
    STOP = "stop"


class FrameError(ValueError):
    """A frame that cannot be written or a line that is none."""


def encode(frame: Frame) -> bytes:
    """One line for one frame.

    Raises FrameError when the frame is no JSON (a lone surrogate, an integer over 64 bit) or longer than MAX_FRAME.
    """
    try:
        line = orjson.dumps(frame, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise FrameError(f"frame {frame.get('t')!r} cannot be written as JSON: {error}") from error
    if len(line) > MAX_FRAME:
        raise FrameError(f"frame {frame.get('t')!r} has {len(line)} bytes; at most {MAX_FRAME} are allowed")
    return line


def decode(line: bytes) -> Frame:
    """The frame of one line (with or without its newline); raises FrameError when it is none."""
    try:
        frame = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise FrameError(f"not JSON: {error}") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("t"), str):
        raise FrameError("not an object with a type 't'")
    return frame


@dataclass(frozen=True, slots=True)
class Bad:
    """A stretch of bytes that was no frame: how many bytes, and why."""

    size: int
    reason: str


class Splitter:
    """Cuts a byte stream into frames; bounded: a line over MAX_FRAME is dropped up to its newline and reported once."""

    __slots__ = ("_dropped", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._dropped = 0

    def feed(self, data: bytes) -> Iterator[Frame | Bad]:
        """All frames that are complete with `data`, in order, and a `Bad` for each line that is none.

        Empty lines are skipped: a writer that was torn off starts afresh with a newline.
        """
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if self._dropped:
                size, self._dropped = self._dropped + len(line) + 1, 0
                yield Bad(size, f"a line of {size} bytes; at most {MAX_FRAME} are allowed")
            elif len(line) >= MAX_FRAME:
                yield Bad(len(line) + 1, f"a line of {len(line) + 1} bytes; at most {MAX_FRAME} are allowed")
            elif line:
                try:
                    yield decode(line)
                except FrameError as error:
                    yield Bad(len(line) + 1, str(error))
        if self._dropped or len(self._rest) >= MAX_FRAME:
            self._dropped += len(self._rest)
            self._rest = b""
