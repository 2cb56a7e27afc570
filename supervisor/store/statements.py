"""Everything that is written, as statements in the order in which one transaction executes them.

Each is executed with many rows at once. All may be repeated: after a connection was lost nobody knows whether the
transaction took place.
"""

from enum import IntEnum
from typing import Any, Final

from sqlalchemy import Executable, Table, and_, bindparam, delete, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from supervisor.store.tables import conversations, ledger, turns

Row = dict[str, Any]


class Stage(IntEnum):
    """One kind of write; a smaller one comes first."""

    CLOSE_TURNS = 1
    CLOSE_CHANNELS = 2
    CONVERSATION = 3
    TURN_BEGUN = 4
    TURN_ENDED = 5
    STATE = 6
    CHANNEL_CLAIMED = 7
    CHANNEL_CHANGED = 8
    FORGET = 9
    PRUNE_TURNS = 10
    PRUNE_CONVERSATIONS = 11
    PRUNE_LEDGER = 12


Rows = dict[Stage, list[Row]]
Counts = dict[Stage, list[int]]  # how many rows each of the COUNTED met

# Executed row by row, because how many rows each one met is asked.
COUNTED: Final = frozenset(stage for stage in Stage if stage >= Stage.FORGET or stage <= Stage.CLOSE_CHANNELS)

ENDED_COLUMNS: Final = (
    "ended_at", "cause", "detail", "ms", "text", "thoughts", "tool_calls", "sources", "structured", "usage", "value",
)  # fmt: skip
CHANGED_COLUMNS: Final = (
    "ready_at", "pid", "last_ping_at", "ended_at", "cause", "detail", "status", "processes", "killed", "seconds",
)  # fmt: skip


def statements_for(dialect: str) -> dict[Stage, Executable]:
    """The statement of each stage in the language of ``sqlite`` or ``postgresql``."""
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    conversation = insert(conversations).inline()
    claimed = insert(ledger).inline()
    return {
        Stage.CLOSE_TURNS: _close(turns, remembered_bytes=None),  # half a turn, whose answer is lost
        Stage.CLOSE_CHANNELS: _close(ledger),
        Stage.CONVERSATION: conversation.on_conflict_do_update(
            index_elements=["id"],
            set_={"used_at": conversation.excluded.used_at, "turns": conversations.c.turns + 1},
        ),
        Stage.TURN_BEGUN: insert(turns).inline(),
        Stage.TURN_ENDED: _end(),
        Stage.STATE: (
            update(conversations)
            .where(
                conversations.c.id
                == select(turns.c.conversation).where(turns.c.id == bindparam("turn")).scalar_subquery()
            )
            .values(state=bindparam("new_state"))
        ),
        Stage.CHANNEL_CLAIMED: claimed.on_conflict_do_nothing(index_elements=["id"]),
        Stage.CHANNEL_CHANGED: _change(),
        Stage.FORGET: delete(conversations).where(conversations.c.id == bindparam("key")),
        Stage.PRUNE_TURNS: _prune(turns, turns.c.begun_at),
        Stage.PRUNE_CONVERSATIONS: (
            delete(conversations)
            .where(conversations.c.used_at < bindparam("before"))
            .where(
                conversations.c.id.in_(
                    select(conversations.c.id)
                    .where(conversations.c.used_at < bindparam("before"))
                    .where(~exists().where(turns.c.conversation == conversations.c.id))
                    .limit(bindparam("most"))
                )
            )
        ),
        Stage.PRUNE_LEDGER: _prune(ledger, ledger.c.ended_at),
    }


def _close(table: Table, **more: None) -> Executable:
    """What is open on record and was there when the store was opened cannot be running any more.

    With `instance` None it does not matter whose it is.
    """
    return (
        update(table)
        .where(
            and_(
                table.c.ended_at.is_(None),
                table.c.number <= bindparam("last"),
                table.c.instance == func.coalesce(bindparam("whose"), table.c.instance),
            )
        )
        .values(ended_at=bindparam("now"), cause=bindparam("why"), detail=bindparam("said"), **more)
    )


def _end() -> Executable:
    """The first ending of a turn counts."""
    return (
        update(turns)
        .where(turns.c.id == bindparam("turn"), turns.c.ended_at.is_(None))
        .values(
            {
                **{name: bindparam(f"new_{name}") for name in ENDED_COLUMNS},
                "bytes": turns.c.bytes + bindparam("new_bytes"),
                "remembered_bytes": turns.c.remembered_bytes + bindparam("text_bytes"),
            }
        )
    )


def _change() -> Executable:
    """What is None stays as it is; pings and turns are added to those there are."""
    columns = ledger.c
    return (
        update(ledger)
        .where(columns.id == bindparam("channel"))
        .values(
            {
                **{name: func.coalesce(bindparam(f"new_{name}", type_=columns[name].type), columns[name])
                   for name in CHANGED_COLUMNS},
                "pings": columns.pings + bindparam("more_pings"),
                "turns": columns.turns + bindparam("more_turns"),
            }
        )
    )  # fmt: skip


def _prune(table: Table, age: Any) -> Executable:
    """Some of what is older than `before`, `most` rows of it."""
    return delete(table).where(
        table.c.number.in_(select(table.c.number).where(age < bindparam("before")).limit(bindparam("most")))
    )
