"""The lock that only one process has on a SQLite database."""

import contextlib
import fcntl
import os
from pathlib import Path

from supervisor.store.errors import StoreHeldError


def hold(database: Path) -> int:
    """The descriptor of the lock on `database`, a file beside it; it falls with its holder, children do not get it.

    The file stays: who removed it could lock another one than the next who opens it. Raises StoreHeldError, OSError.
    """
    path = database.with_name(f"{database.name}.lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 20, 0).strip()
        os.close(lock)
        raise StoreHeldError(database, int(holder) if holder.isdigit() else None) from error
    except OSError:
        os.close(lock)
        raise
    with contextlib.suppress(OSError):  # a full disk: the number is only for the message others get
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock
