"""The spawner's zygotes: one process for each set of preloads, forking workers on demand, replaced when it dies."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from worker.spawn import MAX_MESSAGE, SpawnRequest, pack, unpack
from worker.spawner.code import code
from worker.spawner.identity import open_if, signal_pidfd
from worker.spawner.linux import PR_SET_PDEATHSIG, prctl

MOST: Final = 8
FAST_DEATHS: Final = 3
FORK_SECONDS: Final = 10.0
READY_SECONDS: Final = 60.0
END_SECONDS: Final = 1.0

Preload = tuple[str, ...]


@dataclass(slots=True)
class Fork:
    """One fork that was asked for: the request, its descriptors (owned, closed when done), and who is told."""

    request: SpawnRequest
    config: int
    cgroup: int
    procs_files: list[str]
    limit_memory: bool
    began: Callable[[int, int], None]  # pid, start time
    failed: Callable[[str], None]  # there is no process
    lost: Callable[[str], None]  # perhaps there is one that nobody can name
    again: bool = False  # a zygote died before it was asked

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.config, self.cgroup):
            if fd >= 0:
                os.close(fd)
        self.config = self.cgroup = -1


@dataclass(slots=True)
class Zygote:
    """A running zygote process and what it was asked for."""

    preload: Preload
    pid: int
    pidfd: int
    channel: socket.socket
    ready: bool = False
    error: str = ""
    retired: bool = False  # it ends as soon as nobody waits for its answer
    used: float = 0.0
    spare: int = 0  # the child it keeps ready, which is ours
    spare_pidfd: int = -1
    deadline: asyncio.TimerHandle | None = None  # of what it does next: get ready, or end
    waiting: list[Fork] = field(default_factory=list)  # until it is ready
    asked: dict[str, Fork] = field(default_factory=dict)
    deadlines: dict[str, asyncio.TimerHandle] = field(default_factory=dict)

    def kill(self) -> None:
        """SIGKILL; its status comes with SIGCHLD."""
        signal_pidfd(self.pidfd, signal.SIGKILL)

    def expire(self, timer: asyncio.TimerHandle | None) -> None:
        """Replace the deadline."""
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = timer

    def expect(self, spare: int, start_time: int) -> None:
        """It has this child ready. Without a descriptor for it, or when it has ended, it is only known by number."""
        self.release()
        self.spare = spare
        with contextlib.suppress(OSError):
            pidfd = open_if(spare, start_time)
            self.spare_pidfd = -1 if pidfd is None else pidfd

    def release(self) -> None:
        """The spare is one no more."""
        if self.spare_pidfd >= 0:
            os.close(self.spare_pidfd)
        self.spare, self.spare_pidfd = 0, -1

    def close(self) -> None:
        """It has ended: so does its spare, which may have a request that nobody answers for any more."""
        if self.spare_pidfd >= 0:
            signal_pidfd(self.spare_pidfd, signal.SIGKILL)
        self.release()
        self.channel.close()
        os.close(self.pidfd)
        self.expire(None)
        for timer in self.deadlines.values():
            timer.cancel()


class Zygotes:
    """All zygotes of a spawner. `environment` is all they get; `lifeline` is the read end of its pipe."""

    def __init__(
        self,
        environment: dict[str, str],
        lifeline: int,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._environment = environment
        self._lifeline = lifeline
        self._loop = loop
        self._tell = tell
        self._zygotes: dict[Preload, Zygote] = {}
        self._successors: dict[Preload, Zygote] = {}  # of these, once they are ready
        self._by_pid: dict[int, Zygote] = {}  # also those on their way out
        self._deaths: dict[Preload, list[float]] = {}
        self._closing = False
        self._python = self._next_python = sys.executable  # what zygotes are started from, and successors
        self._loads = (sys.executable, code(sys.executable))  # what they are to load, all of them
        self._due: list[Preload] = []  # those that have a successor to come

    def pids(self) -> dict[int, Zygote]:
        """All zygotes by pid, also those on their way out."""
        return self._by_pid

    def spares(self) -> set[int]:
        """The children that zygotes keep ready."""
        return {zygote.spare for zygote in self._by_pid.values() if zygote.spare}

    def tell_ready(self) -> None:
        """Tell a control server that has just come which zygotes are ready."""
        for zygote in self._zygotes.values():
            if zygote.ready:
                self._tell({"ev": "zygote", "preload": zygote.preload, "pid": zygote.pid, "state": "ready"})

    def forking(self) -> bool:
        """Whether a fork is under way whose child we may not know yet."""
        return any(zygote.asked for zygote in self._by_pid.values())

    def warm(self, preload: Preload) -> Zygote:
        """The zygote for this set of preloads, started if there is none; the one unused longest makes room."""
        zygote = self._zygotes.get(preload)
        if zygote is None:
            idle = [z for z in self._zygotes.values() if z.preload and not z.asked and not z.waiting]
            if len(self._zygotes) >= MOST and idle:
                self._retire(min(idle, key=lambda z: z.used))
            zygote = self._zygotes[preload] = self._start(preload, self._python)
        zygote.used = time.monotonic()
        return zygote

    def follow(self, python: str) -> None:
        """A control server has come that runs in this interpreter.

        If that is another one, or there is other code now, every zygote is started anew, and serves until its successor
        is ready.
        """
        if self._loads == (loads := (python, code(python))):
            return
        self._loads, self._next_python = loads, python
        for successor in self._successors.values():
            successor.kill()  # it may have loaded half of what there was before
        self._successors.clear()
        self._due = list(self._zygotes)
        if not self._due:
            self._python = python
        self._succeed()

    def _succeed(self) -> None:
        """Start the next successor: one at a time, for what they load may take much memory."""
        while self._due and not self._successors:
            preload = self._due.pop(0)
            try:
                self._successors[preload] = self._start(preload, self._next_python)
            except OSError:
                self._give_up()

    def _give_up(self) -> None:
        """The old ones go on; the next control server has it tried again."""
        self._loads = ("", frozenset())

    def fork(self, fork: Fork) -> None:
        """Have a worker forked; `began`, `failed` or `lost` of the request is called, once."""
        try:
            zygote = self.warm(fork.request.preload)
        except OSError as error:
            fork.close()
            fork.failed(f"no zygote could be started: {error.strerror}")
            return
        if zygote.ready:
            self._ask(zygote, fork)
        else:
            zygote.waiting.append(fork)

    def drop(self, channel: str) -> bool:
        """Fail a fork that no zygote was asked for yet; False when there is none of this channel."""
        for zygote in self._by_pid.values():
            for fork in zygote.waiting:
                if fork.request.id == channel:
                    zygote.waiting.remove(fork)
                    fork.close()
                    fork.failed("stopped before a zygote was ready")
                    return True
        return False

    def died(self, zygote: Zygote, status: int) -> None:
        """A zygote has ended (its status was taken): fail what it was asked for, replace it."""
        del self._by_pid[zygote.pid]
        if self._zygotes.get(zygote.preload) is zygote:
            del self._zygotes[zygote.preload]
        if self._successors.get(zygote.preload) is zygote:
            del self._successors[zygote.preload]
            self._give_up()
            self._succeed()
        while self._receive(zygote):  # what it answered before it died
            pass
        self._loop.remove_reader(zygote.channel)
        self._loop.remove_writer(zygote.channel)
        zygote.close()
        error = zygote.error or f"the zygote ended with status {status}"
        asked, waiting = list(zygote.asked.values()), zygote.waiting
        zygote.asked, zygote.waiting = {}, []
        for fork in asked:
            fork.lost(error)
        for fork in waiting:
            if zygote.error or fork.again or self._closing:
                fork.close()
                fork.failed(error)
            else:
                fork.again = True
                self.fork(fork)  # by the next zygote
        state = "replaced" if zygote.retired else "died"
        if not self._closing:  # then it was we who ended it
            self._tell({"ev": "zygote", "preload": zygote.preload, "pid": zygote.pid, "state": state, "status": status})
        if zygote.retired:
            return
        now = time.monotonic()
        deaths = [t for t in self._deaths.get(zygote.preload, []) if now - t < 60.0] + [now]
        self._deaths[zygote.preload] = deaths
        # One that cannot preload, or dies again and again, is started only when asked for: it would eat the machine.
        wanted = not self._closing and not zygote.error and zygote.preload not in self._zygotes
        if wanted and len(deaths) < FAST_DEATHS:
            with contextlib.suppress(OSError):  # the next fork tries again and reports the error to who asked
                self.warm(zygote.preload)

    def close(self) -> None:
        """Kill every zygote; the caller reaps them."""
        self._closing = True
        for zygote in self._by_pid.values():
            zygote.kill()

    def _start(self, preload: Preload, python: str) -> Zygote:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                self._exec(preload, python, theirs, parent)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            ours.close()  # it ends by itself then, a child like any other
            raise
        ours.setblocking(False)
        zygote = self._by_pid[pid] = Zygote(preload, pid, pidfd, ours)
        zygote.expire(self._loop.call_later(READY_SECONDS, self._overdue, zygote))
        self._loop.add_reader(ours, self._read, zygote)
        return zygote

    def _exec(self, preload: Preload, python: str, channel: socket.socket, parent: int) -> NoReturn:
        """In the child: never returns."""
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for fd in (channel.fileno(), self._lifeline):
                os.set_inheritable(fd, True)
            arguments = [python, "-m", "worker.zygote", str(channel.fileno()), str(self._lifeline), *preload]
            os.execve(python, arguments, self._environment)  # noqa: S606 - no shell, on purpose
        finally:
            os._exit(127)

    def _overdue(self, zygote: Zygote) -> None:
        named = ", ".join(zygote.preload)
        zygote.error = f"preload {named}: " if named else "the add-ons of the machine: "
        zygote.error += f"not done after {READY_SECONDS:g} seconds"
        zygote.kill()

    def _retire(self, zygote: Zygote) -> None:
        """It forks no more; what it was asked for it still does."""
        zygote.retired = True
        if self._zygotes.get(zygote.preload) is zygote:
            del self._zygotes[zygote.preload]
        if not zygote.asked:
            zygote.kill()

    def _take_over(self, successor: Zygote) -> None:
        """It is ready: from now on it forks, in the place of the one before it."""
        self._python = self._next_python
        old = self._zygotes.get(successor.preload)
        self._zygotes[successor.preload] = successor
        if old is not None:
            successor.used = old.used
            successor.waiting, old.waiting = [*old.waiting, *successor.waiting], []
            self._retire(old)

    def _ask(self, zygote: Zygote, fork: Fork) -> None:
        request = fork.request
        asked = request.to_message()
        message = {
            "id": request.id,
            "folder": request.folder,
            "environment": request.environment,
            "limits": asked["limits"],
            "isolation": asked["isolation"],
            "procs_files": fork.procs_files,
            "limit_memory": fork.limit_memory,
            "cgroup": fork.cgroup >= 0,
        }
        try:
            socket.send_fds(zygote.channel, [pack(message)], [fd for fd in (fork.config, fork.cgroup) if fd >= 0])
        except BlockingIOError:
            zygote.waiting.append(fork)
            self._loop.add_writer(zygote.channel, self._flush, zygote)
            return
        except ConnectionError:
            zygote.waiting.append(fork)  # it has died; `died` hands the fork to its successor
            return
        except (OSError, ValueError) as error:
            fork.close()
            fork.failed(f"the zygote could not be asked: {error}")
            return
        fork.close()
        zygote.asked[request.id] = fork
        # A zygote that hangs (a preload left it in a bad state) must not hold starts for ever: it is replaced.
        zygote.deadlines[request.id] = self._loop.call_later(FORK_SECONDS, zygote.kill)

    def _flush(self, zygote: Zygote) -> None:
        self._loop.remove_writer(zygote.channel)
        waiting, zygote.waiting = zygote.waiting, []
        for fork in waiting:
            self._ask(zygote, fork)

    def _read(self, zygote: Zygote) -> None:
        if not self._receive(zygote):
            self._loop.remove_reader(zygote.channel)
            # It ends, and its status comes with SIGCHLD; one that only closed its socket is of no use either.
            zygote.expire(self._loop.call_later(END_SECONDS, zygote.kill))

    def _receive(self, zygote: Zygote) -> bool:
        """Take one answer; False when there is none."""
        try:
            data = zygote.channel.recv(MAX_MESSAGE)
        except (BlockingIOError, ConnectionResetError):
            return False
        if not data:
            return False
        message = unpack(data)
        if "spare" in message:
            zygote.expect(message["spare"], message["start_time"])
            return True
        if "broken" in message:
            zygote.error = message["broken"]
            return True
        if "id" not in message:
            zygote.ready = True
            zygote.expire(None)
            if self._successors.get(zygote.preload) is zygote:
                self._take_over(self._successors.pop(zygote.preload))
                self._succeed()
            self._tell({"ev": "zygote", "preload": zygote.preload, "pid": zygote.pid, "state": "ready"})
            self._flush(zygote)
            return True
        fork = zygote.asked.pop(message["id"])
        zygote.deadlines.pop(message["id"]).cancel()
        if "pid" in message:
            if message["pid"] == zygote.spare:
                zygote.release()
            fork.began(message["pid"], message["start_time"])
        else:
            fork.failed(message["error"])
        if zygote.retired and not zygote.asked:
            zygote.kill()
        return True
