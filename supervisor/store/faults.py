"""Whose fault a failed write is: that of its row, that of the store, or the connection's, which got lost."""

import sqlite3
from enum import Enum
from typing import Final

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from supervisor.store.errors import StoreError

MOST_SAID: Final = 300

# SQLite's codes without their extension: the disk is full or broken, the file is read-only, taken, gone or damaged.
_STORE_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
# PostgreSQL's classes: connection, read-only or broken transaction, roll-back for concurrency, rights, resources, the
# operator, the system.
_STORE_CLASSES: Final = frozenset({"08", "25", "28", "40", "53", "57", "58", "XX"})


class Fault(Enum):
    """Whose fault it is."""

    ROW = "row"
    STORE = "store"
    CONNECTION = "connection"  # another try with a new one may do
    UNKNOWN = "unknown"


def fault_of(error: Exception) -> Fault:
    """Whose fault this error of a write is."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Fault.CONNECTION
    if isinstance(error, IntegrityError | DataError):
        return Fault.ROW
    if isinstance(error, DBAPIError):
        code = getattr(error.orig, "sqlite_errorcode", None)
        state = getattr(error.orig, "sqlstate", None)
        ours = (code is not None and code & 0xFF in _STORE_CODES) or str(state)[:2] in _STORE_CLASSES
        return Fault.STORE if ours else Fault.UNKNOWN
    if isinstance(error, OSError | TimeoutError | PoolTimeoutError):
        return Fault.STORE
    return Fault.UNKNOWN


def reason_of(error: BaseException) -> str:
    """The error in one line, without the statement and its parameters: what the driver said."""
    if isinstance(error, StoreError):
        return str(error)
    said: BaseException = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = said.__cause__ or said if isinstance(error, DBAPIError) else said
    if isinstance(said, TimeoutError) and not str(said):
        return "it did not answer in time"
    lines = str(said).strip().splitlines()
    return (lines[0] if lines else type(said).__name__)[:MOST_SAID]
