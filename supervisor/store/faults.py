"""Whose fault a failed write is: that of its row, that of the store, or the connection's, which got lost."""

import sqlite3
from enum import Enum
from typing import Final

from sqlalchemy.exc import DBAPIError

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


class Fault(Enum):
    """Whose fault it is."""

    ROW = "row"
    STORE = "store"
    CONNECTION = "connection"  # another try may do, on a new one
    UNKNOWN = "unknown"


# Classes of PostgreSQL's error codes. Other classes say nothing about whether the server is well.
_CLASSES: Final = {
    "08": Fault.CONNECTION,
    "40": Fault.CONNECTION,  # rolled back for the sake of another server's transaction
    "57": Fault.CONNECTION,  # the operator ends it
    "22": Fault.ROW,  # data
    "23": Fault.ROW,  # integrity
    "25": Fault.STORE,  # a transaction that may not write
    "28": Fault.STORE,  # who we are
    "3D": Fault.STORE,  # there is no such database
    "53": Fault.STORE,  # no room, no memory, too many connections
    "58": Fault.STORE,  # its system
    "XX": Fault.STORE,  # its data
}


def fault_of(error: Exception) -> Fault:
    """Whose fault this error is, which a driver or SQLAlchemy raised."""
    said = _root(error)
    code, state = getattr(said, "sqlite_errorcode", None), getattr(said, "sqlstate", None)
    if isinstance(state, str):
        return _CLASSES.get(state[:2], Fault.UNKNOWN)
    if isinstance(code, int) and code & 0xFF in _STORE_CODES:
        return Fault.STORE
    if isinstance(said, TimeoutError | StoreError):
        return Fault.STORE
    if isinstance(said, OSError):
        return Fault.CONNECTION
    # What cannot be a parameter: a number too large for 64 bits, text that is no UTF-8.
    if isinstance(said, sqlite3.IntegrityError | sqlite3.DataError | ValueError | TypeError | OverflowError):
        return Fault.ROW
    return Fault.UNKNOWN


def reason_of(error: BaseException) -> str:
    """The error in one line, without the statement and its parameters: what the driver said."""
    said = _root(error)
    lines = str(said).strip().splitlines()
    if not lines and isinstance(said, TimeoutError):
        return "it did not answer in time"
    return (lines[0] if lines else type(said).__name__)[:MOST_SAID]


def _root(error: BaseException) -> BaseException:
    """What the driver raised: SQLAlchemy wraps it, and asyncpg's twice."""
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    return error.orig.__cause__ or error.orig
