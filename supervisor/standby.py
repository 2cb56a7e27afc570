"""A parent that has everything imported: it forks the server, and at once another one if that is killed.

Most of a server's start are its imports, most of all on a machine whose workers are busy meanwhile. The parent does
nothing but wait: it has no thread and no loop. It ends as its server ends, and takes the server with it when it is
killed itself.
"""

import faulthandler
import gc
import math
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Self

from supervisor.notify import Notifier
from supervisor.prctl import die_with, hide_memory
from supervisor.signals import is_at_terminal

PASSED_ON: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGABRT})
#: What has been killed so often in so many seconds is not followed by another: whatever started us is to decide.
MOST: Final = 5
MOST_SECONDS: Final = 60.0
MOST_BYTES: Final = 64 * 1024  # read at once
START_SECONDS: Final = 60.0  # for a successor to say that it is ready
FEED_MILLISECONDS: Final = 500  # between two feeds of a watchdog, whose time is seconds
FORK_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.1
FAILED: Final = 1
# What a server imports only when it runs.
LATER: Final = ("uvloop", "aiosqlite", "asyncpg", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql")


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The server that was here before: the number of the signal that killed it, how many seconds it had lived."""

    number: int
    seconds: float

    @property
    def name(self) -> str:
        """The signal's, as SIGKILL; of one that has none, its number."""
        try:
            return signal.Signals(self.number).name
        except ValueError:
            return str(self.number)


def stand_by(serve: Callable[[Predecessor | None], int], part: Callable[[], None], manager: Notifier) -> int:
    """Run `serve` in a child, and in another one whenever a signal kills it that was not ours to pass on.

    Returns in each child what `serve` returns or raises; PASSED_ON are blocked there until it is ready to hear them. In
    the parent it returns the exit status of the last child; if that was killed, the parent dies by the same signal.
    `part` is called there once no other child is to follow: it lets go of what is shared with them. What a child tells
    the `manager`, which knows only of the parent, goes through this one. Only for a process with one thread.
    """
    hide_memory()
    for name in LATER:
        import_module(name)
    gc.freeze()  # pages that a look for garbage writes to would no longer be shared
    before: Predecessor | None = None
    killed: deque[float] = deque([-math.inf] * MOST, maxlen=MOST)
    with _Watch(manager, part) as watch:
        while True:
            began = time.monotonic()
            try:
                pid = watch.fork()
            except OSError as error:
                sys.stderr.write(f"agentd: no server can be started: {error}\n")
                return FAILED
            if pid == 0:
                return serve(before)
            status = watch.wait(pid, is_fed=before is not None)
            if status >= 0:
                return status
            now = time.monotonic()
            if watch.is_last or now - killed[0] < MOST_SECONDS:
                _end_by(-status)
            killed.append(now)
            before = Predecessor(-status, now - began)


class _Watch:
    """All the parent does: it passes signals on to its child, and what that tells the service manager."""

    def __init__(self, manager: Notifier, part: Callable[[], None]) -> None:
        self._manager = manager
        self._part = part
        self.is_last = False  # the child was told to end
        self._last = PASSED_ON if is_at_terminal() else PASSED_ON - {signal.SIGHUP}  # which else is a reload
        self._heard, self._hearing = socket.socketpair()
        self._told, self._telling = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._hearing.setblocking(False)
        self._telling.setblocking(False)
        faulthandler.disable()  # the child enables it; until then SIGABRT is one of these
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would leave us no status
        signal.set_wakeup_fd(self._hearing.fileno())
        self._former = {number: signal.signal(number, _note) for number in PASSED_ON}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._heard, self._hearing, self._told, self._telling):
            one.close()

    def fork(self) -> int:
        """0 in the child, in which nothing is left of what we do with signals; its pid in the parent. Raises OSError.

        There may be no room for a process just now, as when one was killed for its memory: it is tried for a while.
        """
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        try:
            pid = _fork_patiently()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return pid
        die_with(parent)
        os.setpgid(0, 0)  # what a terminal sends comes through the parent, and only once
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # and what we write to it is welcome all the same
        signal.set_wakeup_fd(-1)
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for one in (self._heard, self._hearing, self._told):
            one.close()
        self._manager.through(self._telling)
        return 0

    def wait(self, pid: int, *, is_fed: bool) -> int:
        """The exit status of the child, a negative one for a signal, once it has ended.

        If it `is_fed`, the manager's watchdog is fed for it until it does so itself, or has taken too long: to the
        manager it is one that has started long ago.
        """
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            for one in (self._heard.fileno(), self._told.fileno(), pidfd):
                poll.register(one, select.POLLIN)
            fed_until = time.monotonic() + START_SECONDS if is_fed and self._manager.watchdog else 0.0
            while True:
                feeds = time.monotonic() < fed_until
                ready = {one for one, _ in poll.poll(FEED_MILLISECONDS if feeds else None)}
                if not ready:
                    self._manager.pass_on(b"WATCHDOG=1")
                elif self._told.fileno() in ready:
                    self._manager.pass_on(self._told.recv(MOST_BYTES))
                    fed_until = 0.0
                elif self._heard.fileno() in ready:
                    for number in self._heard.recv(MOST_BYTES):
                        self._pass_on(pidfd, number)
                else:  # nothing it said is left
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        finally:
            os.close(pidfd)

    def _pass_on(self, pidfd: int, number: int) -> None:
        if number in self._last and not self.is_last:
            self.is_last = True
            self._part()
        signal.pidfd_send_signal(pidfd, number)
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)  # one that was stopped would not notice


def _fork_patiently() -> int:
    end = time.monotonic() + FORK_SECONDS
    while True:
        try:
            return os.fork()
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(PAUSE_SECONDS)


def _note(*_: object) -> None:
    """Its number has been written to the socket."""


def _end_by(number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # the first process of a container is killed by no signal of its own
