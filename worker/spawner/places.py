"""Where things lie that any worker needs, and what is granted of a folder that holds more than a worker may see."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from glob import iglob
from pathlib import Path
from typing import Final, NamedTuple

from worker.spawn import Isolation
from worker.spawner import landlock

# Programs and libraries, and what they look up of the machine: nothing that only its administrator should read.
SYSTEM: Final = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store"),
    *("/sys/devices", "/sys/class", "/sys/bus", "/sys/fs/cgroup", "/sys/kernel/mm", "/proc"),
    # What resolv.conf leads to is replaced, and a rule is about the file that was there: hence the whole folder.
    *("/run/systemd/resolve", "/run/resolvconf"),
)
OF_ETC: Final = (
    *("ssl/certs", "ssl/*.cnf", "ssl/*.pem", "pki/tls/certs", "pki/ca-trust", "pki/java", "ca-certificates*"),
    *("crypto-policies", "resolv.conf", "hosts", "host.conf", "hostname", "nsswitch.conf", "gai.conf", "networks"),
    *("services", "protocols", "rpc", "ethers", "passwd", "group", "subuid", "subgid", "login.defs", "shells"),
    *("ld.so.*", "ld-musl-*", "localtime", "timezone", "adjtime", "locale*", "default/locale", "inputrc", "terminfo"),
    *("os-release", "*-release", "debian_version", "machine-id", "mime.types", "mailcap", "magic*", "papersize"),
    *("alternatives", "fonts", "python*", "java*", "perl", "nanorc", "vulkan", "OpenCL", "glvnd"),
    *("ImageMagick*", "profile", "bash.bashrc", "dpkg/origins"),
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the C library's name for it: without it there are no semaphores

DEVICE: Final = landlock.READ_FILE | landlock.WRITE_FILE | landlock.TRUNCATE | landlock.IOCTL_DEV


class Grant(NamedTuple):
    """A path, with all below it, and the Landlock rights to it."""

    path: str
    access: int


class Places(NamedTuple):
    """What every worker of this interpreter is granted; `imports` are where Python finds modules."""

    grants: tuple[Grant, ...]
    imports: tuple[str, ...]
    prefixes: tuple[str, ...]  # of all that lies in the grants
    links: tuple[tuple[str, str], ...]  # other names of what is granted, each with the real one


def places() -> Places:
    """Look around, once: what is there at the start of this process."""
    python = [*_import_paths(), sys.prefix, sys.base_prefix, sys.exec_prefix]
    names = [*SYSTEM, *(path for pattern in OF_ETC for path in iglob(f"/etc/{pattern}")), *python]
    read = [Grant(path, landlock.READ) for path in _distinct(names)]
    devices = [Grant(path, DEVICE) for path in DEVICES]
    grants = (*read, *devices, Grant(SHARED_MEMORY, landlock.WRITE))
    prefixes = tuple(f"{grant.path}/" for grant in grants)
    return Places(grants, tuple(_distinct(python)), prefixes, tuple(_links(names)))


def _import_paths() -> list[str]:
    """Without the working folder that ``python -m`` puts in front: it is whoever started us's, not an import path."""
    return [path for path in (sys.path if sys.flags.safe_path else sys.path[1:]) if path]


def _distinct(paths: Iterable[str]) -> list[str]:
    """Their real names, those that are there and lie in none of the others."""
    real = sorted({os.path.realpath(path) for path in paths if os.path.exists(path)})
    return [path for path in real if not any(is_inside(path, other) for other in real)]


def _links(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in sorted(set(names)):
        real = os.path.realpath(name)
        if real != name and os.path.exists(real):
            yield name, real


def is_inside(path: str, folder: str) -> bool:
    """Whether a path lies below a folder. Both are real names. Pure."""
    return path != folder and path.startswith(folder.rstrip("/") + "/")


def granted(isolation: Isolation, folder: str, base: Places) -> Iterator[Grant]:
    """What one worker is granted besides the base: its own folder, and what was named for it."""
    yield Grant(os.path.realpath(folder), landlock.WRITE)
    if isolation.read or isolation.write:
        hidden = isolation.hidden
        fixed = (*(path for path in isolation.fixed if os.path.lexists(path)), *base.imports)
        for path in _named(isolation.read, isolation):
            yield from _carve(Grant(path, landlock.READ), hidden, ())
        for path in _named(isolation.write, isolation):
            yield from _carve(Grant(path, landlock.WRITE), hidden, fixed)


def _named(paths: Sequence[str], isolation: Isolation) -> Iterator[str]:
    """The real names of paths that a graph names, without those that a worker may have made lead elsewhere.

    What lies in a folder that is granted for writing is granted with it, and could be a link by now; and nothing leads
    to what is hidden that does not say so.
    """
    folders = [os.path.realpath(folder) for folder in isolation.write]
    for path in paths:
        literal, real = os.path.abspath(path), os.path.realpath(path)
        is_within = any(is_inside(literal, folder) for folder in (*isolation.write, *folders))
        leads_astray = real != literal and any(real == other or is_inside(real, other) for other in isolation.hidden)
        if not is_within and not leads_astray:
            yield real


def is_whole(isolation: Isolation, base: Places) -> bool:
    """Whether nothing hidden lies in the base, which then is the same for all workers."""
    return not any(path.startswith(base.prefixes) for path in isolation.hidden)


def base_of(isolation: Isolation, base: Places) -> Iterator[Grant]:
    """The base without what is hidden in it, also what is not there yet."""
    for grant in base.grants:
        yield from _carve(grant, isolation.hidden, ())


def _carve(grant: Grant, hidden: Sequence[str], fixed: Sequence[str]) -> Iterator[Grant]:
    """A grant, or, when it holds what is hidden or fixed, its list of names and the grants of what it else holds.

    Landlock has no exceptions. What comes into such a folder later is not granted.
    """
    path, access = grant
    if not any(is_inside(other, path) for other in (*hidden, *fixed)):
        yield grant
        return
    yield Grant(path, landlock.LIST)
    try:
        with os.scandir(path) as entries:
            found = [entry.path for entry in entries if not entry.is_symlink()]
    except OSError:
        return
    for inside in found:
        if inside in fixed and inside not in hidden:
            yield from _carve(Grant(inside, access & landlock.READ), hidden, ())
        elif inside not in hidden:
            yield from _carve(Grant(inside, access), hidden, fixed)


def source_root() -> str:
    """The folder that this package lies in."""
    return str(Path(__file__).resolve().parents[2])
