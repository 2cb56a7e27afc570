"""Slots that are given in turn to the owners who wait for them: a flood of one of them delays its own work only."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """`at_once` of them, of which one owner holds all but one at most."""

    def __init__(self, at_once: int) -> None:
        """Where there is one only, whoever has it has all: the others come next."""
        self._free = at_once
        self._most_each = max(1, at_once - 1)
        self._held: Counter[str] = Counter()
        # Whose turn it is comes first. Each owner's own are in the order of their coming.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def held(self, owner: str, patience: float) -> AsyncIterator[None]:
        """A slot for the body. Raises TimeoutError when there is none within `patience` seconds."""
        async with asyncio.timeout(patience):
            await self._take(owner)
        try:
            yield
        finally:
            self._give(owner)

    async def _take(self, owner: str) -> None:
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(given)
        self._serve()
        try:
            await given
        except asyncio.CancelledError:
            if given.cancelled():
                self._forget(owner, given)
            else:  # it was given at that very moment
                self._give(owner)
            raise

    def _give(self, owner: str) -> None:
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._serve()

    def _forget(self, owner: str, given: asyncio.Future[None]) -> None:
        queue = self._waiting.get(owner, deque())
        if given in queue:
            queue.remove(given)
            if not queue:
                del self._waiting[owner]

    def _serve(self) -> None:
        while self._free and (owner := self._next()) is not None:
            queue = self._waiting.pop(owner)
            given = queue.popleft()
            if queue:
                self._waiting[owner] = queue  # behind all others
            if not given.done():  # else its owner has just given up
                self._free -= 1
                self._held[owner] += 1
                given.set_result(None)

    def _next(self) -> str | None:
        return next((owner for owner in self._waiting if self._held[owner] < self._most_each), None)
