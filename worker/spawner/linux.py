"""The few system calls Python 3.11 has no name for: prctl and clone3."""

import ctypes
import os
import struct
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_CHILD_SUBREAPER: Final = 36
PR_GET_TID_ADDRESS: Final = 40

CLONE_PARENT: Final = 0x0000_8000
CLONE_CHILD_CLEARTID: Final = 0x0020_0000
CLONE_CHILD_SETTID: Final = 0x0100_0000
CLONE_INTO_CGROUP: Final = 0x2_0000_0000
SIGCHLD: Final = 17
SYS_CLONE3: Final = 435  # the same number on every architecture
CLONE_ARGS: Final = struct.Struct("=11Q")

# PyDLL keeps the interpreter lock across the call: nothing else may run between clone3 and the hooks below.
_libc = ctypes.PyDLL(None, use_errno=True)


def prctl(option: int, argument: int = 0) -> None:
    """Set one attribute of this process, by number; raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {argument}): {os.strerror(error)}")


def _tid_address() -> int:
    """Where the C library caches this thread's id, or 0 on a kernel that does not tell.

    A child made by a bare clone3 would keep the parent's number there; the kernel can write the right one.
    """
    address = ctypes.c_ulong(0)
    if _libc.prctl(PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0:
        return 0
    return address.value


class CloneUnavailableError(OSError):
    """The kernel, or a seccomp filter, has no clone3 as we need it; fork twice instead."""


def clone(cgroup: int = -1, *, as_sibling: bool = False) -> int:
    """Fork this single-threaded process; 0 in the child, the child's pid in the caller.

    With `cgroup`, a descriptor of a cgroup v2 folder, the child is born in that cgroup, so that there is no moment in
    which it is uncontained. With `as_sibling` the child's parent is the caller's parent, which then gets its exit
    status: a zygote makes children for the spawner and may die without harming them.

    Raises CloneUnavailableError when the kernel refuses the call itself, OSError for other failures (EAGAIN, ENOMEM).
    """
    tid = _tid_address()
    if tid == 0:
        raise CloneUnavailableError("prctl(PR_GET_TID_ADDRESS) is not available")
    flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
    flags |= CLONE_PARENT if as_sibling else 0
    flags |= CLONE_INTO_CGROUP if cgroup >= 0 else 0
    exit_signal = 0 if as_sibling else SIGCHLD  # a sibling inherits the caller's own exit signal
    arguments = ctypes.create_string_buffer(
        CLONE_ARGS.pack(flags, 0, tid, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0)), CLONE_ARGS.size
    )
    sys.stdout.flush()
    sys.stderr.flush()
    hooks = ctypes.pythonapi  # what os.fork() calls around the system call, so that the interpreter knows of it
    hooks.PyOS_BeforeFork()
    pid: int = _libc.syscall(ctypes.c_long(SYS_CLONE3), arguments, ctypes.c_size_t(CLONE_ARGS.size))
    error = ctypes.get_errno()
    if pid == 0:
        hooks.PyOS_AfterFork_Child()
        return 0
    hooks.PyOS_AfterFork_Parent()
    if pid > 0:
        return pid
    if error in {38, 1, 22, 7}:  # ENOSYS, EPERM (seccomp), EINVAL, E2BIG (an older kernel)
        raise CloneUnavailableError(error, f"clone3: {os.strerror(error)}")
    raise OSError(error, f"clone3: {os.strerror(error)}")
