"""The events of one stream, kept for readers that come later or come back: bounded, and told where it begins."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from supervisor.channels.bell import Bell

MOST_BYTES: Final = 1024 * 1024
MOST_EVENTS: Final = 8192
WINDOW: Final = MOST_BYTES // 2  # that readers may be behind before they are waited for
OVERHEAD: Final = 64  # bytes that an event takes besides its own


class Reader:
    """Somebody who reads along; `number` is that of the next event it is to get."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class Recording:
    """Events numbered from 0. What is too much is dropped at the beginning, never in the middle.

    What was added last stays however large it is, and so does what a reader who is here has not read.
    """

    def __init__(self) -> None:
        self.first = 0  # the number of the first event that is here
        self.size = 0
        self.closed = False
        self._end = 0  # bytes of all events there ever were
        self._events: deque[tuple[int, bytes]] = deque()  # each with the bytes up to its own end
        self._readers: set[Reader] = set()
        self._news = Bell()
        self._room = Bell()

    @property
    def next(self) -> int:
        """The number of the next event."""
        return self.first + len(self._events)

    @property
    def crowded(self) -> bool:
        """Whether a reader is far behind, so that it would be kind to wait."""
        return any(self._end - self._start_of(reader.number) > WINDOW for reader in self._readers)

    def add(self, events: Sequence[bytes]) -> None:
        """Append events."""
        keep = min((reader.number for reader in self._readers), default=self.next)
        keep = min(keep, self.next)
        for event in events:
            self._end += len(event) + OVERHEAD
            self._events.append((self._end, event))
            self.size += len(event) + OVERHEAD
        while self.first < keep and (self.size > MOST_BYTES or len(self._events) > MOST_EVENTS):
            self.size -= len(self._events.popleft()[1]) + OVERHEAD
            self.first += 1
        self._news.ring()

    def close(self) -> None:
        """Nothing follows."""
        self.closed = True
        self._news.ring()

    @contextlib.contextmanager
    def reader(self, number: int) -> Iterator[Reader]:
        """One who reads along from this number on, as long as the block lasts."""
        reader = Reader(number)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._room.ring()

    def read(self, reader: Reader) -> list[bytes]:
        """The events the reader has not got, which counts as read then. None may be dropped before it (`first`)."""
        most = len(self._events)  # a deque is quick at its ends, where most readers are
        found = [self._events[place][1] for place in range(min(reader.number - self.first, most), most)]
        reader.number += len(found)
        self._room.ring()
        return found

    async def wait(self, number: int) -> None:
        """Return when there is an event of this number, or nothing follows."""
        if not self.closed and self.next <= number:
            await self._news.wait()

    async def wait_for_readers(self, seconds: float) -> None:
        """Return when nobody is far behind, or something has changed about that, and in so many seconds at most."""
        if self.crowded:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._room.wait()

    def _start_of(self, number: int) -> int:
        place = number - self.first
        if place >= len(self._events):
            return self._end
        end, event = self._events[max(place, 0)]
        return end - len(event) - OVERHEAD
