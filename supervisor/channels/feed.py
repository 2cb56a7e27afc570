"""What a channel has said lately, ready for readers that come and go: a bounded ring of encoded server-sent events.

A reader names the place it has read up to and gets what came after it. Nobody waits for readers: what the ring had to
drop is told to them as a gap, never passed over.
"""

from collections import deque
from typing import Any, Final, NamedTuple

import orjson

from supervisor.channels.bell import Bell

MAX_BYTES: Final = 1024 * 1024
PARTS: Final = 1 << 20  # a place is a frame's number and a part; parts are events of our own that follow the frame


class Gap(NamedTuple):
    """Events after `first` up to `last` (both places) are no longer here."""

    first: int
    last: int


class Feed:
    """The ring of one stream. Places grow; what has the frame number `n` is at the place ``n * PARTS``.

    A place is shown as ``<name>:<n>`` or ``<name>:<n>.<part>``, the value of an event's ``id`` line. Those of frames
    are the same whatever supervisor reads the worker, so that a reader can go on after a supervisor was replaced.
    """

    __slots__ = (
        "_bell",
        "_bytes",
        "_dropped",
        "_events",
        "_most_events",
        "_name",
        "_prefix",
        "behind",
        "closed",
        "last",
    )

    def __init__(self, name: str, most_events: int = 1024) -> None:
        self._name = name
        self._prefix = f"id: {name}:".encode()
        self._events: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._dropped = 0  # the last place that is no longer here
        self._most_events = most_events
        self._bell = Bell()
        self.last = 0
        self.closed = False
        self.behind = False  # the worker has yet to tell again what an earlier supervisor heard of it

    def publish(self, kind: str, data: dict[str, Any], number: int | None = None) -> bytes:
        """Add an event; the encoded one. `number` is that of the worker's frame, None: it is not from a frame.

        Raises TypeError when `data` is no JSON. `kind` has no line breaks.
        """
        if number is None:
            place = self.last + 1
            event = self.encode(kind, data, place)
        else:
            place = number * PARTS
            event = b"%b%d\nevent: %b\ndata: %b\n\n" % (self._prefix, number, kind.encode(), orjson.dumps(data))
        self.last = place
        self._events.append((self.last, event))
        self._bytes += len(event)
        while self._bytes > MAX_BYTES or len(self._events) > self._most_events:
            self._dropped, gone = self._events.popleft()
            self._bytes -= len(gone)
        self._bell.ring()
        return event

    def encode(self, kind: str, data: dict[str, Any], place: int) -> bytes:
        """An event of this stream at a place, without adding it."""
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (self.show(place).encode(), kind.encode(), orjson.dumps(data))

    def begin_after(self, number: int) -> None:
        """The frames up to this number were told by an earlier supervisor and are not here."""
        self.last = self._dropped = number * PARTS

    def catch_up(self) -> None:
        """All that can be told again is here."""
        self.behind = False
        self._bell.ring()

    def close(self) -> None:
        """Nothing follows."""
        self.closed = True
        self.catch_up()

    def read(self, after: int) -> tuple[Gap | None, list[bytes]]:
        """What is here after a place, and what is not any more."""
        gap = Gap(after, self._dropped) if after < self._dropped else None
        found: list[bytes] = []
        for place, event in reversed(self._events):  # most readers lack but the last few
            if place <= after:
                break
            found.append(event)
        found.reverse()
        return gap, found

    def place(self, shown: str) -> int | None:
        """The place an ``id`` stands for; None when it is not one of this stream."""
        name, _, numbers = shown.rpartition(":")
        number, _, part = numbers.partition(".")
        if name != self._name or not _digits(number) or (part and not _digits(part)):
            return None
        place = int(number) * PARTS + int(part or 0)
        # What an earlier supervisor told behind the last frame has a place there too, though it is not here.
        return place if self.behind or place <= self.last or int(number) == self.last // PARTS else None

    def at(self, number: int) -> int:
        """The place of the frame of this number."""
        return number * PARTS

    def show(self, place: int) -> str:
        """The ``id`` of a place."""
        number, part = divmod(place, PARTS)
        return f"{self._name}:{number}.{part}" if part else f"{self._name}:{number}"

    async def wait(self, after: int) -> None:
        """Return when there is something after this place, or nothing follows."""
        if not self.closed and self.last <= after:
            await self._bell.wait()

    async def caught_up(self) -> None:
        """Return when it is not `behind` any more."""
        while self.behind:
            await self._bell.wait()


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15
