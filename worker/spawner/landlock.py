"""Landlock: which files, ports and processes a process and all its descendants can reach. By ctypes, by kernel ABI.

A ruleset allows; what it handles and does not allow is denied from `restrict` on, for good. What the kernel's ABI does
not know is not handled: `rights` and `missing` say what that is (Landlock's ABI 1 came with Linux 5.13).
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

SYS_CREATE_RULESET: Final = 444  # the same numbers on every architecture
SYS_ADD_RULE: Final = 445
SYS_RESTRICT_SELF: Final = 446
CREATE_RULESET_VERSION: Final = 1
RULE_PATH_BENEATH: Final = 1
RULE_NET_PORT: Final = 2

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
MAKE_CHAR: Final = 1 << 6
MAKE_BLOCK: Final = 1 << 11
REFER: Final = 1 << 13
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15

BIND_TCP: Final = 1 << 0
CONNECT_TCP: Final = 1 << 1

SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1 << 0
SCOPE_SIGNAL: Final = 1 << 1

LIST: Final = READ_DIR
READ: Final = EXECUTE | READ_FILE | READ_DIR
WRITE: Final = ((1 << 16) - 1) & ~(MAKE_CHAR | MAKE_BLOCK)  # nobody needs to make a device
OF_A_FILE: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_libc = ctypes.CDLL(None, use_errno=True)


class Rights(NamedTuple):
    """What a kernel can handle: a mask each for files, TCP ports, and what stays within."""

    files: int
    ports: int
    scopes: int

    def packed(self) -> bytes:
        """The ``struct landlock_ruleset_attr``; an older kernel takes a longer one whose rest is zero."""
        return struct.pack("=QQQ", self.files, self.ports, self.scopes)


# The ABI in which each came, and what a worker can do, or not, without it.
GAPS: Final = (
    (2, "files cannot be renamed or linked from one folder to another, not even within a worker's own"),
    (4, "TCP ports cannot be restricted"),
    (5, "devices that can be opened can be configured"),
    (6, "other processes of the same user can be signalled, and reached by abstract sockets"),
)


def abi() -> int:
    """The version of the kernel's Landlock; 0: it has none, or it is switched off."""
    version: int = _libc.syscall(
        ctypes.c_long(SYS_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(CREATE_RULESET_VERSION)
    )
    return max(version, 0)


def rights(version: int) -> Rights:
    """What an ABI can handle. Pure."""
    if version < 1:
        return Rights(0, 0, 0)
    files = (1 << 13) - 1
    for least, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        files |= right if version >= least else 0
    ports = BIND_TCP | CONNECT_TCP if version >= 4 else 0
    scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if version >= 6 else 0
    return Rights(files, ports, scopes)


def missing(version: int) -> tuple[str, ...]:
    """What an ABI leaves open, in words. Pure."""
    if version < 1:
        return ("files cannot be restricted: the kernel has no Landlock", *(text for least, text in GAPS if least > 2))
    return tuple(f"{text} (Landlock ABI {version}; {least} is needed)" for least, text in GAPS if version < least)


class Ruleset:
    """A ruleset that is being put together. Raises OSError. `fd` is closed by `restrict` or `close`."""

    def __init__(self, handled: Rights) -> None:
        self._handled = handled
        attributes = handled.packed()
        # The size of what is not zero: an older kernel knows a shorter structure.
        size = 8 if not handled.ports and not handled.scopes else 16 if not handled.scopes else 24
        self.fd = _call(SYS_CREATE_RULESET, ctypes.c_char_p(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))

    def allow(self, path: str, access: int) -> bool:
        """Allow `access` to what is at and below a path, as it is now; False when there is nothing we can see."""
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            access &= self._handled.files
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                access &= OF_A_FILE
            if access:
                rule = struct.pack("=Qi", access, place)
                _call(SYS_ADD_RULE, self.fd, RULE_PATH_BENEATH, ctypes.c_char_p(rule), ctypes.c_uint32(0))
        finally:
            os.close(place)
        return True

    def allow_ports(self, ports: Iterable[int], access: int) -> None:
        """Allow TCP ports for `access`."""
        for port in ports:
            rule = struct.pack("=QQ", access, port)
            _call(SYS_ADD_RULE, self.fd, RULE_NET_PORT, ctypes.c_char_p(rule), ctypes.c_uint32(0))

    def restrict(self) -> None:
        """Bind this process and all it starts from now on, for good; no_new_privs must be set."""
        _call(SYS_RESTRICT_SELF, self.fd, ctypes.c_uint32(0))
        self.close()

    def close(self) -> None:
        """Forget it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock ({number}): {os.strerror(error)}")
    return result
