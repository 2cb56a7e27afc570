"""A seccomp filter that denies what no worker needs and a kernel is most often attacked by. Raw BPF, no package.

Denied calls fail with EPERM; the rest, also what is newer than this table, is allowed. Calls of another architecture
(i386, x32) are all denied, for their numbers mean something else.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

PR_SET_SECCOMP: Final = 22
MODE_FILTER: Final = 2

ALLOW: Final = 0x7FFF_0000
ERRNO: Final = 0x0005_0000
EPERM: Final = 1
ENOSYS: Final = 38
X32_BIT: Final = 0x4000_0000

# struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits each (little endian: the low half first).
NR: Final = 0
ARCH: Final = 4
ARGUMENTS: Final = 16

LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
ANY_OF: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; clone() has no CLONE_NEWTIME
NAMESPACES: Final = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000
PRIO_PROCESS: Final = 0
IOPRIO_WHO_PROCESS: Final = 1
SOCK_TYPE_MASK: Final = 0xF
TIOCSTI: Final = 0x5412  # type into a terminal
TIOCLINUX: Final = 0x541C
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)

# Landlock knows it from ABI 3 on, and need not be helped then; a file that is open can be shortened all the same.
TRUNCATE: Final = "truncate"

# The number of each call on x86-64, and in the table that aarch64 shares with newer architectures.
DENIED: Final[dict[str, tuple[int | None, int | None]]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "perf_event_open": (298, 241),
    "migrate_pages": (256, 238),
    "bpf": (321, 280),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "syslog": (103, 116),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "uselib": (134, None),
    "vhangup": (153, 58),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    TRUNCATE: (76, 45),
}


class Machine(NamedTuple):
    """An architecture: AUDIT_ARCH_*, its column in DENIED, and the calls whose arguments matter."""

    arch: int
    column: int
    clone: int
    socket: int
    ioctl: int
    prlimit64: int
    kill: int
    socketpair: int
    setpriority: int
    ioprio_set: int
    scheduling: tuple[int, ...]  # sched_setparam, sched_setscheduler, sched_setattr
    clone3: int = 435


MACHINES: Final = {
    "x86_64": Machine(
        0xC000_003E,
        0,
        clone=56,
        socket=41,
        ioctl=16,
        prlimit64=302,
        kill=62,
        socketpair=53,
        setpriority=141,
        ioprio_set=251,
        scheduling=(142, 144, 314),
    ),
    "aarch64": Machine(
        0xC000_00B7,
        1,
        clone=220,
        socket=198,
        ioctl=29,
        prlimit64=261,
        kill=129,
        socketpair=199,
        setpriority=140,
        ioprio_set=30,
        scheduling=(118, 119, 274),
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def argument(number: int, *, high: bool = False) -> int:
    """Where half of a call's argument lies in seccomp_data."""
    return ARGUMENTS + 8 * number + (4 if high else 0)


def program(
    machine: Machine, *, network: bool = True, unix_sockets: bool = False, truncate: bool = False
) -> list[Instruction]:
    """The filter; `truncate`: Landlock sees to it. Pure."""
    deny = (RETURN, 0, 0, ERRNO | EPERM)
    allow = (RETURN, 0, 0, ALLOW)
    code: list[Instruction] = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, machine.arch), deny, (LOAD, 0, 0, NR)]
    if machine.column == 0:
        code += [(AT_LEAST, 0, 1, X32_BIT), deny]
    for name, numbers in DENIED.items():
        number = numbers[machine.column]
        if number is not None and not (truncate and name == TRUNCATE):
            code += [(EQUAL, 0, 1, number), deny]
    # Its flags are in memory, where no filter can look; C libraries fall back to clone.
    code += [(EQUAL, 0, 1, machine.clone3), (RETURN, 0, 0, ERRNO | ENOSYS)]

    def look(number: int, *body: Instruction) -> None:
        code.extend([(EQUAL, 0, len(body), number), *body])

    look(machine.clone, (LOAD, 0, 0, argument(0)), (ANY_OF, 0, 1, NAMESPACES), deny, allow)
    # All processes of the user.
    look(machine.kill, (LOAD, 0, 0, argument(0)), (EQUAL, 0, 1, 0xFFFF_FFFF), deny, allow)
    look(
        machine.ioctl,
        (LOAD, 0, 0, argument(1)),
        *((EQUAL, 0, 1, TIOCSTI), deny),
        *((EQUAL, 0, 1, TIOCLINUX), deny),
        allow,
    )
    # New limits for another process: allowed if it is this one (0), or if none are given (a null pointer).
    look(
        machine.prlimit64,
        *((LOAD, 0, 0, argument(0)), (EQUAL, 0, 1, 0), allow),
        *((LOAD, 0, 0, argument(2)), (EQUAL, 0, 2, 0), (LOAD, 0, 0, argument(2, high=True)), (EQUAL, 1, 0, 0)),
        *(deny, allow),
    )
    # Another process's share of the processors: with these alone a worker could starve whoever watches over it.
    for number in machine.scheduling:
        look(number, (LOAD, 0, 0, argument(0)), (EQUAL, 0, 1, 0), allow, deny)
    for number, of_process in ((machine.setpriority, PRIO_PROCESS), (machine.ioprio_set, IOPRIO_WHO_PROCESS)):
        look(
            number,
            *((LOAD, 0, 0, argument(0)), (EQUAL, 0, 3, of_process)),
            *((LOAD, 0, 0, argument(1)), (EQUAL, 0, 1, 0), allow),
            deny,
        )
    if not unix_sockets:  # an end of a pair of this type can be sent from, and bound, to any name
        kind = ((LOAD, 0, 0, argument(1)), (AND, 0, 0, SOCK_TYPE_MASK), (EQUAL, 0, 1, int(socket.SOCK_DGRAM)))
        look(machine.socketpair, *kind, deny, allow)
    families = (*(FAMILIES if network else ()), *((socket.AF_UNIX,) if unix_sockets else ()))
    kinds = [step for family in families for step in ((EQUAL, 0, 1, int(family)), allow)]
    look(machine.socket, (LOAD, 0, 0, argument(0)), *kinds, deny)
    return [*code, allow]


def assembled(code: Iterable[Instruction]) -> bytes:
    """The program as an array of ``struct sock_filter``."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def available() -> bool:
    """Whether this kernel filters system calls, and we have a table for this machine."""
    if os.uname().machine not in MACHINES:
        return False
    # A kernel that takes filters looks for one where there is none: EFAULT, and nothing is bound. PR_GET_SECCOMP would
    # not tell: under the filter of a unit or a container it answers 2, or the filter does not know it.
    _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Filter:
    """A program where the kernel can take it from."""

    def __init__(self, code: Iterable[Instruction]) -> None:
        data = assembled(code)
        self._buffer = ctypes.create_string_buffer(data, len(data))
        self._program = _Program(len(data) // 8, ctypes.cast(self._buffer, ctypes.c_char_p))

    def install(self) -> None:
        """Bind this process and all it starts, for good; no_new_privs must be set. Raises OSError."""
        if _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), ctypes.byref(self._program), 0, 0) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"seccomp: {os.strerror(error)}")
