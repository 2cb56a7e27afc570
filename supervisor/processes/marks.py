"""When each channel was pinged last, where the death of the supervisor does not reach it: a file in memory.

A ping may come thousands of times a second, so it is no write: the file is mapped, and a mark is two numbers in it.
Times are those of the host's monotonic clock, which all processes share until the next boot; nothing lives longer.
"""

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE: Final = "marks"
BYTES: Final = 16  # of a slot: seconds of the last mark, count of marks
OURS: Final = 0  # the slot of the supervisor itself
GROWTH: Final = 4096  # slots


@dataclass(frozen=True, slots=True)
class Mark:
    """The last mark of a slot: its time in monotonic seconds, 0 if there was none, and how many there were."""

    at: float
    count: int


class Marks:
    """The marks of one supervisor; the slots it hands out are those that are not taken."""

    def __init__(self, state_dir: Path) -> None:
        """Maps the file as an earlier supervisor left it. Raises OSError."""
        fd = os.open(state_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            size = max(os.fstat(fd).st_size // BYTES, GROWTH) * BYTES
            os.posix_fallocate(fd, 0, size)  # a full disk is told now, not by a signal in the middle of a ping
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._slots = memoryview(self._map).cast("d")
        self._free = dict.fromkeys(range(size // BYTES - 1, OURS, -1))

    def keep(self, slot: int) -> bool:
        """Take the slot of a channel that is adopted; whether there is such a one that is free."""
        return self._free.pop(slot, OURS) is None

    def claim(self) -> int:
        """A slot without a mark; OURS when all are taken: then its channel's pings are not remembered."""
        if not self._free:
            return OURS
        slot, _ = self._free.popitem()
        self._slots[2 * slot] = self._slots[2 * slot + 1] = 0.0
        return slot

    def release(self, slot: int) -> None:
        """Nobody marks it any more."""
        if slot != OURS:
            self._free[slot] = None

    def mark(self, slot: int, at: float, count: int) -> None:
        """Remember a mark. The hottest path of all."""
        if slot:
            self._slots[2 * slot] = at
            self._slots[2 * slot + 1] = count

    def live(self) -> None:
        """Remember that the supervisor lives."""
        self._slots[2 * OURS] = time.monotonic()

    def read(self, slot: int) -> Mark:
        """The last mark of a slot; one that cannot be, since it was written before the last boot, is none."""
        if not 0 <= slot < len(self._slots) // 2:
            return Mark(0.0, 0)
        at, count = self._slots[2 * slot], self._slots[2 * slot + 1]
        if not 0.0 < at <= time.monotonic() or not 0.0 <= count < 2**53:
            return Mark(0.0, 0)
        return Mark(at, int(count))

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._slots.release()
        self._map.close()
