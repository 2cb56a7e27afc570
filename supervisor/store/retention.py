"""Removes what is older than it should be kept, in small batches between which others write."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from supervisor.store.errors import StoreError
from supervisor.store.statements import Row, Stage

log = structlog.get_logger("supervisor.store")

BATCH: Final = 200
RESPONSES_BATCH: Final = 50  # one may be four times as large as a turn
PAUSE_SECONDS: Final = 0.05
FIRST_SECONDS: Final = 10.0  # a server that begins has more urgent things to write
EVERY_SECONDS: Final = 600.0
DAY: Final = 86_400.0


class Retention:
    """Prunes a store; `erase` removes one batch and says how many rows that were."""

    def __init__(
        self, erase: Callable[[Stage, Row], Awaitable[int]], *, store_keep_days: int, ledger_keep_days: int
    ) -> None:
        """Days of 0 keep for ever."""
        self._erase = erase
        self._bounds = {
            Stage.PRUNE_TURNS: (store_keep_days, BATCH),
            Stage.PRUNE_CONVERSATIONS: (store_keep_days, BATCH),  # which have no turns any more
            Stage.PRUNE_RESPONSES: (store_keep_days, RESPONSES_BATCH),
            Stage.PRUNE_LEDGER: (ledger_keep_days, BATCH),
        }

    async def prune(self, now: float) -> dict[str, int]:
        """Remove all that is too old at `now`; how many rows of each table. Raises StoreError."""
        removed = {}
        for stage, (days, most) in self._bounds.items():
            count = 0
            while days and (erased := await self._erase(stage, {"before": now - days * DAY, "most": most})):
                count += erased
                await asyncio.sleep(PAUSE_SECONDS)
            removed[stage.name.removeprefix("PRUNE_").lower()] = count
        if any(removed.values()):
            log.info("store.pruned", **removed)
        return removed

    async def run(self) -> None:
        """Prune after FIRST_SECONDS and then every EVERY_SECONDS, until cancelled."""
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                await self.prune(time.time())
            except StoreError as error:
                log.warning("store.prune_failed", reason=str(error))
            await asyncio.sleep(EVERY_SECONDS)
