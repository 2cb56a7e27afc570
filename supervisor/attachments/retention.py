"""Deletes attachments that are too old, and files that are on nobody's record, while others go on."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from supervisor.attachments.books import Books
from supervisor.attachments.files import AttachmentFiles
from supervisor.attachments.reading import LATE
from supervisor.store.attachments import taken_by
from supervisor.store.errors import StoreError
from supervisor.store.records import AttachmentEnded

if TYPE_CHECKING:
    from supervisor.store.attachments import AttachmentRows
    from supervisor.store.records import AttachmentRow

log = structlog.get_logger("supervisor.attachments")

BATCH: Final = 50
FIRST_SECONDS: Final = 10.0  # a server that begins has more urgent things to do
EVERY_SECONDS: Final = 600.0
DAY: Final = 86_400.0
LEFT_SECONDS: Final = DAY  # a server that was ended has been started again by then
MOST_LEFT: Final = 1000  # at one time
SWEPT_SECONDS: Final = DAY  # for whoever started a server with a wrong store to see it


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
            now = time.time()
            for work in (self.prune, self.end_left, self.sweep):
                try:
                    await work(now)
                except (StoreError, OSError) as error:
                    log.warning("attachments.not_tidied", work=work.__name__, error=str(error))
            await asyncio.sleep(EVERY_SECONDS)

    async def prune(self, now: float) -> int:
        """Delete what is too old at `now`, but for files that cannot be removed; how many. Raises StoreError."""
        removed = stayed = 0
        while self._keep_days:
            rows = await self._rows.older(now - self._keep_days * DAY, BATCH, stayed)
            if not rows:
                break
            for row in rows:
                if await self._removed(row.owner, row.id):
                    await self._forget(row)
                    removed += 1
                else:
                    stayed += 1
        if removed:
            log.info("attachments.pruned", count=removed)
        return removed

    async def end_left(self, now: float) -> int:
        """End what other servers took LEFT_SECONDS ago and have not ended: they do not come back. Raises StoreError."""
        ended = 0
        # Not again and again what the store does not take: an ending that waits to be written is not seen here.
        for row in await self._rows.left(now - LEFT_SECONDS, MOST_LEFT):
            await self._removed(row.owner, row.id)
            await self._rows.end(AttachmentEnded(id=row.id, ended_at=now, succeeded=False, detail=LATE))
            ended += 1
        if ended:
            log.info("attachments.left_ended", count=ended)
        return ended

    async def sweep(self, now: float) -> int:
        """Remove files without a row that are SWEPT_SECONDS old; how many. Raises StoreError and OSError."""
        # The listing comes first: each attachment is on record before its file is in its place.
        listed = await asyncio.to_thread(lambda: list(self._files.listing(now - SWEPT_SECONDS)))
        removed = 0
        for start in range(0, len(listed), BATCH):
            batch = listed[start : start + BATCH]
            known = await self._rows.find(attachment for _, attachment in batch)
            for owner, attachment in batch:
                if attachment not in known and await self._removed(owner, attachment):
                    removed += 1
        if removed:
            log.info("attachments.swept", count=removed)
        return removed

    async def _removed(self, owner: str, attachment: str) -> bool:
        """Whether the files of an attachment are gone; one that cannot be removed must not keep the others."""
        try:
            await asyncio.to_thread(self._files.remove, owner, attachment)
        except OSError as error:
            log.warning("attachment.not_removed", attachment=attachment, error=error.strerror)
            return False
        return True

    async def _forget(self, row: "AttachmentRow") -> None:
        deleted = await self._rows.delete(row.id)
        if deleted and row.succeeded is not False:  # what has failed takes nothing
            self._books.give(row.owner, taken_by(row.size, row.text_bytes))
