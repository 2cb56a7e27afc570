"""Cgroup folders: where ours are, one leaf per channel, watch and limits. Version 2, and version 1 limits beside it.

On a hybrid host the unified (v2) tree holds processes but its memory and pids controllers are bound to v1; a leaf is
then a v2 folder for containment plus v1 folders for the limits that were asked for.
"""

import contextlib
import errno
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.spawn import Limits

CONTROLLERS: Final = ("memory", "pids", "cpu")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup tree: the version 2 one (controllers empty) or a version 1 tree and its controllers."""

    controllers: tuple[str, ...]
    own: Path  # the folder of this process in it


def _unescape(path: str) -> str:
    return path.encode().decode("unicode_escape") if "\\" in path else path


def hierarchies(mountinfo: str, membership: str) -> Iterator[Hierarchy]:
    """Parse /proc/self/mountinfo and /proc/self/cgroup: every cgroup tree this process can see itself in. Pure."""
    paths: dict[tuple[str, ...], str] = {}
    for line in membership.splitlines():
        _, names, path = line.split(":", 2)
        paths[tuple(names.split(",")) if names else ()] = path
    for line in mountinfo.splitlines():
        before, after = line.split(" - ", 1)
        root, mount_point = (_unescape(field) for field in before.split()[3:5])
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            controllers: tuple[str, ...] = ()
        elif kind == "cgroup":
            controllers = next((n for n in paths if n and set(n) <= set(options.split(","))), ("none of ours",))
        else:
            continue
        if controllers not in paths:
            continue
        path = paths[controllers]
        outer = root.rstrip("/")
        inside = path.removeprefix(outer).strip("/") if path == root or path.startswith(outer + "/") else ".."
        if ".." not in inside.split("/"):  # else it is outside of what is mounted, or of our cgroup namespace
            yield Hierarchy(controllers, Path(mount_point) / inside)


def find_hierarchies() -> list[Hierarchy]:
    """The cgroup trees of this process; the version 2 tree first."""
    found = hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    return sorted(found, key=lambda hierarchy: hierarchy.controllers)


def write(path: Path, value: str | int) -> None:
    """Write to a control file, in one piece. Raises OSError."""
    with path.open("wb", buffering=0) as file:
        file.write(str(value).encode())


def subfolders(folder: Path) -> list[Path]:
    """A cgroup's descendants, deepest first."""
    try:
        children = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [path for child in children for path in (*subfolders(child), child)]


def inhabitants(folder: Path) -> list[int]:
    """The processes in a cgroup itself."""
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except OSError:  # removed meanwhile (ENOENT or ENODEV): nobody is in it
        return []


def members(folder: Path) -> list[int]:
    """The processes in a cgroup and below it. A snapshot: look again after acting on it."""
    return [pid for path in (*subfolders(folder), folder) for pid in inhabitants(path)]


def remove(folder: Path) -> bool:
    """Remove an empty cgroup and its descendants; False while something is still in it."""
    try:
        folder.rmdir()  # as a rule that is all, and it needs no descriptor: there may be none left
    except FileNotFoundError:
        return True
    except OSError:
        return _remove_deep(folder)
    return True


def _remove_deep(folder: Path) -> bool:
    try:
        for path in (*subfolders(folder), folder):
            path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


class Watch:
    """Tells when a cgroup becomes empty: cgroup.events under EPOLLPRI, all leaves in one epoll."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._files: dict[int, Callable[[], None]] = {}

    def fileno(self) -> int:
        """For the event loop: readable when `dispatch` has something to do."""
        return self._epoll.fileno()

    def add(self, folder: Path, changed: Callable[[], None]) -> int:
        """Call `changed` whenever the cgroup's populated state changed; the token is for `discard`."""
        fd = os.open(folder / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        os.pread(fd, 256, 0)  # arms the notification: only changes after a read are told
        self._files[fd] = changed
        self._epoll.register(fd, select.EPOLLPRI)
        return fd

    def discard(self, fd: int) -> None:
        """Stop watching."""
        if self._files.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            os.close(fd)

    def dispatch(self) -> None:
        """Take the changes that are there and tell them."""
        for fd, _ in self._epoll.poll(0):
            changed = self._files.get(fd)
            if changed is not None:
                with contextlib.suppress(OSError):  # ENODEV: the folder is gone, so is its last member
                    os.pread(fd, 256, 0)
                changed()

    def close(self) -> None:
        """Close everything."""
        for fd in list(self._files):
            self.discard(fd)
        self._epoll.close()


def populated(folder: Path) -> bool:
    """Whether any live process is in the cgroup or below it. Zombies do not count."""
    try:
        text = (folder / "cgroup.events").read_text()
    except OSError as error:
        # Gone, so is its last member; any other error (no descriptors) proves nothing.
        return error.errno not in {errno.ENOENT, errno.ENODEV}
    return "populated 1" in text


def limit_v2(leaf: Path, limits: Limits) -> None:
    """Write the limits that a version 2 leaf can hold; a controller that is not there has no file."""
    values: list[tuple[str, str | int | None]] = [
        ("memory.max", limits.memory_bytes),
        ("memory.swap.max", None if limits.memory_bytes is None else 0),
        ("memory.oom.group", None if limits.memory_bytes is None else 1),
        ("pids.max", limits.processes),
        ("cpu.weight", limits.cpu_weight),
    ]
    for name, value in values:
        if value is not None and (leaf / name).exists():
            write(leaf / name, value)


def limit_v1(leaf: Path, controller: str, limits: Limits) -> None:
    """Write the limit that a version 1 leaf of this controller holds."""
    if controller == "memory" and limits.memory_bytes is not None:
        write(leaf / "memory.limit_in_bytes", limits.memory_bytes)
        if (leaf / "memory.memsw.limit_in_bytes").exists():
            write(leaf / "memory.memsw.limit_in_bytes", limits.memory_bytes)
    elif controller == "pids" and limits.processes is not None:
        write(leaf / "pids.max", limits.processes)
    elif controller == "cpu" and limits.cpu_weight is not None:
        write(leaf / "cpu.shares", max(2, limits.cpu_weight * 1024 // 100))


def wanted(controller: str, limits: Limits) -> bool:
    """Whether these limits need this controller."""
    value = {"memory": limits.memory_bytes, "pids": limits.processes, "cpu": limits.cpu_weight}[controller]
    return value is not None


def oom_kills(leaf: Path) -> int:
    """How often the kernel killed in this leaf for memory: memory.events (v2) or memory.oom_control (v1)."""
    for name in ("memory.events", "memory.oom_control"):
        try:
            text = (leaf / name).read_text()
        except (FileNotFoundError, OSError):
            continue
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return 0
