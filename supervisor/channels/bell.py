"""A bell: any number wait for it, and all of them go on when it is rung."""

import asyncio


class Bell:
    """Unlike an `asyncio.Event` it is not left set: who waits looks again whether there is what it waits for."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Return when it is rung next."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def ring(self) -> None:
        """Let all who wait go on; cheap when nobody does."""
        if self._waiting:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
            self._waiting.clear()
