"""A worker's sign of life: that its loop turns, and how late."""

import asyncio
from collections.abc import Callable
from typing import Final

from worker.frames import Up
from worker.pipe import Pipe

MOST_WAITING: Final = 3  # beats that nobody has read


class Beat:
    """Sends ``beat`` frames: that the loop turns, and how late it ran its own timer at the worst since the last one.

    Beats are left out while a few are not acknowledged, so that a supervisor that is away finds those, not many. One
    may well be lost: what else writes to the pipe, a node's library say, can tear it.
    """

    def __init__(self, pipe: Pipe, seconds: float, turn: Callable[[], str | None]) -> None:
        """`turn` tells which turn the worker is at."""
        self._pipe = pipe
        self._seconds = seconds
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sent = 0
        self._waiting = 0
        self._lag = 0.0

    def start(self) -> None:
        """Beat from now on, first after one interval."""
        self._arm()

    def stop(self) -> None:
        """No more beats."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        due = self._loop.time() + self._seconds
        self._timer = self._loop.call_at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        self._lag = max(self._lag, self._loop.time() - due)
        if self._pipe.seen >= self._sent:
            self._waiting = 0
        if self._waiting < MOST_WAITING:
            self._waiting += 1
            lag_ms = round(self._lag * 1000, 1)
            self._sent = self._pipe.post({"t": Up.BEAT, "lag_ms": lag_ms, "turn": self._turn()})
            self._lag = 0.0
        self._arm()
