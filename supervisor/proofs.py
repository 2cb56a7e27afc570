"""What may be forgotten once it is in the ledger: the records and receipts of channels that have ended.

Until then they stay where the death of this server does not reach them, so that every start that was accepted gets its
ending, and the right one.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from supervisor.store.errors import StoreError

log = structlog.get_logger("supervisor.proofs")

PAUSE_SECONDS: Final = 0.1  # endings of so long are settled together
RETRY_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 1.0


class Records(Protocol):
    """Where endings are put on record."""

    async def recorded(self) -> None:
        """Wait until all that was noted so far is on record. Raises StoreError when it cannot be at present."""


class Proofs:
    """Calls back for each ending that is on record. `run` is its life."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._waiting: list[Callable[[], None]] = []
        self._stirred = asyncio.Event()

    def when_recorded(self, callback: Callable[[], None]) -> None:
        """Call this once all that was noted so far is on record."""
        self._waiting.append(callback)
        self._stirred.set()

    async def run(self) -> None:
        """Settle what comes, until cancelled; while the store is unwell it waits for that."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await asyncio.sleep(PAUSE_SECONDS)
            while self._waiting:
                try:
                    await self._settle()
                except StoreError:
                    await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Settle what is left, for CLOSE_SECONDS at most: the next server takes up the rest."""
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._settle()
        if self._waiting:
            log.warning("proofs.left", channels=len(self._waiting))

    async def _settle(self) -> None:
        count = len(self._waiting)
        await self._records.recorded()
        settled, self._waiting = self._waiting[:count], self._waiting[count:]
        for callback in settled:
            callback()
