"""How what is only on record gets its ending: kept until it is written, awaited while the store is well."""

import asyncio
from collections.abc import Callable
from typing import Final

from supervisor.store.writer import Work, Writer

LARGE: Final = 256 * 1024  # characters or bytes of an ending
LARGE_AT_ONCE: Final = 4


class Endings:
    """Puts endings in the writer's queue. Large ones come a few at a time.

    Many that end at once must neither hold the loop nor overflow what may wait.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def put(self, size: int, make: Callable[[asyncio.Future[int]], Work], seconds: float) -> None:
        """Write what `make` makes of about `size` bytes, awaited for `seconds` at most.

        Never raises, and is put on record even when its caller is cancelled.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        done: asyncio.Future[int] = loop.create_future()
        has_place = False
        try:
            try:
                has_place = size > LARGE and await self._place(until)
            finally:  # also when its caller is cancelled
                self._writer.put(make(done))
            if not self._writer.problem:  # else it will be written when the store is well again
                await asyncio.wait({done}, timeout=max(until - loop.time(), 0.0))
        finally:
            if has_place:
                self._large.release()

    async def _place(self, until: float) -> bool:
        try:
            async with asyncio.timeout_at(until):
                return await self._large.acquire()
        except TimeoutError:
            return False
