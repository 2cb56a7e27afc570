"""Drain: no channel begins any more, those that are there go on until they end, or until a deadline."""

import asyncio
import time
from typing import Final

import structlog

from supervisor.causes import Cause
from supervisor.channels.channel import Channel
from supervisor.channels.lifecycle import Event
from supervisor.channels.table import LIVE, ChannelTable

log = structlog.get_logger("supervisor.drain")

MOST_TOLD: Final = 32  # names of channels in one log line


class Drain:
    """The drain of one server. It is not kept: the server's successor begins channels again."""

    def __init__(self, table: ChannelTable) -> None:
        self._table = table
        self._deadline: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.since: float | None = None  # in seconds since 1970; None: there is no drain
        self.cut = 0  # channels that this drain has stopped at its deadline

    @property
    def is_on(self) -> bool:
        """Whether the server drains."""
        return self.since is not None

    @property
    def holders(self) -> list[Channel]:
        """The channels that are still there."""
        return self._table.all()

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def begin(self, seconds: float | None) -> None:
        """Drain, with a deadline in so many seconds (None: without one). Again: the same drain, the new deadline."""
        await self._end_task()
        if self.since is None:
            self.since, self.cut = time.time(), 0
        self._table.draining = True
        loop = asyncio.get_running_loop()
        self._deadline = None if seconds is None else loop.time() + seconds
        log.info("drain.begun", deadline_seconds=seconds, channels=len(self.holders))
        self._task = asyncio.create_task(self._carry_out(self.since), name="drain")

    async def undo(self) -> None:
        """Begin channels again; nothing when there is no drain."""
        await self._end_task()
        if self.since is not None:
            log.info("drain.undone", channels=len(self.holders))
        self.since = self._deadline = None
        self._table.draining = False
        self._table.freed.ring()  # who waits looks again

    async def over(self) -> None:
        """Wait until nothing is left, or the drain is undone. Not bounded: a session lasts as its client wants."""
        while self.is_on and self.holders:
            await self._table.freed.wait()

    async def close(self) -> None:
        """The server ends."""
        await self._end_task()

    async def _carry_out(self, began: float) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self.over()
        except TimeoutError:
            self._stop_the_rest()
            await self.over()
        log.info("drain.empty", seconds=round(time.time() - began, 3), cut=self.cut)

    def _stop_the_rest(self) -> None:
        late = [channel for channel in self.holders if channel.state in LIVE]
        self.cut += len(late)
        log.warning("drain.deadline", cut=len(late), channels=[channel.name for channel in late[:MOST_TOLD]])
        for channel in late:
            channel.post(Event.STOP, Cause.DRAINED)

    async def _end_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
