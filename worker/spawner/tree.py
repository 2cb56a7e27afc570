"""One channel's process tree in the spawner: its worker, its stop, its receipt."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from worker.spawn import OUTPUTS, Receipt
from worker.spawner import sweep
from worker.spawner.identity import signal_pidfd
from worker.spawner.leaves import Leaf

UNKILLABLE_SECONDS: Final = 5.0
RECHECK_SECONDS: Final = 0.02
COMPLAINED_SECONDS: Final = 1.0


class Tree:
    """A tree from its spawn to its receipt.

    It is gone when the worker's exit status has been taken, the leaf is empty and no stray is left; `finished` is then
    called once. `end_strays` kills what is in no channel's container and says what that was: a worker of our own user
    may leave its cgroup, what it leaves there is found here. None is its answer when one may have been missed.
    """

    def __init__(
        self,
        channel: str,
        leaf: Leaf,
        tell: Callable[[dict[str, Any]], None],
        end_strays: Callable[[], list[int] | None],
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
        self._end_strays = end_strays
        self._finished = finished
        self._loop = loop
        self._timers: list[asyncio.TimerHandle] = []  # of the stop
        self._again: asyncio.TimerHandle | None = None  # the next repetition of the kill, before that of the check
        self._stop_began: float | None = None
        self._terminated = False
        self._kill_began: float | None = None
        self._seen: set[int] = set()
        self._killed: set[int] = set()
        self._oom = False
        self._complained = False
        self._held: list[int] = []

    def began(self, pid: int, pidfd: int, start_time: int) -> None:
        """The worker exists; the pidfd is ours from now on. We are its parent and nobody else reaps it."""
        self.pid, self.pidfd, self.start_time = pid, pidfd, start_time
        self.leaf.began(pid)
        self._seen.add(pid)
        if self._kill_began is not None:
            self._loop.call_soon(self.kill)

    def hold(self, folder: str) -> None:
        """Keep what the worker writes, also when it and its control server have ended, until both are forgotten.

        Without a descriptor to be had nothing is kept.
        """
        for name in OUTPUTS:
            with contextlib.suppress(OSError):
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
                self._held.append(os.open(f"{folder}/{name}", flags))

    def let_go(self) -> None:
        """Its ending was taken note of, or there is none."""
        while self._held:
            os.close(self._held.pop())

    def facts(self) -> dict[str, Any]:
        """What a control server is told of a live tree."""
        about = {"id": self.id, "pid": self.pid, "start_time": self.start_time}
        return about | {"status": self.status, "oom": self._oom}

    def members(self) -> list[int]:
        """The live processes: what the leaf holds, and what descends from the live worker without being in it."""
        held = self.leaf.members()
        if self.pidfd < 0 or self.leaf.by == "sweep":
            return held
        return [*held, *sweep.below([self.pid]).keys() - set(held)]

    def stop(self, term_after: float, kill_after: float) -> None:
        """SIGTERM to every member after `term_after` seconds, the kill of the tree after `kill_after`."""
        if self.receipt is not None:
            return
        self._timers += [
            self._loop.call_later(term_after, self._terminate),
            self._loop.call_later(kill_after, self.kill),
        ]
        self._begin()

    def kill(self) -> None:
        """The whole tree, now. Repeats itself until nothing is left, also after an error (no descriptor is free)."""
        if self.receipt is not None:
            return
        now = time.monotonic()
        if self._kill_began is None:
            self._kill_began = now
        self._repeat(COMPLAINED_SECONDS if self._complained else RECHECK_SECONDS, self.kill)
        self._begin()
        victims = self.members()
        self._seen.update(victims)
        self._killed.update(victims)
        if set(victims) - set(self.leaf.members()):
            sweep.kill_members(self.members)
        if self.pidfd >= 0:
            signal_pidfd(self.pidfd, signal.SIGKILL)
        self.leaf.kill()
        self.check()
        if now - self._kill_began > UNKILLABLE_SECONDS and not self._complained:
            self._complain()

    def exited(self, status: int) -> None:
        """The worker's exit status was taken. What it leaves behind goes too: at once, or with a stop's grace."""
        self.status = status
        os.close(self.pidfd)
        self.pidfd = -1
        self._oom = status == -signal.SIGKILL and self.leaf.oom_killed()
        if not self.error:
            self._tell({"ev": "exit", "id": self.id, "pid": self.pid, "status": status, "oom": self._oom})
        self._loop.call_soon(self._clear_up)  # an error in there must not keep other endings from being taken

    def fail(self, error: str) -> None:
        """There is no worker whose status could come, but something in the leaf: it goes, then `finished` is called."""
        self.error = error
        self.status = -signal.SIGKILL
        self._loop.call_soon(self.kill)

    def abandon(self) -> None:
        """There will be no worker: no timer may act for it any more."""
        self._cancel_timers()
        self.receipt = Receipt(processes=0, killed=0, left=0, seconds=0.0, by=self.leaf.by)

    def check(self) -> None:
        """Finish when nothing is left. Called whenever that may have become true."""
        if self.receipt is not None or self.status is None:
            return
        if self._kill_began is None and self.leaf.by == "sweep":
            self._repeat(RECHECK_SECONDS, self.check)  # no cgroup tells of the last member's end
        if not self.leaf.empty():
            return
        strays = self._end_strays()
        if strays != []:
            self._seen.update(strays or ())
            self._killed.update(strays or ())
            if self._kill_began is None:
                self.kill()
            return
        self._cancel_timers()
        now = time.monotonic()
        self.receipt = Receipt(
            processes=len(self._seen),
            killed=len(self._killed),
            left=0,
            seconds=round(now - (self._stop_began or now), 6),
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

    def _repeat(self, seconds: float, act: Callable[[], None]) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = self._loop.call_later(seconds, act)

    def _cancel_timers(self) -> None:
        for timer in (*self._timers, *([self._again] if self._again else [])):
            timer.cancel()
        self._timers.clear()
        self._again = None

    def _begin(self) -> None:
        if self._stop_began is None:
            self._stop_began = time.monotonic()
            self._seen.update(self.members())

    def _terminate(self) -> None:
        self._terminated = True
        self._seen.update(sweep.signal_members(self.members, signal.SIGTERM))

    def _clear_up(self) -> None:
        if self._stop_began is None:
            self.kill()
            return
        if not self._terminated and self.receipt is None:
            self._terminate()
        self.check()

    def _complain(self) -> None:
        if self.receipt is not None:
            return
        worker = [self.pid] if self.pidfd >= 0 else []
        left = {*worker, *self.members(), *((self.status is not None and self._end_strays()) or ())}
        if left:  # else its last one is just about to be reaped, or nobody knows yet whether there is a worker
            self._complained = True
            self._tell({"ev": "unkillable", "id": self.id, "pids": sorted(left)})
