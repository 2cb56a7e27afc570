"""What could not be removed when its channel ended, for lack of something that comes back: descriptors, memory."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger("supervisor.leftovers")

PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE: Final = 60.0
MOST: Final = 10_000  # the next server's start removes what is beyond


class Leftovers:
    """Tries again and again. `run` is its life."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self._stirred = asyncio.Event()

    def add(self, remove: Callable[[], None]) -> None:
        """Have this called, in a thread, until it raises no OSError."""
        if len(self._waiting) < MOST:
            self._waiting.append(remove)
            self._stirred.set()

    async def run(self) -> None:
        """Remove what comes, until cancelled."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            pause = PAUSE_SECONDS
            while self._waiting:
                await asyncio.sleep(pause)
                count = len(self._waiting)
                left = await asyncio.to_thread(_try, self._waiting[:count])
                self._waiting[:count] = left
                pause = PAUSE_SECONDS if len(left) < count else min(pause * 2, LONGEST_PAUSE)
            log.info("leftovers.removed")


def _try(removals: list[Callable[[], None]]) -> list[Callable[[], None]]:
    """Those that failed again. Blocks."""
    left = []
    for remove in removals:
        try:
            remove()
        except OSError:
            left.append(remove)
    return left
