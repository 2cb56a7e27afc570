"""The lease of one channel in time: its one timer, and its mark, by which a later supervisor goes on with it."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from supervisor.channels.lease import Lease
from supervisor.processes.marks import OURS, Marks

LONGEST_TIMER: Final = 86_400.0


class LeaseWatch:
    """Calls `lapsed` whenever the deadline has passed."""

    def __init__(self, timeout: float, marks: Marks, lapsed: Callable[[], None]) -> None:
        """`timeout` in seconds, or `lease.NEVER`."""
        self.lease = Lease(timeout)
        self.slot = OURS
        self._marks = marks
        self._lapsed = lapsed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The worker is ready."""
        self.slot = self._marks.claim()
        now = time.monotonic()
        self.lease.begin(now)
        self._marks.mark(self.slot, now, 0)
        self._watch()

    def resume(self, slot: int, died_at: float, *, paused: bool) -> None:
        """Go on with the lease of a worker that an earlier supervisor had; `slot` was its place."""
        mark = self._marks.read(slot)
        known = self._marks.keep(slot)
        self.slot = slot if known else self._marks.claim()
        now = time.monotonic()
        self.lease.resume(now, mark.at if known else 0.0, mark.count, died_at, paused=paused)
        self._marks.mark(self.slot, mark.at if known and mark.at else now, self.lease.pings)
        self._watch()

    def ping(self) -> None:
        """A client pinged."""
        now = time.monotonic()
        self.lease.ping(now)
        self._marks.mark(self.slot, now, self.lease.pings)

    def close(self) -> None:
        """The channel ends, or somebody else has it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._marks.release(self.slot)
        self.slot = OURS

    def _watch(self) -> None:
        """One timer for the deadline as it is: pings only move the deadline, a timer that finds it moved re-arms."""
        remaining = self.lease.remaining(time.monotonic())
        if remaining is None:
            return
        if remaining <= 0:
            self._lapsed()
            # Should a ping undo that lapse just now, the lease must be watched further.
            remaining = self.lease.timeout
        self._timer = self._loop.call_later(min(remaining, LONGEST_TIMER) + 0.001, self._watch)
