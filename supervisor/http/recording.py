"""The events of one stream, kept for readers that come later or come back: bounded, and told where it begins."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from supervisor.channels.bell import Bell

MOST_BYTES: Final = 1024 * 1024
MOST_EVENTS: Final = 8192
OVERHEAD: Final = 64  # bytes that an event takes besides its own


class Recording:
    """Events numbered from 0. What is too much is dropped at the beginning, never in the middle."""

    def __init__(self) -> None:
        self.first = 0  # the number of the first event that is here
        self.size = 0
        self.closed = False
        self._events: deque[bytes] = deque()
        self._bell = Bell()

    @property
    def next(self) -> int:
        """The number of the next event."""
        return self.first + len(self._events)

    def add(self, events: Iterable[bytes]) -> None:
        """Append events."""
        for event in events:
            self._events.append(event)
            self.size += len(event) + OVERHEAD
        while self.size > MOST_BYTES or len(self._events) > MOST_EVENTS:
            self.size -= len(self._events.popleft()) + OVERHEAD
            self.first += 1
        self._bell.ring()

    def close(self) -> None:
        """Nothing follows."""
        self.closed = True
        self._bell.ring()

    def read(self, number: int) -> list[bytes] | None:
        """The events from this number on; None: some of them are no longer here."""
        if number < self.first:
            return None
        most = len(self._events)  # a deque is quick at its ends, where most readers are
        return [self._events[place] for place in range(min(number - self.first, most), most)]

    async def wait(self, number: int) -> None:
        """Return when there is an event of this number, or nothing follows."""
        if not self.closed and self.next <= number:
            await self._bell.wait()
