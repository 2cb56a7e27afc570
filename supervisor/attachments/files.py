"""The files of attachments: ``<root>/<digest of the user>/<attachment>/<name>``, the text that was read beside them.

All of it is private to this user. Below the root no link is followed, and nothing that is there already is written to.
Every method blocks.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from supervisor.attachments.names import TEXT_FILE, is_id
from supervisor.processes.bundle import remove

log = structlog.get_logger("supervisor.attachments")

INCOMING: Final = ".incoming-"
OWNER_LETTERS: Final = 64
TRIES: Final = 10  # an owner's folder goes with the last attachment in it, perhaps just when another one comes

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW: Final = _FOLDER | os.O_NOFOLLOW
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class AttachmentFiles:
    """What is kept below one root. `prepare` before use."""

    def __init__(self, root: Path, instance: str) -> None:
        """`instance` names the server among those that may share the root."""
        self._root = root
        self._incoming = root / f"{INCOMING}{instance}"

    @property
    def incoming(self) -> Path:
        """The folder for what is still arriving; `keep` takes it from there."""
        return self._incoming

    def prepare(self) -> None:
        """Make the folders, and clear what an earlier server had half received. Raises OSError."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove(self.incoming)
        self.incoming.mkdir(mode=0o700)

    def path(self, owner: str, attachment_id: str, name: str) -> Path:
        """Where a file lies."""
        return self._root / owner / attachment_id / name

    def keep(self, received: Path, owner: str, attachment_id: str, name: str) -> None:
        """Move a received file to its place, which is new. Raises OSError; then the place is not there."""
        with _opened(self._root) as root, self._new(root, owner, attachment_id) as folder:
            try:
                with _opened(attachment_id, folder) as place:
                    os.rename(received, name, dst_dir_fd=place)
            except OSError:
                os.rmdir(attachment_id, dir_fd=folder)
                raise

    def is_there(self, owner: str, attachment_id: str, name: str, size: int) -> bool:
        """Whether a file lies in its place, whole."""
        try:
            with self._place(owner, attachment_id) as place:
                found = os.stat(name, dir_fd=place, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size

    def write_text(self, owner: str, attachment_id: str, text: bytes) -> None:
        """Put the text that was read beside the file, in the place of one that is there. Raises OSError."""
        with self._place(owner, attachment_id) as place:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(TEXT_FILE, dir_fd=place)
            fd = os.open(TEXT_FILE, _NEW, 0o600, dir_fd=place)
            try:
                view = memoryview(text)
                while view:
                    view = view[os.write(fd, view) :]
            except OSError:
                os.unlink(TEXT_FILE, dir_fd=place)
                raise
            finally:
                os.close(fd)

    def read_text(self, owner: str, attachment_id: str, size: int) -> str | None:
        """The text beside a file; None when it is not there as it was written."""
        try:
            with self._place(owner, attachment_id) as place:
                data = read_bounded(TEXT_FILE, size, place)
            return data.decode() if len(data) == size else None
        except (OSError, UnicodeDecodeError):
            return None

    def remove(self, owner: str, attachment_id: str) -> None:
        """Remove an attachment, and its user's folder with the last one; nothing when it is gone. Raises OSError."""
        folder = self._root / owner
        remove(folder / attachment_id)
        with contextlib.suppress(OSError):  # others are in it
            folder.rmdir()

    def listing(self, before: float) -> Iterator[tuple[str, str]]:
        """Owner and id of all attachments whose folders have not changed since a time. Raises OSError.

        What else is there is none of ours.
        """
        for owner in _folders(self._root):
            if len(owner.name) == OWNER_LETTERS:
                found = (entry.name for entry in _folders(owner) if is_id(entry.name) and _changed(entry) < before)
                yield from ((owner.name, attachment_id) for attachment_id in found)

    @contextlib.contextmanager
    def _new(self, root: int, owner: str, attachment_id: str) -> Iterator[int]:
        """The folder of an owner, with a new one for an attachment in it. Raises OSError."""
        for left in reversed(range(TRIES)):
            with contextlib.suppress(FileExistsError):
                os.mkdir(owner, 0o700, dir_fd=root)
            with contextlib.ExitStack() as opened:
                try:
                    folder = opened.enter_context(_opened(owner, root))
                    os.mkdir(attachment_id, 0o700, dir_fd=folder)
                except FileNotFoundError:  # it has just gone with the last attachment that was in it
                    if not left:
                        raise
                    continue
                yield folder
                return

    @contextlib.contextmanager
    def _place(self, owner: str, attachment_id: str) -> Iterator[int]:
        with _opened(self._root) as root, _opened(owner, root) as folder, _opened(attachment_id, folder) as place:
            yield place


def read_bounded(name: str | Path, most: int, folder: int | None = None) -> bytes:
    """A regular file of at most `most` bytes, whoever wrote it. Raises OSError, also for what is no such file."""
    fd = os.open(name, _OLD, dir_fd=folder)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise OSError(f"no regular file of at most {most} bytes")
        data = bytearray()
        while len(data) <= most and (piece := os.read(fd, most + 1 - len(data))):
            data += piece
    finally:
        os.close(fd)
    if len(data) > most:
        raise OSError(f"a file that grew over {most} bytes")
    return bytes(data)


@contextlib.contextmanager
def _opened(folder: Path | str, parent: int | None = None) -> Iterator[int]:
    fd = os.open(folder, _FOLDER if parent is None else _BELOW, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _changed(folder: Path) -> float:
    """When something came into a folder, or left it; now for one that has just gone."""
    try:
        return folder.lstat().st_mtime
    except OSError:
        return time.time()


def _folders(path: Path) -> Iterator[Path]:
    with os.scandir(path) as entries:
        yield from (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
