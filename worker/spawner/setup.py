"""What a new worker does to itself before a line of its own code runs: session, limits, descriptors, privileges."""

import os
import resource
import signal
from collections.abc import Callable, Collection
from typing import Final

from worker.spawn import ERR_FIFO, OUT_FIFO, Limits
from worker.spawner.linux import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

# What this process or whoever started it (nohup, a shell) may ignore; all else has its default or is reset by exec.
DEFAULT_SIGNALS: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGXFSZ,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class ParentGoneError(RuntimeError):
    """The spawner ended while this worker was being born."""


def become_worker(
    folder: str,
    limits: Limits,
    *,
    parent: int,
    cgroups: Collection[str],
    limit_memory: bool,
    keep: Collection[int] = (),
    confine: Callable[[], None] | None = None,
) -> None:
    """Turn the calling process, fresh from a fork, into a contained worker. Raises OSError or ParentGoneError.

    `parent` is the spawner's pid; `cgroups` are the cgroup.procs files to join besides the cgroup it was born in;
    `limit_memory` bounds the address space because no controller bounds the tree's memory; `keep` are the descriptors
    to leave open besides 0, 1 and 2; `confine` takes away what is left to be taken, last of all.
    """
    for path in cgroups:
        with open(path, "wb", buffering=0) as file:
            file.write(b"0")
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above could arm the signal
        raise ParentGoneError
    os.umask(0o077)
    for number in DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir(folder)
    _redirect()
    _close_all_but(keep)
    _limit(limits, limit_memory=limit_memory)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if confine is not None:
        confine()


def _redirect() -> None:
    """Stdin from nowhere, stdout and stderr into FIFOs held open both ways: no EOF, no SIGPIPE, whoever reads."""
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, OUT_FIFO, os.O_RDWR),
        (2, ERR_FIFO, os.O_RDWR),
    ):
        fd = os.open(path, flags)
        if fd == number:
            os.set_inheritable(fd, True)
        else:
            os.dup2(fd, number)
            os.close(fd)


def _close_all_but(keep: Collection[int]) -> None:
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _limit(limits: Limits, *, limit_memory: bool) -> None:
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes if limit_memory else None),
    ):
        if value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))
