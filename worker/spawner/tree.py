"""One channel's process tree in the spawner: its worker, its stop, its receipt."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from worker.spawn import Receipt
from worker.spawner import sweep
from worker.spawner.identity import read_stat
from worker.spawner.leaves import Leaf

UNKILLABLE_SECONDS: Final = 5.0
RECHECK_SECONDS: Final = 0.02


class Tree:
    """A tree from its spawn to its receipt.

    It is gone when the worker's exit status has been taken and the leaf is empty; `finished` is then called once.
    """

    def __init__(
        self,
        channel: str,
        leaf: Leaf,
        tell: Callable[[dict[str, Any]], None],
        finished: Callable[["Tree"], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.id = channel
        self.leaf = leaf
        self.pid = 0
        self.pidfd = -1
        self.start_time = 0
        self.status: int | None = None
        self.receipt: Receipt | None = None
        self.error = ""  # why it never became the worker it should: then there is no exit to tell
        self._tell = tell
        self._finished = finished
        self._loop = loop
        self._timers: list[asyncio.TimerHandle] = []
        self._stop_began: float | None = None
        self._terminated = False
        self._kill_began: float | None = None
        self._seen: set[int] = set()
        self._killed: set[int] = set()
        self._oom = False
        self._complained = False

    def began(self, pid: int) -> None:
        """The worker exists; we are its parent and nobody else reaps it, so its number is its own until we do."""
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        stat = read_stat(pid)
        self.start_time = 0 if stat is None else stat.start_time
        self.leaf.began(pid)
        self._seen.add(pid)
        if self._kill_began is not None:
            self.kill()

    def facts(self) -> dict[str, Any]:
        """What a control server is told of a live tree."""
        return {"id": self.id, "pid": self.pid, "start_time": self.start_time, "status": self.status}

    def stop(self, term_after: float, kill_after: float) -> None:
        """SIGTERM to every member after `term_after` seconds, the kill of the tree after `kill_after`."""
        self._begin()
        self._timers += [
            self._loop.call_later(term_after, self._terminate),
            self._loop.call_later(kill_after, self.kill),
        ]

    def kill(self) -> None:
        """The whole tree, now. Repeats itself until nothing is left."""
        if self.receipt is not None:
            return
        self._begin()
        now = time.monotonic()
        self._kill_began = self._kill_began or now
        victims = self.leaf.members()
        self._seen.update(victims)
        self._killed.update(victims)
        if victims:
            self.leaf.kill()
        self.check()
        if self.receipt is None:
            if now - self._kill_began > UNKILLABLE_SECONDS and not self._complained:
                self._complained = True
                self._tell({"ev": "unkillable", "id": self.id, "pids": self.leaf.members()})
            self._timers.append(self._loop.call_later(1.0 if self._complained else RECHECK_SECONDS, self.kill))

    def exited(self, status: int) -> None:
        """The worker's exit status was taken. What it leaves behind goes too: at once, or with a stop's grace."""
        self.status = status
        os.close(self.pidfd)
        self.pidfd = -1
        self._oom = status == -signal.SIGKILL and self.leaf.oom_killed()
        if not self.error:
            self._tell({"ev": "exit", "id": self.id, "pid": self.pid, "status": status, "oom": self._oom})
        if self._stop_began is None:
            self.kill()
        else:
            if not self._terminated:
                self._terminate()
            self.check()
            self._poll()

    def fail(self, error: str) -> None:
        """There is no worker whose status could come, but something in the leaf: it goes, then `finished` is called."""
        self.error = error
        self.status = -signal.SIGKILL
        self.kill()

    def abandon(self) -> None:
        """There will be no worker: no timer may act for it any more."""
        self._cancel_timers()
        self.receipt = Receipt(processes=0, killed=0, left=0, seconds=0.0, by=self.leaf.by)

    def check(self) -> None:
        """Finish when nothing is left. Called whenever that may have become true."""
        if self.receipt is not None or self.status is None or not self.leaf.empty():
            return
        self._cancel_timers()
        self.receipt = Receipt(
            processes=len(self._seen),
            killed=len(self._killed),
            left=0,
            seconds=round(time.monotonic() - (self._stop_began or time.monotonic()), 6),
            by=self.leaf.by,
            status=self.status,
            oom=self._oom,
        )
        self._finished(self)

    def gone_message(self) -> dict[str, Any]:
        """The ``gone`` event; only after the receipt was written."""
        if self.receipt is None:
            raise RuntimeError(f"channel {self.id} is not gone yet")
        return {"ev": "gone", "id": self.id, "receipt": asdict(self.receipt)}

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _begin(self) -> None:
        if self._stop_began is None:
            self._stop_began = time.monotonic()
            self._seen.update(self.leaf.members())

    def _terminate(self) -> None:
        self._terminated = True
        self._seen.update(sweep.signal_members(self.leaf.members, signal.SIGTERM))

    def _poll(self) -> None:
        """Where no cgroup tells of the last member's end, look again from time to time until the stop's kill."""
        if self.receipt is None and self.leaf.by == "sweep":
            self.check()
            self._timers.append(self._loop.call_later(RECHECK_SECONDS, self._poll))
