"""What a channel has in the state folder: its folder with the FIFOs, and its record, which a later supervisor reads.

The folder belongs to the worker once it lives: nothing in it is trusted, followed or waited for. The record lies
outside.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import structlog

from worker.spawn import ENDINGS, FIFOS, LOCK_FILE, TEMPORARY, instance_of

log = structlog.get_logger("supervisor.bundle")

MARKER: Final = "agentd-state"
CHANNELS: Final = "ch"
RECORDS: Final = "records"

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CHANNEL_ID: Final = r"[0-9a-f]+-[0-9]+"


class Bundle:
    """The folder of one channel, mode 0700, its record, and that of the turn it is at."""

    def __init__(self, state_dir: Path, channel_id: str) -> None:
        self.folder = state_dir / CHANNELS / channel_id
        self._state_dir = state_dir
        self._id = channel_id

    # Made when they are needed: of each channel there are few occasions, and paths are not cheap.

    @property
    def record(self) -> Path:
        """Where its record is."""
        return self._state_dir / RECORDS / f"{self._id}.json"

    @property
    def turn_record(self) -> Path:
        """Where that of the turn it is at is."""
        return self._state_dir / RECORDS / f"{self._id}.turn.json"

    @property
    def ending(self) -> Path:
        """Where a spawner that ends puts how the channel ended."""
        return self._state_dir / ENDINGS.format(self._id)

    def create(self) -> None:
        """Make the folder with its FIFOs and one for temporary files; the worker makes its lock. Raises OSError."""
        self.folder.mkdir(mode=0o700)
        (self.folder / TEMPORARY).mkdir(mode=0o700)
        for name in FIFOS:
            os.mkfifo(f"{self.folder}/{name}", 0o600)

    def write_record(self, record: bytes) -> None:
        """Replace the record atomically: a reader sees the old one or the new one, whole. Raises OSError."""
        _replace(self.record, record)

    def write_turn(self, record: bytes) -> None:
        """The same for the record of the turn. Raises OSError."""
        _replace(self.turn_record, record)

    def forget_turn(self) -> None:
        """Remove the record of the turn. Raises OSError."""
        self.turn_record.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the records, whatever became of them. Raises OSError."""
        for path in (self.record, _new(self.record), self.turn_record, _new(self.turn_record), self.ending):
            try:
                path.unlink(missing_ok=True)
            except OSError:  # somebody made a folder of it
                remove(path)

    def remove_own(self) -> bool:
        """Remove what agentd put into the folder, and the folder; False when more is there than that."""
        try:
            fd = os.open(self.folder, _FOLDER)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            for name in (*FIFOS, LOCK_FILE):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(TEMPORARY, dir_fd=fd)
            self.folder.rmdir()
        except OSError:
            return False  # `remove` can tell what is in the way
        finally:
            os.close(fd)
        return True

    def remove(self) -> None:
        """Remove the folder, whatever became of it; nothing when it is gone. Raises OSError."""
        remove(self.folder)


def _new(path: Path) -> Path:
    return path.with_suffix(".json.new")


def _replace(path: Path, data: bytes) -> None:
    new = _new(path)
    new.unlink(missing_ok=True)
    fd = os.open(new, _NEW_FILE, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing when it is gone already. Raises OSError.

    Links are not followed, modes are no obstacle, and a tree may be of any depth: each folder in it is moved up to the
    top before it is emptied, so that two descriptors are enough.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _unlinked(parent, path.name):
            return
        with _opened(parent, path.name) as top:
            while names := _names(top):
                for name in names:
                    if not _unlinked(top, name):
                        _flatten(top, name)
        os.rmdir(path.name, dir_fd=parent)
    finally:
        os.close(parent)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _unlinked(parent: int, name: str) -> bool:
    """Remove what is no folder; False when it is one."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    return True


def _flatten(top: int, name: str) -> None:
    """Remove a folder in `top` with its files; its folders come into `top`."""
    with _opened(top, name) as folder:
        for inner in _names(folder):
            if not _unlinked(folder, inner):
                with _opened(folder, inner):  # what cannot be written to cannot be moved either
                    os.rename(inner, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
    os.rmdir(name, dir_fd=top)


@contextlib.contextmanager
def _opened(parent: int, name: str) -> Iterator[int]:
    """The descriptor of a folder, made accessible first."""
    place = os.open(name, _FOLDER | os.O_PATH, dir_fd=parent)
    try:
        path = Path(f"/proc/self/fd/{place}")  # this very folder, whatever has its name now
        path.chmod(0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        yield fd
    finally:
        os.close(fd)


def prepare_state(state_dir: Path) -> None:
    """Make the state folder and its parts, private to this user.

    Raises OSError, also when the folder is somebody else's, or neither empty nor made by us (MARKER tells that).
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = state_dir.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"the state folder belongs to user {status.st_uid}", str(state_dir))
    if not _is_marked(state_dir):
        if any(state_dir.iterdir()):
            raise PermissionError(
                f"state folder {state_dir} is not empty and not agentd's: choose another or an empty one"
            )
        if status.st_mode & stat.S_ISVTX:
            raise PermissionError(f"state folder {state_dir} is for everybody (sticky): choose another")
        with contextlib.suppress(FileExistsError):  # another server begins just now; the lock decides which one stays
            os.close(os.open(state_dir / MARKER, _NEW_FILE, 0o600))
    if stat.S_IMODE(status.st_mode) != 0o700:
        state_dir.chmod(0o700)
    for name in (CHANNELS, RECORDS):
        (state_dir / name).mkdir(mode=0o700, exist_ok=True)


def _is_marked(state_dir: Path) -> bool:
    try:
        status = (state_dir / MARKER).lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def clear_bundles(state_dir: Path, log_path: Path, but: Collection[str] = ()) -> int:
    """Remove what is left of channels that ended with an earlier control server; how many folders there were.

    That is their folders, their records and, in `log_path`, the property files of this state folder's foreign workers,
    which hold tokens; those of the channels in `but` (ids) stay. What cannot be removed is logged and left. Never
    raises.
    """
    instance = re.escape(instance_of(state_dir))
    left = _clear(state_dir / CHANNELS, rf"({CHANNEL_ID})", but, lambda entry: entry.is_dir(follow_symlinks=False))
    _clear(state_dir / RECORDS, rf"({CHANNEL_ID})(\.turn|\.ending)?\.json(\.new)?", but)
    _clear(log_path, rf"property-.+_{instance}-({CHANNEL_ID})\.json", but)
    return left


def _clear(
    folder: Path, pattern: str, but: Collection[str], fits: Callable[[os.DirEntry[str]], bool] = lambda _: True
) -> int:
    """Remove from a folder what has such a name, whose first group is an id; how many were removed."""
    removed = 0
    try:
        with os.scandir(folder) as entries:
            paths = [
                Path(entry)
                for entry in entries
                if (match := re.fullmatch(pattern, entry.name, re.DOTALL)) and match[1] not in but and fits(entry)
            ]
    except OSError as error:
        log.warning("state.unreadable", folder=str(folder), error=str(error))
        return 0
    for path in paths:
        try:
            remove(path)
            removed += 1
        except OSError as error:
            log.warning("state.leftover_kept", path=str(path), error=str(error))
    return removed
