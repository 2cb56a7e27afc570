"""The store of one server, whole: conversations, agents' state, kept responses, and the ledger of channels."""

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Any, Final

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from supervisor.causes import EXPLANATIONS, Cause
from supervisor.store import ledger
from supervisor.store.address import SqliteFile, parse_address
from supervisor.store.attachments import AttachmentRows
from supervisor.store.conversations import Conversations
from supervisor.store.database import Database
from supervisor.store.endings import Endings
from supervisor.store.errors import StoreError
from supervisor.store.ledger import Ledger
from supervisor.store.records import (
    Conversation,
    ConversationKey,
    LedgerEntry,
    ResponseBegun,
    ResponseEnded,
    ResponseRow,
    TurnBegun,
    TurnEnded,
    TurnRow,
)
from supervisor.store.responses import Responses
from supervisor.store.retention import Retention
from supervisor.store.statements import Row, Stage
from supervisor.store.tables import ledger as ledger_table
from supervisor.store.tables import responses, turns
from supervisor.store.texts import name_of
from supervisor.store.writer import Work, Writer

log = structlog.get_logger("supervisor.store")

BEGIN_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 5.0
ERASE_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 5.0

# What an earlier server may have left open, and what closes it.
_LEFT_OPEN: Final = (
    (turns, Stage.CLOSE_TURNS),
    (ledger_table, Stage.CLOSE_CHANNELS),
    (responses, Stage.CLOSE_RESPONSES),
)


class Store:
    """One server's store. `open` before use, `close` at the end; all of it in one event loop."""

    def __init__(
        self,
        url: str,
        *,
        instance: str,
        history_messages: int = 100,
        history_bytes: int = 262_144,
        store_keep_days: int = 30,
        ledger_keep_days: int = 30,
    ) -> None:
        """`url` as the setting ``store_url``, `instance` the name of the server's state folder (`instance_of`).

        Raises ValueError for a URL that is none.
        """
        self.address = parse_address(url)
        self._instance = instance
        self._database = Database(self.address)
        self._writer = Writer(self._database.write, self._database.probe)
        self._ledger = Ledger(instance, self._writer.put)
        endings = Endings(self._writer)
        self._conversations = Conversations(
            self._database,
            self._writer,
            endings,
            instance,
            history_messages=history_messages,
            history_bytes=history_bytes,
        )
        self._responses = Responses(self._database, self._writer, endings, instance)
        self.attachments = AttachmentRows(
            self._database,
            self._writer,
            endings,
            instance,
            whole=isinstance(self.address, SqliteFile),  # as in `_close_lost`
            settled=self._settled,
            erase=self._erase,
        )
        self._retention = Retention(self._erase, store_keep_days=store_keep_days, ledger_keep_days=ledger_keep_days)
        self._pruning: asyncio.Task[None] | None = None

    async def open(self, channels: Collection[str] = (), turns: Collection[str] = ()) -> None:
        """Take the store, bring its schema up to date, close on record what an earlier server left open.

        That is all but the `channels` and `turns` (ids) that go on, or whose ending will be told, and the responses of
        these turns. From then on what is too old is removed in the background. Raises StoreError.
        """
        began = time.monotonic()
        await self._database.open()
        try:
            left = await self._database.read(self._left_open)
            self._writer.start()
            lost = await self._close_lost(left, channels, turns)
        except BaseException:
            await self.close()
            raise
        self._pruning = asyncio.create_task(self._retention.run(), name="store pruning")
        log.info(
            "store.opened", store=str(self.address), seconds=round(time.monotonic() - began, 3), ended_on_record=lost
        )

    async def close(self) -> None:
        """Write what waits and let go of the store. Bounded by CLOSE_SECONDS, and as many for the connections."""
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.wait({self._pruning})
            self._pruning = None
        self._ledger.close()
        await self._writer.close(CLOSE_SECONDS)
        await self._database.close()

    # ------------------------------------------------------------------ conversations

    async def load(self, key: ConversationKey, before: int | None = None) -> Conversation:
        """What was said in a conversation so far and the agent's state; bounded.

        `before` is the place, from 0 on, of one of its turns: only what was said before that. Raises StoreError.
        """
        await self._settled()
        return await self._conversations.load(key, before)

    async def begin_turn(self, record: TurnBegun) -> None:
        """Put on record that a turn begins, before its worker hears of it.

        Raises StoreError when it is not written within BEGIN_SECONDS: the turn must not take place.
        """
        await self._conversations.begin(record, BEGIN_SECONDS)

    async def end_turn(self, record: TurnEnded) -> None:
        """Put on record how a turn ended. Never raises: what cannot be written now is kept and tried again."""
        await self._conversations.end(record, BEGIN_SECONDS)

    async def turn(self, turn_id: str) -> TurnRow | None:
        """One turn, None when there is none of this id. Raises StoreError."""
        await self._settled()
        return await self._conversations.turn(turn_id)

    async def conversation(self, key: ConversationKey, limit: int = 100, before: int | None = None) -> list[TurnRow]:
        """Turns of a conversation, newest first; `before` is the `number` of the last one that is known already.

        Fewer than `limit` when they are large; none only when there are no more. Raises StoreError.
        """
        await self._settled()
        return await self._conversations.page(key, limit, before)

    async def forget(self, key: ConversationKey) -> bool:
        """Remove a conversation with its turns and state; False when there was none. Raises StoreError."""
        return bool(await self._erase(Stage.FORGET, {"key": key.id}))

    # ------------------------------------------------------------------ responses

    def begin_response(self, record: ResponseBegun) -> None:
        """Put on record that there is a response, complete or not; of two with one id the first counts.

        Never waits, never raises: what cannot be written now is kept and tried again.
        """
        self._responses.begin(record)

    async def end_response(self, record: ResponseEnded) -> None:
        """Put on record how a response ended; the first ending counts, and a deleted one stays deleted.

        Never raises: what cannot be written now is kept and tried again. Takes BEGIN_SECONDS at most.
        """
        await self._responses.end(record, BEGIN_SECONDS)

    async def unfinished_responses(self, turns: Collection[str]) -> list[ResponseRow]:
        """The responses of these turns that have not ended. Raises StoreError."""
        return await self._responses.unfinished(turns)

    async def response(self, response_id: str) -> ResponseRow | None:
        """One response, None when there is none of this id. Raises StoreError."""
        await self._settled()
        return await self._responses.find(response_id)

    async def delete_response(self, response_id: str) -> bool:
        """Remove a response; False when there was none. Its turn and its conversation stay. Raises StoreError."""
        await self._settled()  # else a beginning that is kept would bring it back
        return bool(await self._erase(Stage.DELETE_RESPONSE, {"response": name_of(response_id)}))

    # ------------------------------------------------------------------ ledger

    def note(self, entry: LedgerEntry) -> None:
        """Put an event of a channel's life on record soon. Never waits, never raises."""
        self._ledger.note(entry)

    async def recorded(self) -> None:
        """Wait until all that was noted so far is in the ledger. Raises StoreError when it cannot be at present."""
        self._ledger.flush()
        await self._writer.settled()

    async def ledger(
        self,
        *,
        channel: str | None = None,
        graph: str | None = None,
        cause: str | None = None,
        session: str | None = None,
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
        open: bool | None = None,  # noqa: A002 - the name of the query parameter
        limit: int = 100,
        before: int | None = None,
        space: str | None = None,
    ) -> list[dict[str, Any]]:
        """Channels' lives, newest first, those that fit all that is given; `channel` is a name, `space` a user's own.

        `since` and `until` are about when it was claimed, `before` is the `number` of the last row that is known
        already. Raises StoreError.
        """
        self._ledger.flush()
        await self._settled()
        return await ledger.find(
            self._database,
            channel=channel,
            graph=graph,
            cause=cause,
            session=session,
            user=user,
            since=since,
            until=until,
            is_open=open,
            limit=limit,
            before=before,
            space=space,
        )

    # ------------------------------------------------------------------ state

    async def flush(self) -> None:
        """Wait until all that was put on record is written. Raises StoreError when that cannot be at present."""
        self._ledger.flush()
        await self._settled()

    async def prune(self) -> dict[str, int]:
        """Remove what is too old now, as happens in the background; how many rows of each table. Raises StoreError."""
        return await self._retention.prune(time.time())

    @property
    def healthy(self) -> bool:
        """Whether everything that was put on record so far was written, or will be at once."""
        return not self._writer.problem

    @property
    def problem(self) -> str:
        """Why the store cannot be written, empty when it can."""
        return self._writer.problem

    @property
    def lost(self) -> int:
        """How many records were dropped since the store was opened."""
        return self._writer.lost

    def details(self) -> dict[str, Any]:
        """What people are shown of it."""
        return {
            "store": str(self.address),
            "healthy": self.healthy,
            "problem": self.problem,
            "waiting": self._writer.waiting + self._ledger.waiting,
            "lost": self.lost,
        }

    async def _settled(self) -> None:
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._writer.settled()
        except TimeoutError as error:
            raise StoreError(f"the store {self.address} did not answer within {SETTLE_SECONDS:g} s") from error

    async def _erase(self, stage: Stage, row: Row) -> int:
        """Remove rows, after all that was put on record before; how many there were. Raises StoreError."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        work = Work(((stage, row),), 0, kept=False, done=done)
        self._writer.put(work)
        try:
            async with asyncio.timeout(ERASE_SECONDS):
                return await done
        except TimeoutError as error:
            self._writer.withdraw(work)
            raise StoreError(f"the store {self.address} did not answer within {ERASE_SECONDS:g} s") from error

    async def _left_open(self, connection: AsyncConnection) -> list[tuple[Stage, str, str]]:
        """What is open on record: the stage that closes it, its id, and that of its turn (if it has none, its own)."""
        whole = isinstance(self.address, SqliteFile)  # it is all ours, whatever the state folder was called before
        found: list[tuple[Stage, str, str]] = []
        for table, stage in _LEFT_OPEN:
            turn = table.c.turn if table is responses else table.c.id
            query = select(table.c.id, turn).where(table.c.ended_at.is_(None))
            if not whole:
                query = query.where(table.c.instance == self._instance)
            found += [(stage, one, its) for one, its in await connection.execute(query)]
        return found

    async def _close_lost(
        self, left: Sequence[tuple[Stage, str, str]], channels: Collection[str], turns: Collection[str]
    ) -> int:
        """Close what nobody will end; kept and tried again where the store cannot be written yet."""
        cause = Cause.SERVER_LOST
        row = {"now": time.time(), "why": cause.value, "said": EXPLANATIONS[cause].message}
        lives = {name_of(one) for one in (*channels, *turns)}
        rows = tuple((stage, row | {"lost": one}) for stage, one, turn in left if turn not in lives)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._writer.put(Work(rows, 0, kept=True, done=done))
        await asyncio.wait({done}, timeout=SETTLE_SECONDS)
        return done.result() if done.done() else 0
