"""The file of keys (docs/keys.md): changed by the command line, followed by a running server.

Both read it alike: a regular file that nobody but its owner may write. It is never changed in place.
"""

import contextlib
import fcntl
import hmac
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

import structlog

from supervisor.auth import (
    ANYBODY,
    FREE,
    MASTER,
    Bounds,
    KeyRow,
    KeysError,
    KeyTable,
    Principal,
    Scope,
    dump,
    make_key,
    parse,
)
from supervisor.file_stamp import Stamp, is_settled, stamp_of

MAX_FILE: Final = 1024 * 1024  # bytes; several thousand keys
LOCK_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.01
MOST_TOLD: Final = 32  # ids of keys in one log line

log = structlog.get_logger("supervisor.keys")

MISSING: Final = (FileNotFoundError, NotADirectoryError)


def new_key(
    *, user: str = "", graph: str | None = None, scopes: Collection[Scope], bounds: Bounds = FREE
) -> tuple[str, KeyRow]:
    """The text of a new random key, and its row."""
    now = int(time.time())
    return make_key(secrets.token_bytes, user=user, graph=graph, scopes=scopes, created_at=now, bounds=bounds)


class KeyFile:
    """The file of keys as the command line changes it; one command at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> tuple[KeyRow, ...]:
        """The keys; none without a file. Raises KeysError, OSError."""
        try:
            return parse(_read(self.path)[1])
        except MISSING:
            return ()

    def add(self, row: KeyRow) -> None:
        """Add a key. Raises KeysError, OSError."""
        with self._locked():
            rows = self.rows()
            if any(row.id == other.id for other in rows):
                raise KeysError(f"there is a key {row.id} already; try again")
            self._replace((*rows, row))

    def revoke(self, key_id: str) -> bool:
        """Remove a key; whether it was there. Raises KeysError, OSError."""
        if not any(row.id == key_id for row in self.rows()):
            return False
        with self._locked():
            rows = self.rows()
            kept = [row for row in rows if row.id != key_id]
            if len(kept) < len(rows):
                self._replace(kept)
            return len(kept) < len(rows)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock beside the file, which stays; it falls with its holder."""
        lock = self._open_lock()
        try:
            until = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise KeysError(f"another command has held the lock for {LOCK_SECONDS:g} s") from None
                    time.sleep(LOOK_SECONDS)
            yield
        finally:
            os.close(lock)

    def _open_lock(self) -> int:
        path = _lock_of(self.path)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            lock = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        self._make_like_the_old(lock)
        return lock

    def _replace(self, rows: Iterable[KeyRow]) -> None:
        data = dump(rows)
        if len(data) > MAX_FILE:
            raise KeysError(f"the file would have {len(data)} bytes; at most {MAX_FILE} are allowed")
        if self.path.is_symlink():  # a new file in its place would not be where the link leads
            raise KeysError("it is a symbolic link; name the file that it leads to")
        fd, name = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)
        new = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                self._make_like_the_old(fd)
                file.write(data)
                file.flush()
                os.fsync(fd)
            new.replace(self.path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _make_like_the_old(self, fd: int) -> None:
        """Give a new file the owner and the readers of the old one: a server that reads it may be another user."""
        with contextlib.suppress(FileNotFoundError):
            old, new = self.path.stat(), os.fstat(fd)
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                os.fchown(fd, old.st_uid, old.st_gid)
            os.fchmod(fd, 0o600 | (old.st_mode & 0o044))


class Keyring:
    """Who may call a server: the holder of AGENTD_TOKEN, the holders of keys, and anybody as long as it is `open`.

    It is open without a token until a file of keys is seen; from then on it is closed, whatever becomes of the file.
    A file that is gone, or empty, has no keys; of one that cannot be read (any more) the last good ones count. That
    there was a file, its lock tells, which stays beside it.
    """

    def __init__(self, path: Path, token: str | None, *, closed: bool = False) -> None:
        """With `closed` it never is open. Raises KeysError for a file that cannot be used."""
        self.open = token is None and not closed
        self._path = path
        self._token = None if token is None else token.encode()
        self._keys = KeyTable()
        self._there = False  # a file, at the last look
        self._stamp: Stamp | None = None  # of what was read; None: nothing, or not to be trusted
        self._told: tuple[Stamp, str] | None = None  # what the log has of the file
        try:
            self._load()
        except MISSING:
            if _lock_of(path).exists():
                self.open = False
                log.warning("keys.gone", path=str(path), lock=str(_lock_of(path)))
        except (KeysError, OSError) as error:
            raise KeysError(f"the file of keys {path} cannot be used: {_said(error)}") from error

    def principal(self, secret: bytes | None) -> Principal | None:
        """Who sends this secret; None: nobody who may call. One look at the file, unless it is the token."""
        known = None if secret is None else self.find(secret)
        if known is None:
            if secret is None:
                self.look()
            if self.open:
                return ANYBODY
        return known

    def find(self, secret: bytes) -> Principal | None:
        """Whose secret this is, None if it is none. One look at the file, unless it is the token."""
        if self._token is not None and hmac.compare_digest(secret, self._token):
            return MASTER
        self.look()
        return self._keys.find(secret)

    def look(self) -> None:
        """Read the file if it has changed."""
        stamp: Stamp = ()
        try:
            stamp = stamp_of(self._path.stat())
            if stamp == self._stamp:
                return
            self._load()
        except MISSING:
            if self._there:
                self._there, self._stamp, self._told, self._keys = False, None, None, KeyTable()
                log.warning("keys.gone", path=str(self._path))
        except OSError as error:  # it may pass without a trace in the file: tried again at the next look
            self._stamp = None
            self._complain(stamp, error)
        except KeysError as error:
            self._stamp = stamp if is_settled(stamp) else None
            self._complain(stamp, error)

    def _load(self) -> None:
        stamp, data = _read(self._path)
        before, self._keys = self._keys, KeyTable(parse(data))
        self.open = False
        self._there = True
        self._stamp = stamp if is_settled(stamp) else None
        if self._told != (told := (stamp, "")):
            self._told = told
            added, revoked = sorted(self._keys.ids - before.ids), sorted(before.ids - self._keys.ids)
            shown = {"added": added[:MOST_TOLD], "revoked": revoked[:MOST_TOLD]}
            log.info("keys.read", path=str(self._path), keys=len(self._keys), **shown)

    def _complain(self, stamp: Stamp, error: Exception) -> None:
        """There is a file, so the server is closed; told once for each state of the file."""
        self.open = False
        self._there = True
        if self._told != (told := (stamp, _said(error))):
            self._told = told
            log.error("keys.unreadable", path=str(self._path), error=told[1], keys=len(self._keys))


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _read(path: Path) -> tuple[Stamp, bytes]:
    """The file's stamp and its content. Raises KeysError for one that is not to be trusted, OSError."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KeysError("it is not a regular file")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise KeysError(f"others may write it (mode {mode}); allowed: 0600, 0640 or 0644")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(MAX_FILE + 1)
    finally:
        os.close(fd)
    if len(data) > MAX_FILE:
        raise KeysError(f"it has more than {MAX_FILE} bytes")
    return stamp_of(status), data


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
