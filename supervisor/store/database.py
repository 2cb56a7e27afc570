"""The database behind a store: connections, the lock on a file, transactions with a bound in time."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from sqlalchemy import URL, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from supervisor.store import schema
from supervisor.store.address import Address, PostgresDatabase, SqliteFile
from supervisor.store.drivers import WRITE, Step
from supervisor.store.errors import StoreError, StoreHeldError
from supervisor.store.faults import Fault, fault_of, reason_of
from supervisor.store.lock import hold
from supervisor.store.statements import Counts, Prepared, Rows, Stage, prepare, statements_for

if TYPE_CHECKING:
    from threading import Thread

log = structlog.get_logger("supervisor.store")

Result = TypeVar("Result")

CONNECT_SECONDS: Final = 5.0
BUSY_SECONDS: Final = 2.0  # another program, say sqlite3, has the file locked
READ_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 15.0
MIGRATE_SECONDS: Final = 600.0
CLOSE_SECONDS: Final = 5.0
DISCARD_SECONDS: Final = 2.0
READERS: Final = 3
LEAST_SPACE: Final = 128 * 1024
WAL_BYTES: Final = 64 * 1024 * 1024  # more than that of the write-ahead log is given back to the disk

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {WAL_BYTES}",
)
_UNWELL: Final = (SQLAlchemyError, OSError, TimeoutError)


class Database:
    """One database. `open` before use, `close` at the end. One caller at a time writes, several may read."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._dialect = "sqlite" if isinstance(address, SqliteFile) else "postgresql"
        self._statements = statements_for(self._dialect)
        self._prepared: dict[Stage, Prepared] = {}
        self._lock: int | None = None
        self._engine: AsyncEngine | None = None
        self._writing: AsyncConnection | None = None  # the connection that writes, once there is one
        self._reading: set[asyncio.Task[Any]] = set()
        self._threads: list[Thread] = []

    async def open(self) -> None:
        """Take the lock, connect, bring the schema up to date. Raises StoreError that names the store."""
        try:
            if isinstance(self.address, SqliteFile):
                self._lock = hold(self.address.path.resolve())  # the file itself, whatever links lead to it
                _create(self.address)
            self._engine = self._make_engine()
            await self._migrate()
        except BaseException as error:
            await self.close()
            if not isinstance(error, (*_UNWELL, StoreError)) or isinstance(error, StoreHeldError):
                raise
            kind = type(error) if isinstance(error, StoreError) else StoreError
            raise kind(f"the store {self.address} cannot be opened: {reason_of(error)}{self._hint()}") from error

    async def close(self) -> None:
        """Let go of the connections, their threads and the lock. Bounded by CLOSE_SECONDS."""
        engine, self._engine = self._engine, None
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._reading:
                    await asyncio.wait(self._reading)
                await self._stop_writing()
                if engine is not None:
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
        """What `work` reads; once more when the connection turned out to be lost. Raises StoreError.

        It goes on when its caller is cancelled: a connection that is left in the midst of a statement is of no use.
        """
        task = asyncio.create_task(self._read(work), name="store read")
        self._reading.add(task)
        task.add_done_callback(self._has_read)
        return await asyncio.shield(task)

    async def write(self, rows: Rows) -> Counts:
        """Write all of it in one transaction; how many rows each of the COUNTED stages met.

        Raises whatever the driver does, and StoreError when the store is not open.
        """
        async with asyncio.timeout(WRITE_SECONDS):
            try:
                connection = await self._start_writing()
                steps = [self._step(stage, rows, connection) for stage in sorted(rows)]
                driver = (await connection.get_raw_connection()).driver_connection
                return await WRITE[self._dialect](driver, steps)
            except BaseException as error:
                if not isinstance(error, Exception) or fault_of(error) is not Fault.ROW:
                    await self._discard()  # whatever state it is in, the next one is new
                raise

    async def probe(self) -> None:
        """Write what changes nothing; raises what a write raises when the store is not well."""
        await self.write({Stage.PROBE: [{}]})

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        try:
            return await self._read_once(work)
        except _UNWELL as error:
            if fault_of(error) is not Fault.CONNECTION:
                raise self._unreadable(error) from error
        try:
            return await self._read_once(work)
        except _UNWELL as error:
            raise self._unreadable(error) from error

    async def _read_once(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        async with self._connection(READ_SECONDS) as connection:
            return await work(connection)

    def _has_read(self, task: asyncio.Task[Any]) -> None:
        self._reading.discard(task)
        if not task.cancelled():
            task.exception()  # who asked has it, or is not interested any more

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncIterator[AsyncConnection]:
        async with asyncio.timeout(seconds), self._opened().begin() as connection:
            yield connection

    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise StoreError(f"the store {self.address} is not open")
        return self._engine

    async def _start_writing(self) -> AsyncConnection:
        if self._writing is None:
            self._writing = await self._opened().connect()
        return self._writing

    async def _stop_writing(self) -> None:
        connection, self._writing = self._writing, None
        if connection is not None:
            await connection.close()

    async def _discard(self) -> None:
        """Let go of the connection that writes, and of those that wait for readers: they are likely to be no better."""
        connection, self._writing = self._writing, None
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                if connection is not None:
                    await connection.invalidate()
                    await connection.close()
                if self._engine is not None:
                    await self._engine.dispose()
        except _UNWELL as error:  # the next one is a new one all the same
            log.warning("store.connection_unclean", reason=reason_of(error))

    def _step(self, stage: Stage, rows: Rows, connection: AsyncConnection) -> Step:
        found = self._prepared.get(stage)
        if found is None:
            found = prepare(self._statements[stage], connection.dialect, rows[stage][0])
            self._prepared[stage] = found
        return Step(stage, found.sql, [found.parameters(row) for row in rows[stage]])

    async def _migrate(self) -> None:
        async with self._connection(READ_SECONDS) as connection:
            version = await schema.version_of(connection)
        if version != schema.HEAD:
            async with self._connection(MIGRATE_SECONDS) as connection:
                await schema.migrate(connection)

    def _make_engine(self) -> AsyncEngine:
        options: dict[str, Any] = {
            "pool_size": 1 + READERS,
            "max_overflow": 0,
            "pool_timeout": CONNECT_SECONDS,
            "pool_reset_on_return": None,  # every use but the writer's is a transaction, which ends before
            "hide_parameters": True,
        }
        if isinstance(self.address, PostgresDatabase):
            return create_async_engine(_url_of(self.address), connect_args=_arguments_of(self.address), **options)
        url = URL.create("sqlite+aiosqlite", database=str(self.address.path))
        engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS}, **options)
        event.listen(engine.sync_engine, "connect", self._set_up)
        return engine

    def _set_up(self, connection: Any, _record: Any) -> None:
        """A new connection of SQLite."""
        # aiosqlite says that it is closed a moment before its thread ends; `close` waits for that too.
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(connection.driver_connection._thread)  # noqa: SLF001 - as SQLAlchemy does
        connection.isolation_level = None  # else the driver begins transactions when it thinks fit, and not for DDL
        cursor = connection.cursor()
        try:
            for pragma in _PRAGMAS:
                cursor.execute(pragma)
        finally:
            cursor.close()  # one that is left open keeps the file open too

    def _hint(self) -> str:
        """What SQLite does not say: it calls a full disk an I/O error where a file beside its own has no room."""
        if not isinstance(self.address, SqliteFile):
            return ""
        try:
            space = os.statvfs(self.address.path.parent)
        except OSError:
            return ""
        return " (the disk is full)" if space.f_bavail * space.f_frsize < LEAST_SPACE else ""

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(f"the store {self.address} cannot be read: {reason_of(error)}")


def _create(file: SqliteFile) -> None:
    """The file, private to this user; SQLite gives its others the same mode."""
    os.close(os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


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
