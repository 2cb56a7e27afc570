"""What was answered, as the APIs have it: as work for the writer, and read back."""

import time
from asyncio import Future
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy import RowMapping, Select, select

from supervisor.store.database import Database
from supervisor.store.endings import Endings
from supervisor.store.records import ResponseBegun, ResponseEnded, ResponseRow
from supervisor.store.statements import Row, Stage
from supervisor.store.tables import responses
from supervisor.store.texts import RESPONSE_BYTES, escape, name_of, size, unescape
from supervisor.store.writer import Work, Writer

log = structlog.get_logger("supervisor.store")

ROW_BYTES: Final = 512  # of a record besides its body, its input and its conversation


class Responses:
    """Responses by their ids."""

    def __init__(self, database: Database, writer: Writer, endings: Endings, instance: str) -> None:
        self._database = database
        self._writer = writer
        self._endings = endings
        self._instance = instance

    def begin(self, record: ResponseBegun) -> None:
        """Put on record that there is one: kept until it is done."""
        self._writer.put(begun_work(record, self._instance))

    async def end(self, record: ResponseEnded, seconds: float) -> None:
        """Put on record how it ended: kept until it is done, awaited for `seconds` at most."""
        await self._endings.put(len(record.body), partial(ended_work, record, time.time()), seconds)

    async def find(self, response_id: str) -> ResponseRow | None:
        """One response. Raises StoreError."""
        found = await self._read(select(responses).where(responses.c.id == name_of(response_id)))
        return replace(found[0], id=response_id) if found else None

    async def unfinished(self, turns: Collection[str]) -> list[ResponseRow]:
        """The responses of these turns that have not ended. Raises StoreError."""
        if not turns:
            return []
        of_these = responses.c.turn.in_([name_of(turn) for turn in turns])
        return await self._read(select(responses).where(responses.c.ended_at.is_(None), of_these))

    async def _read(self, query: Select[Any]) -> list[ResponseRow]:
        found = await self._database.read(lambda connection: connection.execute(query))
        return [row_of(one) for one in found.mappings()]


def row_of(found: RowMapping) -> ResponseRow:
    """A row as it is told. Ids are as the database has them (`name_of`): unchanged, if we made them."""
    return ResponseRow(
        id=found["id"],
        turn=found["turn"],
        source=found["source"],
        graph=unescape(found["graph"]),
        user=unescape(found["user"]),
        session=unescape(found["session"]),
        created_at=found["created_at"],
        ended_at=found["ended_at"],
        status=found["status"],
        body=found["body"],
        input=found["input"],
    )


def begun_work(record: ResponseBegun, instance: str) -> Work:
    """The beginning of a response as a row."""
    response = name_of(record.id)
    # Exactly as they are, for the conversation is continued by them; a turn's request has bounded them.
    key = {"graph": escape(record.graph), "user": escape(record.user), "session": escape(record.session)}
    body, asked = _bounded(response, "body", record.body), _bounded(response, "input", record.input)
    row: Row = key | {
        "id": response,
        "turn": name_of(record.turn),
        "source": name_of(record.source),
        "instance": instance,
        "status": name_of(record.status),
        "created_at": record.created_at,
        "body": body,
        "input": asked,
    }
    weight = len(body) + len(asked) + sum(map(size, key.values())) + ROW_BYTES
    return Work(((Stage.RESPONSE_BEGUN, row),), weight, kept=True)


def ended_work(record: ResponseEnded, ended_at: float, done: Future[int]) -> Work:
    """The ending of a response as a row."""
    response = name_of(record.id)
    body = _bounded(response, "body", record.body)
    row: Row = {
        "response": response,
        "new_ended_at": ended_at,
        "new_status": name_of(record.status),
        "new_body": body,
    }
    return Work(((Stage.RESPONSE_ENDED, row),), len(body) + ROW_BYTES, kept=True, done=done)


def _bounded(response: str, part: str, data: bytes) -> bytes:
    """All of it or nothing: half an object is none."""
    if len(data) <= RESPONSE_BYTES:
        return data
    log.warning("store.response_too_large", response=response, part=part, bytes=len(data), most=RESPONSE_BYTES)
    return b""
