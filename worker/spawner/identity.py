"""Who a process is: a pidfd, confirmed by start time, boot id and the lock it holds; never a number alone."""

import errno
import fcntl
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PF_EXITING: Final = 0x4  # linux/sched.h
_FLOCK: Final = struct.Struct("@hhqqi4x")
# What pidfd_open says of a number that no process bears: nobody has it, or a thread (by the kernel's age).
_NO_PROCESS: Final = frozenset({errno.ESRCH, errno.ENOENT, errno.EINVAL})


def boot_id() -> str:
    """Which boot of the kernel this is: a start time means nothing without it. Empty where the kernel hides it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat tells of a process: state letter, parent, session, and start in clock ticks since boot.

    One that is `exiting` still lives, but its memory and with it its environment may be gone.
    """

    state: str
    parent: int
    session: int
    start_time: int
    exiting: bool


def read_stat(pid: int) -> Stat | None:
    """The `Stat` of a process, None when there is none of that number."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name before it may hold anything, also spaces and brackets
    exiting = bool(int(fields[6]) & _PF_EXITING)
    return Stat(fields[0].decode(), int(fields[1]), int(fields[3]), int(fields[19]), exiting)


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process is below another one, which adopts orphans; also when it has ended, and nobody can tell.

    An ancestor that we cannot see (hidepid) is another user's, and nobody between the two.
    """
    stat = read_stat(pid)
    if stat is None:
        return pid > 0
    while stat is not None and stat.parent > 0:
        if stat.parent == ancestor:
            return True
        stat = read_stat(stat.parent)
    return False


def lock_holder(path: Path) -> int | None:
    """The process that holds the write lock on a worker's lock file, by the kernel's word; None when nobody does.

    What a re-adoption checks: that the process of a record is still the worker of that very folder.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(fd)
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else pid


def signal_pidfd(pidfd: int, number: int) -> bool:
    """Send a signal to the process behind a pidfd; False when it has ended already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def open_pidfd(pid: int) -> int | None:
    """A pidfd of the process that bears this number at present; None when none does. Raises OSError."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise


def open_if(pid: int, start_time: int) -> int | None:
    """A pidfd of the process that bears this number and began at this time; None when it is gone. Raises OSError.

    The order matters: once the pidfd is open the number cannot be given to anybody else behind our back, so a start
    time read afterwards is that of the process the pidfd means.
    """
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return None
    try:
        stat = read_stat(pid)
    except OSError:
        os.close(pidfd)
        raise
    if stat is None or stat.start_time != start_time:
        os.close(pidfd)
        return None
    return pidfd
