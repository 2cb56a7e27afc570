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
from typing import Any, Final

from worker.spawn import MAX_MESSAGE, SpawnRequest, pack, unpack
from worker.spawner.linux import PR_SET_PDEATHSIG, prctl

MOST: Final = 8
FAST_DEATHS: Final = 3
FORK_SECONDS: Final = 10.0

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
    failed: Callable[[str], None]
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
    used: float = 0.0
    spare: int = 0  # the child it keeps ready, which is ours
    waiting: list[Fork] = field(default_factory=list)  # until it is ready
    asked: dict[str, Fork] = field(default_factory=dict)
    deadlines: dict[str, asyncio.TimerHandle] = field(default_factory=dict)


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
        self._by_pid: dict[int, Zygote] = {}  # also those on their way out
        self._deaths: dict[Preload, list[float]] = {}
        self._closing = False

    def pids(self) -> dict[int, Zygote]:
        """All zygotes by pid, also those on their way out."""
        return self._by_pid

    def spares(self) -> set[int]:
        """The children that zygotes keep ready."""
        return {zygote.spare for zygote in self._by_pid.values()}

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
            zygote = self._zygotes[preload] = self._start(preload)
        zygote.used = time.monotonic()
        return zygote

    def fork(self, fork: Fork) -> None:
        """Have a worker forked; `began(pid)` or `failed(error)` of the request is called later, once."""
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

    def died(self, zygote: Zygote, status: int) -> None:
        """A zygote has ended (its status was taken): fail what it was asked for, replace it."""
        del self._by_pid[zygote.pid]
        if self._zygotes.get(zygote.preload) is zygote:
            del self._zygotes[zygote.preload]
        self._loop.remove_reader(zygote.channel)
        while self._receive(zygote):  # what it answered before it died
            pass
        zygote.channel.close()
        os.close(zygote.pidfd)
        for timer in zygote.deadlines.values():
            timer.cancel()
        error = zygote.error or f"the zygote ended with status {status}"
        asked, waiting = list(zygote.asked.values()), zygote.waiting
        zygote.asked, zygote.waiting = {}, []
        for fork in asked:
            fork.failed(error)  # perhaps forked, perhaps not: what is in its leaf goes
        for fork in waiting:
            if zygote.error or fork.again or self._closing:
                fork.close()
                fork.failed(error)
            else:
                fork.again = True
                self.fork(fork)  # by the next zygote
        self._tell({"ev": "zygote", "preload": zygote.preload, "pid": zygote.pid, "state": "died", "status": status})
        now = time.monotonic()
        deaths = [t for t in self._deaths.get(zygote.preload, []) if now - t < 60.0] + [now]
        self._deaths[zygote.preload] = deaths
        # One that dies again and again is started only when it is asked for, so that it does not eat the machine.
        if not self._closing and len(deaths) < FAST_DEATHS and zygote.preload not in self._zygotes:
            with contextlib.suppress(OSError):  # the next fork tries again and reports the error to who asked
                self.warm(zygote.preload)

    def close(self) -> None:
        """Kill every zygote; the caller reaps them."""
        self._closing = True
        for zygote in self._by_pid.values():
            signal.pidfd_send_signal(zygote.pidfd, signal.SIGKILL)

    def _start(self, preload: Preload) -> Zygote:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            try:
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                for fd in (theirs.fileno(), self._lifeline):
                    os.set_inheritable(fd, True)
                arguments = [
                    sys.executable,
                    "-m",
                    "worker.zygote",
                    str(theirs.fileno()),
                    str(self._lifeline),
                    *preload,
                ]
                os.execve(sys.executable, arguments, self._environment)  # noqa: S606 - no shell, on purpose
            finally:
                os._exit(127)
        theirs.close()
        ours.setblocking(False)
        zygote = self._by_pid[pid] = Zygote(preload, pid, os.pidfd_open(pid), ours)
        self._loop.add_reader(ours, self._read, zygote)
        return zygote

    def _retire(self, zygote: Zygote) -> None:
        del self._zygotes[zygote.preload]
        signal.pidfd_send_signal(zygote.pidfd, signal.SIGKILL)

    def _ask(self, zygote: Zygote, fork: Fork) -> None:
        request = fork.request
        message = {
            "id": request.id,
            "folder": request.folder,
            "environment": request.environment,
            "limits": request.to_message()["limits"],
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
        except (OSError, ValueError) as error:
            fork.close()
            fork.failed(f"the zygote could not be asked: {error}")
            return
        fork.close()
        zygote.asked[request.id] = fork
        # A zygote that hangs (a preload left it in a bad state) must not hold starts for ever: it is replaced.
        zygote.deadlines[request.id] = self._loop.call_later(
            FORK_SECONDS, signal.pidfd_send_signal, zygote.pidfd, signal.SIGKILL
        )

    def _flush(self, zygote: Zygote) -> None:
        self._loop.remove_writer(zygote.channel)
        waiting, zygote.waiting = zygote.waiting, []
        for fork in waiting:
            self._ask(zygote, fork)

    def _read(self, zygote: Zygote) -> None:
        if not self._receive(zygote):
            self._loop.remove_reader(zygote.channel)  # it ended; its status comes with SIGCHLD

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
            zygote.spare = message["spare"]
            return True
        if "broken" in message:
            zygote.error = message["broken"]
            return True
        if "id" not in message:
            zygote.ready = True
            self._tell({"ev": "zygote", "preload": zygote.preload, "pid": zygote.pid, "state": "ready"})
            self._flush(zygote)
            return True
        fork = zygote.asked.pop(message["id"])
        zygote.deadlines.pop(message["id"]).cancel()
        if "pid" in message:
            fork.began(message["pid"], message["start_time"])
        else:
            fork.failed(message["error"])
        return True
