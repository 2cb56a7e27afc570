"""Many pipes on one loop: each is read in its turn, and all of them together leave the loop to others in between.

The loop runs whatever is ready before it looks again at what has come meanwhile. With fifty workers that talk as fast
as they can, reading from all of them would take as long as a slow start: a request that has just come, and needs the
loop several times until its worker is asked, would wait for all of them each time. So no more than a slice of time is
read between two looks; the pipes that are left go on first.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

SLICE_SECONDS: Final = 0.002

Read = Callable[[], None]


class Rota:
    """Who reads next. One for all pipes of a loop."""

    __slots__ = ("_held", "_left", "_loop", "_turning", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = SLICE_SECONDS
        self._turning = False  # the loop is asked to come back
        self._waiting: deque[Read] = deque()
        self._held: list[Read] | None = None

    def hold(self) -> None:
        """Nobody begins to listen until `release`: something else comes first."""
        self._held = []

    def release(self) -> None:
        """Those who were to begin meanwhile do."""
        held, self._held = self._held or [], None
        for listen in held:
            listen()

    def begin(self, listen: Read) -> None:
        """Have a pipe listened to from now on, or as soon as nobody is held."""
        if self._held is None:
            listen()
        else:
            self._held.append(listen)

    def take(self, read: Read) -> bool:
        """Read now if there is time left; else later, when `read` is called. Whether it was read."""
        if self._left > 0 and not self._waiting:
            self._read(read)
            return True
        self._waiting.append(read)
        return False

    def _read(self, read: Read) -> None:
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)
        began = time.monotonic()
        try:
            read()
        finally:
            self._left -= time.monotonic() - began

    def _turn(self) -> None:
        """The loop has looked around since: there is time again."""
        self._turning = False
        self._left = SLICE_SECONDS
        while self._waiting and self._left > 0:
            self._read(self._waiting.popleft())
