"""The ledger: one row per life of a channel, gathered in memory for a moment and written in batches."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import desc, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from supervisor.auth import SEPARATOR
from supervisor.store.database import Database
from supervisor.store.records import (
    ChannelClaimed,
    ChannelEnded,
    ChannelPinged,
    ChannelReady,
    LedgerEntry,
    TurnCounted,
)
from supervisor.store.statements import CHANGED_COLUMNS, Row, Stage
from supervisor.store.tables import ledger
from supervisor.store.texts import DETAIL_BYTES, clean, cut, name_of
from supervisor.store.writer import Work

FLUSH_SECONDS: Final = 0.1
MOST_PINGED: Final = 65_536  # channels whose pings are counted at the same time
MOST_ROWS: Final = 1000
ROW_BYTES: Final = 512

_NOTHING: Final[Row] = {f"new_{name}": None for name in CHANGED_COLUMNS} | {"more_pings": 0, "more_turns": 0}
_UNSTARTED: Final[Row] = dict.fromkeys(CHANGED_COLUMNS) | {"pings": 0, "turns": 0}


class Ledger:
    """Gathers what is noted, FLUSH_SECONDS at most; `put` takes it to be written."""

    def __init__(self, instance: str, put: Callable[[Work], None]) -> None:
        self._instance = instance
        self._put = put
        self._claimed: dict[str, Row] = {}
        self._changed: dict[str, Row] = {}
        self._pinged: dict[str, tuple[int, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many rows have not been handed to the writer."""
        return len(self._claimed) + len(self._changed)

    def note(self, entry: LedgerEntry) -> None:
        """Put this on record soon. Never waits, never raises."""
        channel = name_of(entry.channel)
        match entry:
            case ChannelPinged(at=at, count=count):
                if len(self._pinged) < MOST_PINGED or channel in self._pinged:
                    self._pinged[channel] = (self._pinged.get(channel, (0, 0.0))[0] + count, at)
                return  # it goes with what is noted next
            case ChannelClaimed(again=True):  # what comes after it must not go by a row that is not written
                self._put(Work(((Stage.CHANNEL_CLAIMED, self._claim(channel, entry)),), ROW_BYTES, kept=True))
                return
            case ChannelClaimed():
                self._claimed[channel] = self._claim(channel, entry)
            case ChannelReady(at=at, pid=pid):
                self._change(channel, ready_at=at, pid=pid)
            case TurnCounted():
                self._change(channel, turns=1)
            case ChannelEnded():
                self._change(
                    channel,
                    ended_at=entry.at,
                    cause=entry.cause,
                    detail=cut(clean(entry.detail), DETAIL_BYTES),
                    status=entry.status,
                    processes=entry.processes,
                    killed=entry.killed,
                    seconds=entry.seconds,
                )
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand everything to the writer now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        claimed, self._claimed = self._claimed, {}
        changed, self._changed = self._changed, {}
        for stage, rows in ((Stage.CHANNEL_CLAIMED, claimed), (Stage.CHANNEL_CHANGED, changed)):
            for row in rows.values():
                self._put(Work(((stage, row),), ROW_BYTES, kept=True))

    def close(self) -> None:
        """Hand over everything, also pings that nothing else came after."""
        for channel in list(self._pinged):
            self._change(channel)
        self.flush()

    def _claim(self, channel: str, entry: ChannelClaimed) -> Row:
        return _UNSTARTED | {
            "id": channel,
            "name": name_of(entry.name),
            "graph": name_of(entry.graph),
            "user": name_of(entry.user),
            "session": None if entry.session is None else name_of(entry.session),
            "source": name_of(entry.source),
            "instance": self._instance,
            "claimed_at": entry.at,
        }

    def _change(self, channel: str, *, turns: int = 0, **values: Any) -> None:
        pings, last = self._pinged.pop(channel, (0, None))
        if last is not None:
            values["last_ping_at"] = last
        row = self._claimed.get(channel)
        if row is not None:  # its row is not written yet
            row.update(values)
            row["pings"] += pings
            row["turns"] += turns
            return
        row = self._changed.get(channel)
        if row is None:
            row = self._changed[channel] = _NOTHING | {"channel": channel}
        row.update((f"new_{name}", value) for name, value in values.items())
        row["more_pings"] += pings
        row["more_turns"] += turns


async def find(
    database: Database,
    *,
    channel: str | None = None,
    graph: str | None = None,
    cause: str | None = None,
    session: str | None = None,
    user: str | None = None,
    since: float | None = None,
    until: float | None = None,
    is_open: bool | None = None,
    limit: int = 100,
    before: int | None = None,
    space: str | None = None,
) -> list[dict[str, Any]]:
    """Rows of the ledger, newest first; `before` is the `number` of the last one that is known already.

    `space` is the user whose channels they are.

    Raises StoreError.
    """
    columns = ledger.c
    names = ((columns.name, channel), (columns.graph, graph), (columns.session, session), (columns.user, user))
    conditions = [column == name_of(value) for column, value in names if value is not None]
    if cause is not None:
        conditions.append(columns.cause == name_of(cause))
    if since is not None:
        conditions.append(columns.claimed_at >= since)
    if until is not None:
        conditions.append(columns.claimed_at < until)
    if is_open is not None:
        conditions.append(columns.ended_at.is_(None) if is_open else columns.ended_at.is_not(None))
    if before is not None:
        conditions.append(columns.number < before)
    if space is not None:  # not LIKE, which takes letters of either case for the same
        prefix = name_of(f"{space}{SEPARATOR}")
        conditions.append(func.substr(columns.name, 1, len(prefix)) == prefix)
    query = select(ledger).where(*conditions).order_by(desc(columns.number)).limit(min(max(limit, 1), MOST_ROWS))

    async def read(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [dict(row) for row in (await connection.execute(query)).mappings()]

    return await database.read(read)
