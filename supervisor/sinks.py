"""Where lines of the log end up; a sink may block: a thread of its own writes to it."""

import os
import select
from collections.abc import Sequence
from typing import Protocol


class Sink(Protocol):
    """Takes lines of the log, each with its newline."""

    def put(self, lines: Sequence[bytes]) -> bool:
        """Hand all lines on; False when some of them are lost. Never raises."""


class Descriptor:
    """Writes to a descriptor, which stays its owner's. A reader that is gone is nobody's failure."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._torn = False  # the last write broke off, perhaps within a line

    def put(self, lines: Sequence[bytes]) -> bool:
        """Write all lines; False when some of them are lost."""
        data = b"".join(lines)
        view = memoryview(b"\n" + data if self._torn else data)
        size = len(view)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:  # somebody who shares our stderr made it non-blocking
                    room = select.poll()
                    room.register(self._fd, select.POLLOUT)
                    room.poll()
        except OSError:  # there is nobody to tell but the next reader, who is told how many lines are missing
            self._torn = self._torn or len(view) < size
            return False
        self._torn = False
        return True
