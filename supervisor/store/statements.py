"""Everything that is written, as statements in the order in which one transaction executes them.

Each is executed with many rows at once, straight by the driver: SQLAlchemy's way through a transaction costs several
times what the database does. All may be repeated, for after a connection was lost nobody knows whether the transaction
took place; only a turn that begins twice is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import (
    Column,
    Dialect,
    MetaData,
    Null,
    Table,
    Text,
    UpdateBase,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    null,
    select,
    update,
)

from supervisor.store.tables import VERSION_TABLE, attachments, conversations, ledger, responses, turns

Row = dict[str, Any]


class Stage(IntEnum):
    """One kind of write; a smaller one comes first."""

    CLOSE_TURNS = 1
    CLOSE_CHANNELS = 2
    CLOSE_RESPONSES = 3
    CONVERSATION = 4
    TURN_BEGUN = 5
    TURN_ENDED = 6
    TURNS_REPLACED = 7
    STATE = 8
    RESPONSE_BEGUN = 9
    RESPONSE_ENDED = 10
    ATTACHMENT_BEGUN = 11
    ATTACHMENT_ENDED = 12
    CHANNEL_CLAIMED = 13
    CHANNEL_CHANGED = 14
    FORGET = 15
    DELETE_RESPONSE = 16
    DELETE_ATTACHMENT = 17
    PRUNE_TURNS = 18
    PRUNE_CONVERSATIONS = 19
    PRUNE_RESPONSES = 20
    PRUNE_LEDGER = 21
    PROBE = 22  # a write that changes nothing


Rows = dict[Stage, list[Row]]
Counts = dict[Stage, list[int]]  # how many rows each of the COUNTED met

# Executed row by row, because how many rows each one met is asked.
COUNTED: Final = frozenset(stage for stage in Stage if stage >= Stage.FORGET or stage <= Stage.CLOSE_RESPONSES)

CHANGED_COLUMNS: Final = (
    "ready_at", "pid", "last_ping_at", "ended_at", "cause", "detail", "status", "processes", "killed", "seconds",
)  # fmt: skip

_ENDED_COLUMNS: Final = (
    "ended_at", "cause", "detail", "ms", "text", "thoughts", "tool_calls", "sources", "structured", "usage", "value",
)  # fmt: skip
_CLOSED_COLUMNS: Final = {"ended_at": "now", "cause": "why", "detail": "said"}
_version: Final = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement as the driver takes it, and how a row becomes its parameters."""

    sql: str
    parameters: Callable[[Row], tuple[Any, ...]]


def prepare(statement: UpdateBase, dialect: Dialect, row: Row) -> Prepared:
    """The statement for rows with the keys of this one."""
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(row) if statement.is_insert else None)
    order = compiled.positiontup
    own = {name: compiled.params[name] for name in order if name not in row}  # what the language itself brings along
    if own or len(order) < 2:
        return Prepared(str(compiled), lambda row: tuple((own | row)[name] for name in order))
    return Prepared(str(compiled), itemgetter(*order))


def statements_for(dialect: str) -> dict[Stage, UpdateBase]:
    """The statement of each stage in the language of ``sqlite`` or ``postgresql``."""
    insert: Any = import_module(f"sqlalchemy.dialects.{dialect}").insert  # one of them is enough to load
    conversation = insert(conversations).inline()
    return {
        Stage.CLOSE_TURNS: _close(turns, remembered_bytes=null()),  # half a turn, whose answer is lost
        Stage.CLOSE_CHANNELS: _close(ledger),
        Stage.CLOSE_RESPONSES: _close(responses),
        Stage.CONVERSATION: conversation.on_conflict_do_update(
            index_elements=["id"],
            set_={"used_at": conversation.excluded.used_at, "turns": conversations.c.turns + literal_column("1")},
        ),
        Stage.TURN_BEGUN: insert(turns).inline(),
        Stage.TURN_ENDED: _end(),
        Stage.TURNS_REPLACED: _replace(),
        Stage.STATE: (
            update(conversations)
            .where(
                conversations.c.id
                == select(turns.c.conversation).where(turns.c.id == bindparam("turn")).scalar_subquery()
            )
            .values(  # whose state it is, where several graphs share the conversation
                state=bindparam("new_state"),
                graph=select(turns.c.graph).where(turns.c.id == bindparam("turn")).scalar_subquery(),
            )
        ),
        Stage.RESPONSE_BEGUN: insert(responses).inline().on_conflict_do_nothing(index_elements=["id"]),
        Stage.RESPONSE_ENDED: _end_response(),
        Stage.ATTACHMENT_BEGUN: insert(attachments).inline().on_conflict_do_nothing(index_elements=["id"]),
        Stage.ATTACHMENT_ENDED: _end_attachment(),
        Stage.CHANNEL_CLAIMED: insert(ledger).inline().on_conflict_do_nothing(index_elements=["id"]),
        Stage.CHANNEL_CHANGED: _change(),
        Stage.FORGET: delete(conversations).where(conversations.c.id == bindparam("key")),
        Stage.DELETE_RESPONSE: delete(responses).where(responses.c.id == bindparam("response")),
        Stage.DELETE_ATTACHMENT: delete(attachments).where(attachments.c.id == bindparam("attachment")),
        Stage.PRUNE_TURNS: _prune(turns, turns.c.begun_at),
        Stage.PRUNE_CONVERSATIONS: _prune_conversations(),
        Stage.PRUNE_RESPONSES: _prune(responses, responses.c.created_at),
        Stage.PRUNE_LEDGER: _prune(ledger, ledger.c.claimed_at, ledger.c.ended_at),
        Stage.PROBE: update(_version).values(version_num=_version.c.version_num),
    }


def _close(table: Table, **more: Null) -> UpdateBase:
    """One that is open on record although nothing of it is running any more."""
    told: dict[str, Any] = {column: bindparam(name) for column, name in _CLOSED_COLUMNS.items() if column in table.c}
    return update(table).where(and_(table.c.ended_at.is_(None), table.c.id == bindparam("lost"))).values(**told, **more)


def _end() -> UpdateBase:
    """The first ending of a turn counts."""
    return (
        update(turns)
        .where(turns.c.id == bindparam("turn"), turns.c.ended_at.is_(None))
        .values(
            {
                **{name: bindparam(f"new_{name}") for name in _ENDED_COLUMNS},
                "bytes": turns.c.bytes + bindparam("new_bytes"),
                "remembered_bytes": turns.c.remembered_bytes + bindparam("text_bytes"),
            }
        )
    )


def _replace() -> UpdateBase:
    """Remove the turns of a conversation from `first` on that a later one, `turn`, has taken the place of."""
    own = select(turns.c.number).where(turns.c.id == bindparam("turn")).scalar_subquery()
    of = select(turns.c.conversation).where(turns.c.id == bindparam("turn")).scalar_subquery()
    return delete(turns).where(turns.c.conversation == of, turns.c.number >= bindparam("first"), turns.c.number < own)


def _end_response() -> UpdateBase:
    """The first ending of a response counts; one that was deleted meanwhile stays deleted."""
    changes: dict[str, Any] = {name: bindparam(f"new_{name}") for name in ("ended_at", "status", "body")}
    return (
        update(responses).where(responses.c.id == bindparam("response"), responses.c.ended_at.is_(None)).values(changes)
    )


def _end_attachment() -> UpdateBase:
    """The first ending of an attachment counts."""
    names = ("ended_at", "status", "detail", "text_bytes", "tokens")
    changes: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    own = attachments.c.id == bindparam("attachment")
    return update(attachments).where(own, attachments.c.ended_at.is_(None)).values(changes)


def _change() -> UpdateBase:
    """What is None stays as it is; pings and turns are added to those there are. The first ending counts."""
    columns = ledger.c
    changes: dict[str, Any] = {
        name: func.coalesce(bindparam(f"new_{name}", type_=columns[name].type), columns[name])
        for name in CHANGED_COLUMNS
    }
    changes["pings"] = columns.pings + bindparam("more_pings")
    changes["turns"] = columns.turns + bindparam("more_turns")
    return update(ledger).where(columns.id == bindparam("channel"), columns.ended_at.is_(None)).values(changes)


def _prune(table: Table, *ages: Column[float]) -> UpdateBase:
    """Some of what is older than `before`, `most` rows of it."""
    old = [column < bindparam("before") for column in ages]
    chosen = select(table.c.number).where(*old).limit(bindparam("most"))
    return delete(table).where(table.c.number.in_(chosen))


def _prune_conversations() -> UpdateBase:
    """Some of those that have no turns and were not used since `before`: also not by now, so it is asked twice."""
    old = conversations.c.used_at < bindparam("before")
    unused = ~exists().where(turns.c.conversation == conversations.c.id)
    chosen = select(conversations.c.id).where(old, unused).limit(bindparam("most"))
    return delete(conversations).where(old, conversations.c.id.in_(chosen))
