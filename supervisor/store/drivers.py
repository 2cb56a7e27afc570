"""A transaction straight through the driver of a database, in as few exchanges as it takes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from supervisor.store.statements import COUNTED, Counts, Stage


class Step(NamedTuple):
    """One statement and the parameters of its rows."""

    stage: Stage
    sql: str
    parameters: list[tuple[Any, ...]]


async def write_sqlite(connection: Any, steps: Sequence[Step]) -> Counts:
    """Execute the steps on a connection of aiosqlite. Raises sqlite3.Error, and ValueError or the like for a value."""
    counts: Counts = {}
    await connection.execute("BEGIN IMMEDIATE")
    try:
        for stage, sql, parameters in steps:
            if stage in COUNTED:
                counts[stage] = [(await connection.execute(sql, row)).rowcount for row in parameters]
            else:
                await connection.executemany(sql, parameters)
        await connection.commit()
    except Exception:
        await connection.rollback()
        raise
    return counts


async def write_postgresql(connection: Any, steps: Sequence[Step]) -> Counts:
    """Execute the steps on a connection of asyncpg. Raises asyncpg's errors and OSError."""
    counts: Counts = {}
    async with connection.transaction():
        for stage, sql, parameters in steps:
            if stage in COUNTED:
                said = [await connection.execute(sql, *row) for row in parameters]
                counts[stage] = [int(status.rpartition(" ")[2]) for status in said]  # "DELETE 3"
            else:
                await connection.executemany(sql, parameters)
    return counts


WRITE: Final[dict[str, Callable[[Any, Sequence[Step]], Awaitable[Counts]]]] = {
    "sqlite": write_sqlite,
    "postgresql": write_postgresql,
}
