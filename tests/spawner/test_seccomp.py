"""The system call filter: its program by an interpreter of BPF, for both architectures; then the kernel's own."""

import ctypes
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from worker.spawner import seccomp
from worker.spawner.linux import PR_SET_NO_NEW_PRIVS, prctl
from worker.spawner.seccomp import ALLOW, DENIED, EPERM, ERRNO, MACHINES, Instruction, Machine

DENY = ERRNO | EPERM
GETPID = {"x86_64": 39, "aarch64": 172}
FORK_FLAGS = 0x0120_0011  # CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD
THREAD_FLAGS = 0x003D_0F00


def run(code: list[Instruction], number: int, arguments: tuple[int, ...] = (), arch: int = 0) -> int:
    """What a program returns for a call: an interpreter of the few instructions it has."""
    given = [value & 0xFFFF_FFFF_FFFF_FFFF for value in (*arguments, *[0] * 6)[:6]]
    data = struct.pack("=IIQ6Q", number, arch, 0, *given)
    accumulator = place = 0
    while True:
        operation, yes, no, operand = code[place]
        place += 1
        if operation == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif operation == seccomp.AND:
            accumulator &= operand
        elif operation == seccomp.RETURN:
            return operand
        else:
            truth = {
                seccomp.EQUAL: accumulator == operand,
                seccomp.AT_LEAST: accumulator >= operand,
                seccomp.ANY_OF: bool(accumulator & operand),
            }[operation]
            place += yes if truth else no


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def asked(machine: Machine, number: int, *arguments: int, **wishes: bool) -> int:
    return run(seccomp.program(machine, **wishes), number, arguments, machine.arch)


def test_what_is_listed_is_denied_and_what_is_not_is_allowed(machine: Machine) -> None:
    denied = {numbers[machine.column] for numbers in DENIED.values()} - {None}
    special = {machine.clone, machine.clone3, machine.socket, machine.ioctl, machine.prlimit64, machine.kill}
    special |= {machine.socketpair, machine.setpriority, machine.ioprio_set, *machine.scheduling}
    assert not denied & special
    for number in range(600):
        if number not in special:
            assert asked(machine, number) == (DENY if number in denied else ALLOW), number


def test_other_architectures_are_denied(machine: Machine) -> None:
    code = seccomp.program(machine)
    for arch in {0x4000_0003, 0x4000_0028, *(other.arch for other in MACHINES.values())} - {machine.arch}:
        assert run(code, 0, arch=arch) == DENY
    x32 = run(code, seccomp.X32_BIT + 39, arch=machine.arch)
    assert x32 == (DENY if machine.column == 0 else ALLOW)


def test_threads_and_forks_are_allowed_and_namespaces_are_not(machine: Machine) -> None:
    for flags in (FORK_FLAGS, THREAD_FLAGS, 17):
        assert asked(machine, machine.clone, flags) == ALLOW
    for flag in (0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000):
        assert asked(machine, machine.clone, FORK_FLAGS | flag) == DENY
    assert asked(machine, machine.clone3) == ERRNO | seccomp.ENOSYS


@pytest.mark.parametrize(
    ("wishes", "families"),
    [
        ({}, {socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}),
        ({"unix_sockets": True}, {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}),
        ({"network": False}, set()),
        ({"network": False, "unix_sockets": True}, {socket.AF_UNIX}),
    ],
)
def test_kinds_of_sockets(machine: Machine, wishes: dict[str, bool], families: set[int]) -> None:
    allowed = {f for f in range(50) if asked(machine, machine.socket, f, socket.SOCK_STREAM, **wishes) == ALLOW}
    assert allowed == families


def test_arguments_that_reach_other_processes(machine: Machine) -> None:
    assert asked(machine, machine.kill, 1234, 15) == ALLOW
    assert asked(machine, machine.kill, -1, 15) == DENY
    assert asked(machine, machine.prlimit64, 0, 7, 1 << 40, 0) == ALLOW
    assert asked(machine, machine.prlimit64, 77, 7, 0, 1 << 40) == ALLOW, "to look is no harm"
    assert asked(machine, machine.prlimit64, 77, 7, 4096, 0) == DENY
    assert asked(machine, machine.prlimit64, 77, 7, 1 << 40, 0) == DENY, "also a pointer whose low half is zero"
    for number in machine.scheduling:
        assert (asked(machine, number, 0, 5), asked(machine, number, 77, 5)) == (ALLOW, DENY)
    for number, process, others in ((machine.setpriority, 0, (1, 2)), (machine.ioprio_set, 1, (2, 3))):
        assert (asked(machine, number, process, 0), asked(machine, number, process, 77)) == (ALLOW, DENY)
        assert {asked(machine, number, which, 0) for which in others} == {DENY}, "all of a group, or of a user"
    assert asked(machine, machine.ioctl, 0, 0x5401) == ALLOW
    assert asked(machine, machine.ioctl, 0, seccomp.TIOCSTI) == DENY
    assert asked(machine, machine.ioctl, 0, seccomp.TIOCLINUX) == DENY


def test_pairs_of_sockets_that_could_be_given_a_name(machine: Machine) -> None:
    datagram = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC):
        assert asked(machine, machine.socketpair, socket.AF_UNIX, kind) == ALLOW
    assert asked(machine, machine.socketpair, socket.AF_UNIX, datagram) == DENY
    assert asked(machine, machine.socketpair, socket.AF_UNIX, datagram, unix_sockets=True) == ALLOW


def test_a_truncate_that_landlock_sees_to_is_allowed(machine: Machine) -> None:
    number = DENIED[seccomp.TRUNCATE][machine.column]
    assert number is not None
    assert (asked(machine, number), asked(machine, number, truncate=True)) == (DENY, ALLOW)


def test_jumps_stay_within_a_program(machine: Machine) -> None:
    code = seccomp.program(machine, unix_sockets=True)
    assert len(code) < 4096
    for place, (operation, yes, no, _) in enumerate(code):
        if operation not in {seccomp.LOAD, seccomp.AND, seccomp.RETURN}:
            assert max(yes, no) < 256
            assert place + 1 + max(yes, no) < len(code)


def in_child(act: Callable[[], Any]) -> bytes:
    """What a forked child's function returns, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


NEEDS_SECCOMP = pytest.mark.skipif(not seccomp.available(), reason="no seccomp for this machine")


@NEEDS_SECCOMP
def test_the_kernel_takes_it() -> None:
    machine = MACHINES[os.uname().machine]

    def bound() -> list[int]:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        seccomp.Filter(seccomp.program(machine)).install()
        libc = ctypes.CDLL(None, use_errno=True)
        results = []
        for number in (DENIED["unshare"][machine.column], machine.clone3, GETPID[os.uname().machine]):
            ctypes.set_errno(0)
            libc.syscall(ctypes.c_long(number or 0), ctypes.c_long(0), ctypes.c_long(0))
            results.append(ctypes.get_errno())
        return results

    assert in_child(bound) == b"[1, 38, 0]"


@NEEDS_SECCOMP
def test_it_is_there_under_another_filter_as_well() -> None:
    def found() -> list[bool]:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        before = seccomp.available()
        seccomp.Filter(seccomp.program(MACHINES[os.uname().machine])).install()
        return [before, seccomp.available()]

    assert in_child(found) == b"[True, True]"
