"""Deletes attachments that are too old, and files that are on nobody's record, while others go on."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from supervisor.attachments.books import Books
from supervisor.attachments.files import AttachmentFiles
from supervisor.store.attachments import taken_by
from supervisor.store.errors import StoreError

if TYPE_CHECKING:
    from supervisor.store.attachments import AttachmentRows
    from supervisor.store.records import AttachmentRow

log = structlog.get_logger("supervisor.attachments")

BATCH: Final = 50
FIRST_SECONDS: Final = 10.0  # a server that begins has more urgent things to do
EVERY_SECONDS: Final = 600.0
DAY: Final = 86_400.0


class Retention:
    """Deletes a file before its row: what is left half-done is found again by its row."""

    def __init__(self, rows: "AttachmentRows", files: AttachmentFiles, books: Books, keep_days: int) -> None:
        """0 `keep_days`: nothing is ever too old."""
        self._rows = rows
        self._files = files
        self._books = books
        self._keep_days = keep_days

    async def run(self) -> None:
        """Tidy after FIRST_SECONDS and then every EVERY_SECONDS, until cancelled."""
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                await self.prune(time.time())
                await self.sweep()
            except (StoreError, OSError) as error:
                log.warning("attachments.not_tidied", error=str(error))
            await asyncio.sleep(EVERY_SECONDS)

    async def prune(self, now: float) -> int:
        """Delete what is too old at `now`; how many. Raises StoreError, and OSError for a file that stays."""
        removed = 0
        while self._keep_days:
            rows = await self._rows.older(now - self._keep_days * DAY, BATCH)
            if not rows:
                break
            for row in rows:
                await self._delete(row)
            removed += len(rows)
        if removed:
            log.info("attachments.pruned", count=removed)
        return removed

    async def sweep(self) -> int:
        """Remove files without a row; how many. Raises StoreError and OSError."""
        # The listing comes first: each attachment is on record before its file is in its place.
        listed = await asyncio.to_thread(lambda: list(self._files.listing()))
        removed = 0
        for start in range(0, len(listed), BATCH):
            batch = listed[start : start + BATCH]
            known = await self._rows.find(attachment for _, attachment in batch)
            for owner, attachment in batch:
                if attachment not in known:
                    await asyncio.to_thread(self._files.remove, owner, attachment)
                    removed += 1
        if removed:
            log.info("attachments.swept", count=removed)
        return removed

    async def _delete(self, row: "AttachmentRow") -> None:
        await asyncio.to_thread(self._files.remove, row.owner, row.id)
        deleted = await self._rows.delete(row.id)
        if deleted and row.succeeded is not False:  # what has failed takes nothing
            self._books.give(row.owner, taken_by(row.size, row.text_bytes))
