"""Reads a channel's log over its rotations: the file is renamed to ``<file>.1`` and a new one begun.

Synchronous and bounded: a read takes at most `CHUNK` bytes from the page cache and never waits.
"""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

CHUNK: Final = 64 * 1024
GAP: Final = b"[agentd] lines are missing here: the log was rotated faster than it was read\n"

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class LogReader:
    """Everything that is kept of one log, then what is added to it; close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._predecessor = path.with_name(f"{path.name}.1")
        self._files: deque[int] = deque()  # what is to be read, oldest first; the last one is still written to

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, tail: int | None = None) -> None:
        """Begin with the last `tail` lines, None: with all that is kept. A file that is not there yet is waited for.

        Raises OSError.
        """
        self._append(self._path)
        self._append(self._predecessor, before=True)
        if len(self._files) == 2 and _identity(self._files[0]) == _identity(self._files[1]):
            os.close(self._files.popleft())  # it was rotated between the two
        if tail is not None:
            self._seek(tail)

    def read(self) -> bytes:
        """The next bytes, b"" when there are none now. Raises OSError."""
        while True:
            # Look for a new file before reading: once there is one, nothing is added to the old one any more.
            rotated = len(self._files) < 2 and self._is_rotated()
            if not self._files and not rotated:
                return b""
            if self._files and (data := os.read(self._files[0], CHUNK)):
                return data
            if rotated:
                if gap := self._advance():
                    return gap
            elif len(self._files) < 2:
                return b""
            else:
                os.close(self._files.popleft())

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popleft())

    def _append(self, path: Path, *, before: bool = False) -> None:
        with suppress(FileNotFoundError):
            file = os.open(path, _FLAGS)
            (self._files.appendleft if before else self._files.append)(file)

    def _is_rotated(self) -> bool:
        try:
            status = self._path.stat()
        except FileNotFoundError:  # nothing was written yet, or just between the renaming and the new file
            return False
        return not self._files or _identity(self._files[0]) != (status.st_dev, status.st_ino)

    def _advance(self) -> bytes:
        """Go on to what follows the file that is read to its end; GAP when that is no longer known."""
        gap = b""
        if self._files:
            last = self._files.popleft()
            try:
                predecessor = self._predecessor.stat()
                if _identity(last) != (predecessor.st_dev, predecessor.st_ino):
                    gap = GAP
                    self._append(self._predecessor)
            except FileNotFoundError:
                gap = GAP
            finally:
                os.close(last)
        self._append(self._path)
        return gap

    def _seek(self, lines: int) -> None:
        """Leave out all but the last `lines`, from the newest file backwards."""
        for index in reversed(range(len(self._files))):
            offset, found = _last_lines(self._files[index], lines)
            os.lseek(self._files[index], offset, os.SEEK_SET)
            lines -= found
            if lines <= 0:
                for _ in range(index):
                    os.close(self._files.popleft())
                return


def _last_lines(file: int, lines: int) -> tuple[int, int]:
    """Where the last `lines` of a file begin, and how many lines there are from that place on (at most `lines`)."""
    size = os.fstat(file).st_size
    if lines <= 0 or size == 0:
        return size, 0
    end = size - 1 if os.pread(file, 1, size - 1) == b"\n" else size  # the newline of the last line itself
    found = 0
    while end > 0:
        start = max(0, end - CHUNK)
        block = os.pread(file, end - start, start)
        position = len(block)
        while (position := block.rfind(b"\n", 0, position)) >= 0:
            found += 1
            if found == lines:
                return start + position + 1, lines
        end = start
    return 0, found + 1


def _identity(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino
