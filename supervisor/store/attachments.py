"""What was uploaded for agents, on record: whose it is, and what has become of it. The files lie elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select

from supervisor.store.database import Database
from supervisor.store.endings import Endings
from supervisor.store.errors import StoreError
from supervisor.store.records import AttachmentBegun, AttachmentEnded, AttachmentRow
from supervisor.store.statements import Row, Stage
from supervisor.store.tables import attachments
from supervisor.store.texts import DETAIL_BYTES, clean, cut, escape, size
from supervisor.store.writer import Work, Writer

SECONDS: Final = 5.0  # for a beginning, or an ending
ROW_BYTES: Final = 512  # of a record besides its texts
LEAST_BYTES: Final = 4096  # what even an empty file takes on the disk
MOST_IDS: Final = 500  # in one question; SQLite's drivers take at least 999 parameters
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"

Erase = Callable[[Stage, Row], Awaitable[int]]


class AttachmentRows:
    """The attachments on record. Every method that reads raises StoreError when the store cannot be read."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        endings: Endings,
        instance: str,
        *,
        whole: bool,
        settled: Callable[[], Awaitable[None]],
        erase: Erase,
    ) -> None:
        """`whole`: all that is in the database is this server's; `settled` waits for what is to be written before."""
        self._database = database
        self._writer = writer
        self._endings = endings
        self._instance = instance
        self._ours: tuple[ColumnElement[bool], ...] = () if whole else (attachments.c.instance == instance,)
        self._settled = settled
        self._erase = erase

    async def begin(self, records: Sequence[AttachmentBegun]) -> None:
        """Put all of them on record, or none: raises StoreError when that is not done within SECONDS."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        work = begun_work(records, self._instance, done)
        self._writer.put(work)
        try:
            async with asyncio.timeout(SECONDS):
                await done
        except TimeoutError as error:
            self._take_back(work, records)
            raise StoreError(f"the store did not answer within {SECONDS:g} s") from error
        except StoreError as error:
            if error.uncertain:
                self._take_back(work, records)
            raise
        except asyncio.CancelledError:
            self._take_back(work, records)
            raise

    async def end(self, record: AttachmentEnded) -> None:
        """Put on record what has become of one: kept until it is written, awaited for SECONDS at most. Never raises."""
        await self._endings.put(len(record.detail), partial(ended_work, record), SECONDS)

    async def find(self, ids: Iterable[str]) -> dict[str, AttachmentRow]:
        """Those of these ids that there are, by their ids."""
        wanted = list(ids)
        found: dict[str, AttachmentRow] = {}
        for start in range(0, len(wanted), MOST_IDS):
            rows = await self._rows(attachments.c.id.in_(wanted[start : start + MOST_IDS]))
            found |= {row.id: row for row in rows}
        return found

    async def of_task(self, task: str) -> AttachmentRow | None:
        """The attachment of a task, None when there is none."""
        return next(iter(await self._rows(attachments.c.task == task)), None)

    async def unfinished(self) -> list[AttachmentRow]:
        """Those of this server that have not ended, oldest first."""
        return await self._rows(attachments.c.ended_at.is_(None), *self._ours)

    async def older(self, before: float, most: int, skipped: int = 0) -> list[AttachmentRow]:
        """Some that have ended and were uploaded to this server before a time, `most` of them, oldest first.

        Without the first `skipped` ones.
        """
        is_old = attachments.c.created_at < before
        has_ended = attachments.c.ended_at.is_not(None)
        return await self._rows(is_old, has_ended, *self._ours, most=most, skipped=skipped)

    async def left(self, before: float, most: int) -> list[AttachmentRow]:
        """Some that were uploaded to other servers before a time and have not ended, `most` of them, oldest first."""
        if not self._ours:
            return []
        is_old = attachments.c.created_at < before
        return await self._rows(
            is_old, attachments.c.ended_at.is_(None), attachments.c.instance != self._instance, most=most
        )

    async def totals(self) -> dict[str, int]:
        """How many bytes the attachments of this server take, by their owners."""
        taken = attachments.c.bytes + func.coalesce(attachments.c.text_bytes, 0) + LEAST_BYTES
        there = func.coalesce(attachments.c.status, SUCCESS) != FAILURE  # what has failed has no file any more
        query = select(attachments.c.owner, func.sum(taken)).where(there, *self._ours).group_by(attachments.c.owner)
        found = await self._database.read(lambda connection: connection.execute(query))
        return {owner: int(total) for owner, total in found}

    async def delete(self, attachment_id: str) -> bool:
        """Remove one from the record; False when there was none. Raises StoreError."""
        return bool(await self._erase(Stage.DELETE_ATTACHMENT, {"attachment": attachment_id}))

    async def _rows(
        self, *conditions: ColumnElement[bool], most: int | None = None, skipped: int = 0
    ) -> list[AttachmentRow]:
        await self._settled()
        query = select(attachments).where(*conditions).order_by(attachments.c.number).limit(most)
        if skipped:
            query = query.offset(skipped)
        found = await self._database.read(lambda connection: connection.execute(query))
        return [row_of(row) for row in found.mappings()]

    def _take_back(self, work: Work, records: Sequence[AttachmentBegun]) -> None:
        """Nobody knows whether they are on record, and they must not be."""
        if not self._writer.withdraw(work):
            rows = tuple((Stage.DELETE_ATTACHMENT, {"attachment": record.id}) for record in records)
            self._writer.put(Work(rows, ROW_BYTES, kept=True))


def begun_work(records: Sequence[AttachmentBegun], instance: str, done: asyncio.Future[int]) -> Work:
    """The beginnings as rows."""
    rows: list[Row] = [
        {
            "id": record.id,
            "task": record.task,
            "owner": record.owner,
            "user": escape(record.user),
            "instance": instance,
            "name": clean(record.name),
            "mime_type": record.mime_type,
            "bytes": record.size,
            "created_at": record.created_at,
        }
        for record in records
    ]
    weight = sum(size(row["user"]) + size(row["name"]) + ROW_BYTES for row in rows)
    return Work(tuple((Stage.ATTACHMENT_BEGUN, row) for row in rows), weight, kept=False, done=done)


def ended_work(record: AttachmentEnded, done: asyncio.Future[int]) -> Work:
    """The ending as a row."""
    row: Row = {
        "attachment": record.id,
        "new_ended_at": record.ended_at,
        "new_status": SUCCESS if record.succeeded else FAILURE,
        "new_detail": cut(clean(record.detail), DETAIL_BYTES),
        "new_text_bytes": record.text_bytes,
        "new_tokens": record.tokens,
    }
    return Work(((Stage.ATTACHMENT_ENDED, row),), ROW_BYTES + size(row["new_detail"]), kept=True, done=done)


def taken_by(file_bytes: int, text_bytes: int | None) -> int:
    """What an attachment counts for, in bytes: its file, its text, and something for its folder."""
    return file_bytes + (text_bytes or 0) + LEAST_BYTES


def row_of(found: Any) -> AttachmentRow:
    """A row as it was read."""
    return AttachmentRow(
        id=found["id"],
        task=found["task"],
        owner=found["owner"],
        name=found["name"],
        mime_type=found["mime_type"],
        size=found["bytes"],
        created_at=found["created_at"],
        succeeded=None if found["status"] is None else found["status"] == SUCCESS,
        detail=found["detail"] or "",
        text_bytes=found["text_bytes"],
        tokens=found["tokens"] or 0,
    )
