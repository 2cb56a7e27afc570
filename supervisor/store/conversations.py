"""Conversations and their turns: as work for the writer, and read back."""

import asyncio
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy import Column, RowMapping, Select, desc, select
from sqlalchemy.ext.asyncio import AsyncConnection

from supervisor.causes import Cause
from supervisor.store.database import Database
from supervisor.store.endings import Endings
from supervisor.store.errors import StoreError
from supervisor.store.records import Conversation, ConversationKey, TurnBegun, TurnEnded, TurnRow
from supervisor.store.statements import Row, Stage
from supervisor.store.tables import conversations, turns
from supervisor.store.texts import (
    ANSWER_BYTES,
    DETAIL_BYTES,
    LEAST_BYTES,
    QUESTION_BYTES,
    STATE_BYTES,
    Budget,
    clean,
    cut,
    cut_json,
    from_json,
    name_of,
    newest,
    size,
    to_json,
)
from supervisor.store.writer import Work, Writer

log = structlog.get_logger("supervisor.store")

MOST_ROWS: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024  # of turns read at once; a page has at least one
ROW_BYTES: Final = 512  # of a record besides its texts
MOST_PLACE: Final = 2**31 - 1  # of a turn in a conversation


class Conversations:
    """What was said, by conversation and by turn."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        endings: Endings,
        instance: str,
        *,
        history_messages: int,
        history_bytes: int,
    ) -> None:
        self._database = database
        self._writer = writer
        self._endings = endings
        self._instance = instance
        self._history_messages = history_messages
        self._history_bytes = history_bytes

    async def begin(self, record: TurnBegun, seconds: float) -> None:
        """Write that a turn begins; raises StoreError when that is not done within `seconds`."""
        done = asyncio.get_running_loop().create_future()
        work = begun_work(record, self._instance, done)
        self._writer.put(work)
        try:
            async with asyncio.timeout(seconds):
                await done
        except TimeoutError as error:
            self._take_back(work, record, Cause.STORE_UNAVAILABLE)
            raise StoreError(f"the store did not answer within {seconds:g} s") from error
        except StoreError as error:
            if error.uncertain:
                self._take_back(work, record, Cause.STORE_UNAVAILABLE)
            raise
        except asyncio.CancelledError:
            self._take_back(work, record, Cause.TURN_CANCELLED)
            raise

    async def end(self, record: TurnEnded, seconds: float) -> None:
        """Write how a turn ended: kept until it is done, awaited for `seconds` at most."""
        await self._endings.put(len(record.text) + len(record.thoughts), partial(ended_work, record), seconds)

    async def load(self, key: ConversationKey, before: int | None = None) -> Conversation:
        """The conversation (up to a turn), empty when there is none. Raises StoreError."""

        async def read(connection: AsyncConnection) -> Conversation:
            found = (
                await connection.execute(
                    select(conversations.c.state, conversations.c.turns, conversations.c.graph).where(
                        conversations.c.id == key.id
                    )
                )
            ).first()
            if found is None:
                return Conversation()
            first = None if before is None else await _number_of(connection, key, before)
            history = await self._history(connection, key, first)
            if first is None:
                return Conversation(history, from_json(found.state) or {}, found.turns, found.graph)
            earlier = [] if history else await _earlier(connection, first)
            return Conversation(history, {}, found.turns, found.graph, first, earlier)

        return await self._database.read(read)

    async def turn(self, turn_id: str) -> TurnRow | None:
        """One turn. Raises StoreError."""
        rows = await self._database.read(
            lambda connection: connection.execute(select(turns).where(turns.c.id == name_of(turn_id)))
        )
        found = rows.mappings().first()
        return None if found is None else _turn(found)

    async def page(self, key: ConversationKey, limit: int, before: int | None) -> list[TurnRow]:
        """Turns, newest first, with numbers less than `before`; fewer than `limit` where they are large, never none."""
        chosen = select(turns.c.number, turns.c.bytes).where(turns.c.conversation == key.id)
        if before is not None:
            chosen = chosen.where(turns.c.number < before)
        chosen = chosen.order_by(desc(turns.c.number)).limit(min(max(limit, 1), MOST_ROWS))

        async def read(connection: AsyncConnection) -> list[TurnRow]:
            numbers: list[int] = []
            left = PAGE_BYTES
            for number, weight in await connection.execute(chosen):
                left -= weight
                if numbers and left < 0:
                    break
                numbers.append(number)
            if not numbers:
                return []
            found = await connection.execute(
                select(turns).where(turns.c.number.in_(numbers)).order_by(desc(turns.c.number))
            )
            return [_turn(row) for row in found.mappings()]

        return await self._database.read(read)

    async def _history(
        self, connection: AsyncConnection, key: ConversationKey, first: int | None
    ) -> list[dict[str, Any]]:
        """The newest turns that fit, whole; of the newest one, and of what was said before the first, what fits.

        With `first` only those before the turn of this number.
        """
        numbers: list[int] = []
        left = self._history_bytes
        chosen = _remembered(key, turns.c.number, turns.c.remembered_bytes).order_by(desc(turns.c.number))
        if first is not None:
            chosen = chosen.where(turns.c.number < first)
        for number, weight in await connection.execute(chosen.limit(self._history_messages)):
            if numbers and weight > left:
                break
            left -= weight
            numbers.append(number)
        if not numbers:
            return []
        found = await connection.execute(
            select(turns.c.messages, turns.c.text, turns.c.value)
            .where(turns.c.number.in_(numbers))
            .order_by(desc(turns.c.number))
        )
        history: list[dict[str, Any]] = []
        for row in found:
            earlier, messages = _parted(row.messages)
            said = _said(messages, row.text, row.value)
            if not history:
                said = _bounded(said, self._history_messages, self._history_bytes)
            if len(history) + len(said) > self._history_messages:
                break
            history = said + history
            if earlier:  # then there was nothing before
                return newest(earlier, self._history_messages - len(history), left) + history
        return history

    def _take_back(self, work: Work, record: TurnBegun, cause: Cause) -> None:
        """A turn that will not take place; if its beginning is written all the same, this is its ending."""
        if not self._writer.withdraw(work):
            self._writer.put(ended_work(TurnEnded(id=record.id, ended_at=record.begun_at, cause=cause.value), None))


def _remembered(key: ConversationKey, *columns: Column[Any]) -> Select[Any]:
    """The turns of a conversation that its history holds."""
    return select(*columns).where(
        turns.c.conversation == key.id, turns.c.remembered_bytes.is_not(None), turns.c.ended_at.is_not(None)
    )


async def _number_of(connection: AsyncConnection, key: ConversationKey, place: int) -> int | None:
    """The number of a conversation's turn at this place, None beyond its end."""
    if place > MOST_PLACE:
        return None
    chosen = _remembered(key, turns.c.number).order_by(turns.c.number).offset(place).limit(1)
    number: int | None = await connection.scalar(chosen)
    return number


async def _earlier(connection: AsyncConnection, number: int) -> list[dict[str, Any]]:
    """What the caller said was said before the turn of this number."""
    messages: str | None = await connection.scalar(select(turns.c.messages).where(turns.c.number == number))
    return _parted(messages or "[]")[0]


def begun_work(record: TurnBegun, instance: str, done: asyncio.Future[int]) -> Work:
    """The beginning of a turn as rows."""
    budget = Budget(QUESTION_BYTES)
    messages = budget.json(record.messages)
    question = size(messages)
    given = None if record.input is None else budget.json(record.input)
    attachments = budget.json(record.attachments)
    if earlier := newest(record.earlier, len(record.earlier), QUESTION_BYTES - budget.used - LEAST_BYTES):
        messages = f'{{"earlier":{budget.json(earlier)},"messages":{messages}}}'
    row: Row = {
        "id": name_of(record.id),
        "conversation": None,
        "graph": name_of(record.graph),
        "user": name_of(record.user),
        "session": None,
        "instance": instance,
        "channel": name_of(record.channel),
        "kind": record.kind,
        "source": name_of(record.source),
        "begun_at": record.begun_at,
        "messages": messages,
        "input": given,
        "attachments": attachments,
        "remembered_bytes": question if record.kind == "chat" and record.messages else None,
    }
    row["bytes"] = budget.used
    key = record.key
    if key is None:
        return Work(((Stage.TURN_BEGUN, row),), budget.used + ROW_BYTES, kept=False, done=done)
    row |= {"conversation": key.id, "session": name_of(key.session)}
    conversation = {"id": key.id, "graph": row["graph"], "user": row["user"], "session": row["session"]}
    conversation |= {"created_at": record.begun_at, "used_at": record.begun_at, "turns": 1}
    return Work(
        ((Stage.CONVERSATION, conversation), (Stage.TURN_BEGUN, row)), budget.used + ROW_BYTES, kept=False, done=done
    )


def ended_work(record: TurnEnded, done: asyncio.Future[int] | None) -> Work:
    """The ending of a turn as rows."""
    budget = Budget(ANSWER_BYTES)
    text = budget.text(record.text)
    value = budget.json(record.value) if record.has_value else None
    # What a history holds of it: a turn without any answer is none, as if the question had not been put.
    remembered = bool(text) or (record.cause == Cause.COMPLETED and value is not None)
    row: Row = {
        "turn": name_of(record.id),
        "new_ended_at": record.ended_at,
        "new_cause": record.cause,
        "new_detail": cut(clean(record.detail), DETAIL_BYTES),
        "new_ms": record.ms,
        "new_text": text,
        "new_value": value,
        "new_structured": None if record.structured is None else budget.json(record.structured),
        "new_tool_calls": budget.json(record.tool_calls),
        "new_sources": budget.json(record.sources),
        "new_usage": budget.json(record.usage),
        "new_thoughts": budget.text(record.thoughts),
        "text_bytes": (size(text) or size(value or "")) if remembered else None,
    }
    row["new_bytes"] = budget.used
    writes = [(Stage.TURN_ENDED, row)]
    if record.first is not None and remembered:
        writes.append((Stage.TURNS_REPLACED, {"turn": row["turn"], "first": record.first}))
    if record.state is not None:
        state = to_json(record.state)
        if size(state) > STATE_BYTES:  # half a state is none: the one before stays
            log.warning("store.state_refused", turn=record.id, bytes=size(state), most=STATE_BYTES)
        else:
            writes.append((Stage.STATE, {"turn": row["turn"], "new_state": state}))
            budget.used += size(state)
    return Work(tuple(writes), budget.used + ROW_BYTES, kept=True, done=done)


def _parted(text: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """What was said before a turn that is a conversation's first, and the turn's own messages."""
    found = from_json(text)
    return (found["earlier"], found["messages"]) if isinstance(found, dict) else ([], found)


def _said(messages: list[Any], text: str | None, value: str | None) -> list[dict[str, Any]]:
    """The messages of one turn: its question, without what was said to the model for this turn only, and its answer."""
    said = [message for message in _messages(messages) if message["role"] != "system"]
    if text:
        said.append({"role": "assistant", "content": text})
    elif value is not None:
        answer = from_json(value)
        said.append({"role": "assistant", "content": answer if isinstance(answer, str) else value})
    return said


def _messages(found: Any) -> list[dict[str, Any]]:
    """Those that are messages: what a cut has put in the place of others is none."""
    return [item for item in found if isinstance(item, dict) and "role" in item and "content" in item]


def _bounded(said: list[dict[str, Any]], most: int, limit: int) -> list[dict[str, Any]]:
    """The last messages, with as much of them as fits."""
    return _messages(from_json(cut_json(said[-most:], limit)))


def _turn(row: RowMapping) -> TurnRow:
    earlier, messages = _parted(row["messages"])
    return TurnRow(
        number=row["number"],
        id=row["id"],
        graph=row["graph"],
        user=row["user"],
        session=row["session"],
        instance=row["instance"],
        channel=row["channel"],
        kind=row["kind"],
        source=row["source"],
        begun_at=row["begun_at"],
        ended_at=row["ended_at"],
        cause=row["cause"],
        detail=row["detail"] or "",
        ms=row["ms"],
        messages=messages,
        earlier=earlier,
        input=from_json(row["input"]),
        attachments=from_json(row["attachments"]),
        text=row["text"] or "",
        thoughts=row["thoughts"] or "",
        tool_calls=from_json(row["tool_calls"]) or [],
        sources=from_json(row["sources"]) or [],
        usage=from_json(row["usage"]) or {},
        structured=from_json(row["structured"]),
        value=from_json(row["value"]),
        has_value=row["value"] is not None,
    )
