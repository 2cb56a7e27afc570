"""What tells whether a file has changed since it was read: the look at it that costs a few microseconds."""

import os
import time
from typing import Final

SETTLE_NS: Final = 50_000_000  # several ticks of the clock the kernel stamps files with

Stamp = tuple[int, ...]


def stamp_of(status: os.stat_result) -> Stamp:
    """A file's stamp: another one, or the same one changed, has another."""
    # The change time cannot be set by anybody, so a file moved into place with an old modification time is noticed.
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_settled(stamp: Stamp) -> bool:
    """Whether a later change would show in the stamp."""
    # A second write within the same tick of the file system's clock would leave no trace in it. That clock is the wall
    # clock, hence this one is too; should it be wrong by more than a tick, either way, nothing is written in that tick.
    return abs(time.time_ns() - stamp[-1]) > SETTLE_NS
