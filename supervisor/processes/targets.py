"""Where workers' lines go: a bounded file per channel, or our own output."""

import errno
import os
import select
from pathlib import Path
from typing import Final, Protocol

from supervisor.processes.peek import take
from supervisor.telemetry import printable

STDOUT_SECONDS: Final = 0.2

# A name that was put in the place of ours is not followed, and a FIFO or a device is not waited for.
WARY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Target(Protocol):
    """Where the lines of one channel go. Called by the writing thread only."""

    def take(self, pipe: int, lines: bytes) -> None:
        """Write what lies at the head of `pipe`, and take it from there, written or not. An end without one is added.

        Raises OSError.
        """

    def close(self) -> None:
        """Nothing follows."""


class FileTarget:
    """A file that is begun with the first line and rotated once it has `most` bytes; one predecessor is kept.

    The kernel moves what a pipe holds into the file in one step: however we are killed, each byte is in one of the two.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._fd = -1
        self._torn = False  # a line could not be written to its end

    def take(self, pipe: int, lines: bytes) -> None:
        """Append, rotating first when the file is full."""
        left = len(lines)
        try:
            self._make_room(left)
            if self._torn:
                self._append(b"\n")
                self._torn = False
            while left and (moved := self._move(pipe, lines[-left:])):
                left -= moved
                self._torn = True
            self._torn = False
            if not lines.endswith(b"\n"):
                self._append(b"\n")
        finally:
            take(pipe, left)  # it is lost, and not in the way of what follows

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _make_room(self, size: int) -> None:
        if self._fd >= 0 and self._size() + size > self._most:
            self.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | WARY, 0o600)

    def _size(self) -> int:
        return os.fstat(self._fd).st_size  # asked each time: somebody may have emptied it

    def _move(self, pipe: int, lines: bytes) -> int:
        """How many bytes went into the file; 0 when they were taken from the pipe by somebody else."""
        try:
            return os.splice(pipe, self._fd, len(lines), offset_dst=self._size(), flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self._append(lines)  # a file system that cannot be spliced to: twice rather than not at all
        take(pipe, len(lines))
        return len(lines)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.pwrite(self._fd, view, self._size()) :]


class StdoutTarget:
    """Our own output, each line behind ``[<channel>] ``. When nobody reads it, lines are dropped and counted.

    Lines are taken once they are written: those that were under way when we were killed come twice.
    """

    def __init__(self, channel: str, fd: int = 1) -> None:
        self._prefix = f"[{printable(channel)}] ".encode()
        self._fd = fd
        self._dropped = 0
        self._torn = False  # a long line was given up half-way

    def take(self, pipe: int, lines: bytes) -> None:
        """Write line by line; each fits a pipe's atomic size as long as it is no longer than that."""
        try:
            for line in _split_newlines(lines):
                if self._dropped and self._put(
                    b"%s%d lines dropped: nobody read them\n" % (self._prefix, self._dropped)
                ):
                    self._dropped = 0
                if self._dropped or not self._put(self._prefix + line):
                    self._dropped += 1
        finally:
            take(pipe, len(lines))

    def close(self) -> None:
        """The descriptor is not ours."""

    def _put(self, line: bytes) -> bool:
        """Write one line if there is room soon; a pipe nobody reads says no."""
        view = memoryview(b"\n" + line if self._torn else line)
        size = len(view)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while view:
            if not poll.poll(STDOUT_SECONDS * 1000 if not self._dropped else 0):
                self._torn = self._torn or len(view) < size
                return False
            view = view[os.write(self._fd, view[:4096]) :]
        self._torn = False
        return True


def _split_newlines(lines: bytes) -> list[bytes]:
    """Lines end at a newline only: a carriage return (a progress bar) does not make another one."""
    return [line + b"\n" for line in lines.removesuffix(b"\n").split(b"\n")]
