"""The database behind a store: connections, the lock on a file, transactions with a bound in time."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import URL, Connection, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from supervisor.store import schema
from supervisor.store.address import Address, PostgresDatabase, SqliteFile
from supervisor.store.errors import StoreError
from supervisor.store.faults import Fault, fault_of, reason_of
from supervisor.store.lock import hold
from supervisor.store.statements import COUNTED, Counts, Rows, statements_for
from supervisor.store.tables import VERSION_TABLE

if TYPE_CHECKING:
    from threading import Thread

Result = TypeVar("Result")

CONNECT_SECONDS: Final = 5.0
BUSY_SECONDS: Final = 2.0  # another program, say sqlite3, has the file locked
READ_SECONDS: Final = 10.0
COMMIT_SECONDS: Final = 15.0
MIGRATE_SECONDS: Final = 600.0
CLOSE_SECONDS: Final = 5.0
READERS: Final = 3
WAL_BYTES: Final = 64 * 1024 * 1024  # more than that of the write-ahead log is given back to the disk

_WRITES: Final = "agentd_writes"
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {WAL_BYTES}",
)


class Database:
    """One database. `open` before use, `close` at the end."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock: int | None = None
        self._engine: AsyncEngine | None = None
        self._threads: list[Thread] = []

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return "sqlite" if isinstance(self.address, SqliteFile) else "postgresql"

    async def open(self) -> None:
        """Take the lock, connect, bring the schema up to date. Raises StoreError that names the store."""
        try:
            if isinstance(self.address, SqliteFile):
                self._lock = hold(self.address.path)
                _create(self.address)
            self._engine = self._connected()
            self._statements = statements_for(self.dialect)
            await self._migrate()
        except (SQLAlchemyError, OSError, TimeoutError, StoreError) as error:
            await self.close()
            if isinstance(error, StoreError) and str(self.address) in str(error):
                raise
            kind = type(error) if isinstance(error, StoreError) else StoreError
            raise kind(f"the store {self.address} cannot be opened: {reason_of(error)}") from error

    async def close(self) -> None:
        """Let go of the connections, their threads and the lock. Bounded by CLOSE_SECONDS."""
        engine, self._engine = self._engine, None
        if engine is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await engine.dispose()
            except TimeoutError:
                self._threads.clear()  # they hang in the kernel; they are daemons
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)  # it has closed its connection already
        self._threads.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def read(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """What `work` reads, in one transaction; once more when the connection turned out to be lost.

        Raises StoreError.
        """
        try:
            return await self._read(work)
        except SQLAlchemyError as error:
            if fault_of(error) is not Fault.CONNECTION:
                raise self._unreadable(error) from error
        except (OSError, TimeoutError) as error:
            raise self._unreadable(error) from error
        try:
            return await self._read(work)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise self._unreadable(error) from error

    async def write(self, rows: Rows) -> Counts:
        """Write all of it in one transaction; how many rows each of the COUNTED stages met. Raises what it may."""
        counts: Counts = {}
        async with self._transaction(COMMIT_SECONDS, writes=True) as connection:
            for stage in sorted(rows):
                statement = self._statements[stage]
                if stage in COUNTED:
                    counts[stage] = [(await connection.execute(statement, row)).rowcount for row in rows[stage]]
                else:
                    await connection.execute(statement, rows[stage])
        return counts

    async def probe(self) -> None:
        """Write what changes nothing; raises what a write raises when the store is not well."""
        async with self._transaction(COMMIT_SECONDS, writes=True) as connection:
            await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = version_num"))  # noqa: S608 - constant

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        async with self._transaction(READ_SECONDS) as connection:
            return await work(connection)

    @asynccontextmanager
    async def _transaction(self, seconds: float, *, writes: bool = False) -> AsyncIterator[AsyncConnection]:
        if self._engine is None:
            raise StoreError(f"the store {self.address} is not open")
        async with asyncio.timeout(seconds):
            async with self._engine.connect() as connection:
                if writes:
                    await connection.execution_options(**{_WRITES: True})
                async with connection.begin():
                    yield connection

    async def _migrate(self) -> None:
        async with self._transaction(READ_SECONDS) as connection:
            version = await schema.version_of(connection)
        if version != schema.HEAD:
            async with self._transaction(MIGRATE_SECONDS, writes=True) as connection:
                await schema.migrate(connection)

    def _connected(self) -> AsyncEngine:
        options: dict[str, Any] = {
            "pool_size": 1 + READERS,
            "max_overflow": 0,
            "pool_timeout": CONNECT_SECONDS,
            "pool_reset_on_return": None,  # every use is a transaction of its own, which ends before
            "hide_parameters": True,
        }
        if isinstance(self.address, SqliteFile):
            url = URL.create("sqlite+aiosqlite", database=str(self.address.path))
            engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS}, **options)
            event.listen(engine.sync_engine, "connect", self._set_up)
            event.listen(engine.sync_engine, "begin", _begin)
            return engine
        return create_async_engine(_url_of(self.address), connect_args=_arguments_of(self.address), **options)

    def _set_up(self, connection: Any, _record: Any) -> None:
        """A new connection of SQLite."""
        # aiosqlite says that it is closed a moment before its thread ends; `close` waits for that too.
        self._threads.append(connection.driver_connection._thread)  # noqa: SLF001 - as SQLAlchemy does
        connection.isolation_level = None  # else the driver begins transactions when it thinks fit, and not for DDL
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(f"the store {self.address} cannot be read: {reason_of(error)}")


def _create(file: SqliteFile) -> None:
    """The file, private to this user; SQLite gives its others the same mode."""
    os.close(os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _begin(connection: Connection) -> None:
    """A transaction that writes says so at once: one that finds out later may have read what is outdated by then."""
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _url_of(database: PostgresDatabase) -> URL:
    return URL.create(
        "postgresql+asyncpg",
        username=database.user,
        password=database.password,
        host=database.host,
        port=database.port,
        database=database.database,
    )


def _arguments_of(database: PostgresDatabase) -> dict[str, Any]:
    return {
        "timeout": CONNECT_SECONDS,
        "server_settings": {"application_name": "agentd", "jit": "off"},  # compiling costs more than such statements do
        **database.options,
    }
