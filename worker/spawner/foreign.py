"""Workers that are exec'd: any command line, with the same containment as our own; our own inside bubblewrap."""

import os
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple, NoReturn

from worker.spawn import NAMESPACED, SpawnRequest
from worker.spawner import bwrap
from worker.spawner.identity import read_stat, signal_pidfd
from worker.spawner.isolation import Ground
from worker.spawner.leaves import Leaf
from worker.spawner.linux import CloneUnavailableError, clone
from worker.spawner.setup import become_worker


class Birth(NamedTuple):
    """A foreign worker that was forked: its pid, pidfd and start time.

    `errors` is a pipe that carries an error text, or just ends once exec has succeeded.
    """

    pid: int
    pidfd: int
    start_time: int
    errors: int


def own_command(request: SpawnRequest, config: int, lifeline: int) -> SpawnRequest:
    """A worker of ours as a command: it reads its configuration from one descriptor, and ends with the other."""
    command = (sys.executable, "-P", "-m", "worker.alone", str(config), str(lifeline), *request.preload)
    return replace(request, command=command, cwd=request.folder)


def fork(request: SpawnRequest, leaf: Leaf, ground: Ground, *, limit_memory: bool, keep: Collection[int] = ()) -> Birth:
    """Start the command, which gets the descriptors `keep`; the caller closes both of the answer.

    Raises OSError, and nothing is left then.
    """
    with ExitStack() as cleanup, ExitStack() as ours:
        reader, writer = os.pipe()
        cleanup.callback(os.close, reader)
        ours.callback(os.close, writer)
        cgroup = leaf.fd()
        if cgroup >= 0:
            ours.callback(os.close, cgroup)
        # A place for the pidfd, so that its opening cannot fail once there is a child to be signalled.
        place = os.dup(reader)
        parent = os.getpid()
        try:
            pid = _fork(cgroup)
        finally:
            os.close(place)
        if pid == 0:
            _exec(request, leaf, ground, parent, writer, keep, limit_memory=limit_memory)
        pidfd = os.pidfd_open(pid)
        cleanup.callback(os.close, pidfd)
        cleanup.callback(_undo, pidfd)
        stat = read_stat(pid)
        os.set_blocking(reader, False)
        cleanup.pop_all()
        return Birth(pid, pidfd, 0 if stat is None else stat.start_time, reader)


def _fork(cgroup: int) -> int:
    """The pid of the child; 0 in the child, with every signal blocked.

    A SIGTERM that reached it before it is itself would be taken by our handlers, and wake up our event loop.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        try:
            pid = clone(cgroup)
        except CloneUnavailableError:
            pid = os.fork()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _undo(pidfd: int) -> None:
    """End a child that nobody can look after."""
    signal_pidfd(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def _exec(
    request: SpawnRequest,
    leaf: Leaf,
    ground: Ground,
    parent: int,
    writer: int,
    keep: Collection[int],
    *,
    limit_memory: bool,
) -> NoReturn:
    """In the child: never returns."""
    command: Sequence[str] = request.command or ("",)
    namespaced = request.isolation.level == NAMESPACED
    step = "the worker's own set-up"
    try:
        # The event loop's wake-up descriptor is the spawner's; a signal in this child must not write to it.
        signal.set_wakeup_fd(-1)
        become_worker(
            request.folder,
            request.limits,
            parent=parent,
            cgroups=leaf.procs_files(),
            limit_memory=limit_memory,
            keep=(writer, *keep),
            confine=None if namespaced else lambda: ground.confine(request.isolation, request.folder),
        )
        for fd in keep:
            os.set_inheritable(fd, True)
        if namespaced:
            step = "bubblewrap"
            os.set_inheritable(writer, True)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            cwd = request.cwd or request.folder
            command = bwrap.wrapped(request.isolation, request.folder, ground.base, cwd, command, writer)
        elif request.cwd is not None:
            step = f"folder {request.cwd!r}"
            os.chdir(request.cwd)
        step = f"command {command[0]!r}"
        os.execvpe(command[0], list(command), request.environment)  # noqa: S606 - no shell, on purpose
    except BaseException as error:  # noqa: BLE001 - the spawner tells it; nothing may unwind into its loop here
        reason = (error.strerror if isinstance(error, OSError) else None) or repr(error)
        os.write(writer, f"{step}: {reason}".encode()[:4096])
    finally:
        os._exit(127)
